"""The stores: does each answer, and does it hold this repository?"""

from __future__ import annotations

from collections.abc import Iterator

from replicator.core.finding import Finding
from replicator.doctor.finding import STORES, finding_of
from replicator.doctor.subject import Patient
from replicator.errors import ObjectAbsent, ReplicatorError
from replicator.repository.repository import StoreDocuments, read_root


def check_stores(patient: Patient) -> Iterator[Finding]:
    """Findings about each store."""
    roots: dict[str, str] = {}
    for name, store in patient.stores().items():
        try:
            roots[name] = str(read_root(StoreDocuments(store)).body["root"])
        except ObjectAbsent:
            yield Finding(
                "repository_absent",
                f"store {name} answers and holds no repository of {patient.name}",
                f"Run `replicator init {patient.name}`.",
                STORES,
                store=name,
            )
        except ReplicatorError as error:
            yield finding_of(error, STORES, store=name)
    if len(set(roots.values())) > 1:
        held = ", ".join(f"{name} {root}" for name, root in roots.items())
        hint = "Compare with the recovery sheet, and correct the URL of the store that is wrong."
        yield Finding("conflict", f"the stores hold different repositories: {held}", hint, STORES)

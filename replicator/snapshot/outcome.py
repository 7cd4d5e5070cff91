"""What a take says of the snapshot that it made: its row, and what the operator must know.

Owns the words. Pure: it reads nothing, and decides nothing about the snapshot.
"""

from __future__ import annotations

from collections.abc import Mapping

from replicator.core.finding import Finding
from replicator.errors import ReplicatorError
from replicator.repository.layout import manifest_name
from replicator.repository.manifests import SnapshotFacts
from replicator.snapshot.job import PAGE_CHECKSUM, STORE_LACKS
from replicator.snapshot.row import SnapshotRow


def row_of(facts: SnapshotFacts, size: int, added: int, holders: tuple[str, ...]) -> SnapshotRow:
    """The row of `snapshot list`; bytes in all, and added."""
    damaged = bool(facts.findings)
    return SnapshotRow(facts.snapshot, facts.stop_us, facts.parent, size, added, False, holders, damaged)


def findings_of(facts: SnapshotFacts, left_out: Mapping[str, ReplicatorError]) -> list[Finding]:
    """Damaged pages, and stores that lack the snapshot with their reasons."""
    label, name = facts.snapshot.label, manifest_name(facts.snapshot)
    hint = "The snapshot is complete and marked as damaged; repair the source, then take another."
    damage = [Finding(PAGE_CHECKSUM, text, hint, object=name, affects=label) for text in facts.findings]
    lacking = [
        Finding(
            STORE_LACKS,
            f"store {store} lacks the snapshot: {error.message}",
            error.hint,
            object=name,
            store=store,
            affects=label,
        )
        for store, error in sorted(left_out.items())
    ]
    return damage + lacking

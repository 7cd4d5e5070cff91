"""`init --accept-system`: an operator says that another cluster took the place of the one that was followed.

Owns the note of it. A new system identifier (pg_upgrade, a new server) never replaces the source by itself: it could be
the wrong server. Nothing of the former cluster is touched.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from replicator.errors import ReplicatorError, StoreUnavailable
from replicator.repository.catalog import system_ids
from replicator.repository.notes import accepted_system, system_note
from replicator.repository.repository import Repository, check_store

ACCEPTED, UNCHANGED = "accepted", "unchanged"


@dataclass(frozen=True)
class Accepted:
    """By store: `accepted`, or `unchanged` where it said so before; `failed`: the stores that did not take the note."""

    stores: dict[str, str] = field(default_factory=dict)
    failed: dict[str, ReplicatorError] = field(default_factory=dict)


def accept_system(repository: Repository, system_id: int, now: datetime) -> Accepted:
    """Put the note into every store that does not say so already; one that is away holds up no other.

    Raises StoreUnavailable when no store took it, UntrustedRepository.
    """
    said: dict[str, tuple[str, int] | None] = {}
    result = Accepted()
    for name, store in repository.stores.items():
        try:
            if not check_store(repository, name):
                hint = f"Run `replicator init {repository.cluster}`."
                raise StoreUnavailable(f"store {name} holds no repository", hint=hint)
            said[name] = accepted_system(store, system_ids(store), repository.keyring)
        except StoreUnavailable as error:
            result.failed[name] = error
    # The newest note counts, so this one must be newer than any there is, whatever this host's clock says.
    newest = max((_time(found[0]) for found in said.values() if found is not None), default=now)
    note, data = system_note(repository.keyring, system_id, max(now, newest + timedelta(microseconds=1)))
    for name, found in said.items():
        if found is not None and found[1] == system_id:
            result.stores[name] = UNCHANGED
            continue
        try:
            repository.store(name).put(note, data)
            result.stores[name] = ACCEPTED
        except StoreUnavailable as error:
            result.failed[name] = error
    if not result.stores:
        raise next(iter(result.failed.values()))
    return result


def _time(text: str) -> datetime:
    return datetime.strptime(text, "%Y%m%dT%H%M%S%fZ").replace(tzinfo=UTC)

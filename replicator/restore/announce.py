"""Telling prune that a snapshot is being restored, for as long as that lasts, where this host may put a note.

Owns the note and its renewal. It never stops a restore: where it can't be put, a long restore is warned of instead.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from threading import Event, Thread

from replicator.errors import AlreadyExists, ReplicatorError
from replicator.repository.notes import restoring_note
from replicator.restore.plan import RecoveryPlan
from replicator.seal.keyring import Keyring
from replicator.store.protocol import Store

_log = logging.getLogger(__name__)

#: A note counts for a day.
_DAY_S, _AGAIN_S = 86400.0, 43200.0


@contextmanager
def announced(store: Store, keyring: Keyring, plan: RecoveryPlan, *, again_s: float = _AGAIN_S) -> Iterator[list[str]]:
    """A context in which the store says that `plan`'s snapshot is being restored. What to warn of, when it can't."""
    if not _put(store, keyring, plan):
        yield _warning(plan)
        return
    ended = Event()

    def renew() -> None:
        while not ended.wait(again_s):
            _put(store, keyring, plan)

    thread = Thread(target=renew, name="restoring", daemon=True)
    thread.start()
    try:
        yield []
    finally:
        ended.set()
        thread.join()


def _put(store: Store, keyring: Keyring, plan: RecoveryPlan) -> bool:
    if not keyring.can_write:
        return False
    snapshot = plan.snapshot
    name, body = restoring_note(keyring, snapshot.system_id, snapshot.label, str(plan.target), datetime.now(UTC))
    try:
        store.put(name, body)
    except AlreadyExists:
        return True
    except ReplicatorError as error:
        _log.debug("store %s: the restore is not announced: %s", store.name, error.message)
        return False
    return True


def _warning(plan: RecoveryPlan) -> list[str]:
    if plan.expected_s < _DAY_S:
        return []
    return [
        "this may take longer than a day, and this host may not put a note that keeps what it needs: "
        "pin the snapshot elsewhere, or let nobody prune meanwhile"
    ]

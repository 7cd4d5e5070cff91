"""Which cluster a store says is followed: asked once, and again while the source is one that is not ours.

Owns that question to one store. What the answer means is decided by the handshake.
"""

from __future__ import annotations

from replicator.repository.catalog import system_ids
from replicator.repository.notes import accepted_system
from replicator.store.protocol import Store
from replicator.stream.board import Board

#: The source's state while it is a cluster that is not ours.
FOREIGN = "foreign"
#: Seconds between two questions whether such a source was accepted.
_EVERY = 2.0


class Followed:
    """One per store."""

    def __init__(self, board: Board, name: str, store: Store) -> None:
        self._board = board
        self._view = board.stores[name]
        self._store = store
        self._asked_at = -1e9

    def ask(self) -> None:
        """Read which clusters the store holds, and which of them was accepted last. Raises StoreUnavailable."""
        found = system_ids(self._store)
        self._view.accepted = accepted_system(self._store, found, self._board.repository.keyring)
        self._view.system_ids, self._view.asked = found, True
        self._asked_at = self._board.clock.monotonic()

    def ask_again(self) -> None:
        """Where it is time and of use: an operator may have accepted the source meanwhile."""
        if self._board.source.state == FOREIGN and self._board.clock.monotonic() - self._asked_at > _EVERY:
            self.ask()

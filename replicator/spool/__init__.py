"""The spool: fsynced WAL on this host, and the sealed objects that not every store has yet.

Owns files and positions. Never talks to a server or a store, and never seals.
"""

from replicator.spool.directory import remove_spool, spooled_system_ids
from replicator.spool.position import Position
from replicator.spool.sealed import Describe, SealedFile, SealedObjects
from replicator.spool.spool import Spool

__all__ = ["Describe", "Position", "SealedFile", "SealedObjects", "Spool", "remove_spool", "spooled_system_ids"]

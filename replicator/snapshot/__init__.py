"""Snapshots: a base backup into the repository, and the list of those that are there.

Owns the way from BASE_BACKUP to the manifest. It never restores, never deletes, and knows no daemon.
"""

from replicator.core.finding import Finding
from replicator.snapshot.job import SnapshotRow, TakeJob, TakeResult
from replicator.snapshot.take import take
from replicator.snapshot.view import Listing, list_rows, show

__all__ = ["Finding", "Listing", "SnapshotRow", "TakeJob", "TakeResult", "list_rows", "show", "take"]

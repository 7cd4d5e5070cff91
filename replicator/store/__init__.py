"""Stores: places for named immutable objects. A directory or an S3 bucket, behind one protocol.

Owns names, bytes and the errors of reaching them. Never knows what an object means, and never opens or seals one.
"""

from replicator.store.names import valid_name, validate_name
from replicator.store.open import open_store
from replicator.store.protocol import (
    Driver,
    ObjectInfo,
    ObjectWriter,
    Properties,
    ReadableStore,
    Store,
    Upload,
)
from replicator.store.resilient import ResilientStore, StoreStatistics
from replicator.store.wrappers import Prefixed, ReadOnly

__all__ = [
    "Driver",
    "ObjectInfo",
    "ObjectWriter",
    "Prefixed",
    "Properties",
    "ReadOnly",
    "ReadableStore",
    "ResilientStore",
    "Store",
    "StoreStatistics",
    "Upload",
    "open_store",
    "valid_name",
    "validate_name",
]

"""Making a snapshot exist in one store: its manifest is put once, whoever was quicker.

Owns the answer to "it is there already": a mirror may have copied it from a store that had it a moment earlier.
"""

from __future__ import annotations

from pathlib import Path

from replicator.errors import AlreadyExists
from replicator.repository.objects import read_header
from replicator.seal.keyring import Keyring
from replicator.store.protocol import Store


def put_once(store: Store, name: str, path: Path, keyring: Keyring, attempt: int) -> None:
    """Put a manifest; well when this very attempt's is there already. Raises AlreadyExists for another's."""
    try:
        store.put(name, path)
    except AlreadyExists:
        if read_header(store, name, keyring).attempt != attempt:
            raise

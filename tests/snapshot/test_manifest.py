"""A manifest that is there already: put by a mirror it is ours, put by another attempt it is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from replicator.errors import AlreadyExists
from replicator.repository.layout import manifest_name
from replicator.snapshot.manifest import put_once
from tests.upkeep.depot import Depot


def test_a_mirror_may_be_quicker(tmp_path: Path) -> None:
    """The same attempt's manifest is well, wherever it came from; another attempt's is refused."""
    depot = Depot(tmp_path)
    pack = depot.pack("20260101T000000Z", 0, "local", "offsite")
    for number in (2, 3):
        depot.wal(number, "local", "offsite")
    name = manifest_name(depot.snapshot("20260101T000000Z", 2, 3, [pack], "local"))
    path = tmp_path / "manifest"
    path.write_bytes(depot.made[name])
    depot.mirror()
    store, keyring = depot.repository.store("offsite"), depot.repository.keyring
    put_once(store, name, path, keyring, 1)
    with pytest.raises(AlreadyExists):
        put_once(store, name, path, keyring, 2)

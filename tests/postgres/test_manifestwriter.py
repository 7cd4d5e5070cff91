"""A backup manifest of our own: what pg_verifybackup reads (that it accepts one: tests/snapshot/test_local.py)."""

from __future__ import annotations

import io
import json

import pytest

from replicator.core.lsn import Lsn
from replicator.postgres.backupmanifest import ManifestCheck
from replicator.postgres.manifestwriter import ManifestWriter


@pytest.mark.parametrize(("version", "told"), [(150000, 1), (170000, 2)])
def test_a_manifest(version: int, told: int) -> None:
    """It is JSON, ends with its own checksum, and from 17 on names the cluster; a name that is not UTF-8 is in hex."""
    file = io.BytesIO()
    writer = ManifestWriter(file, version, 77)
    writer.add('base/1/"2"', 8192, 0, 0x01020304)
    writer.add("log/\udcff", 0, 1, 0)
    writer.finish(3, Lsn(0x2000028), Lsn(0x2000100))
    check = ManifestCheck()
    check.feed(file.getvalue())
    check.finish()
    found = json.loads(file.getvalue())
    assert found["PostgreSQL-Backup-Manifest-Version"] == told
    assert found.get("System-Identifier") == (77 if told == 2 else None)
    assert found["WAL-Ranges"] == [{"Timeline": 3, "Start-LSN": "0/2000028", "End-LSN": "0/2000100"}]
    first, second = found["Files"]
    assert first == {
        "Path": 'base/1/"2"', "Size": 8192, "Last-Modified": "1970-01-01 00:00:00 GMT",
        "Checksum-Algorithm": "CRC32C", "Checksum": "04030201",
    }  # fmt: skip
    assert second["Encoded-Path"] == b"log/\xff".hex()
    assert "Path" not in second

"""The manifest's own checksum."""

import hashlib

import pytest

from replicator.errors import IntegrityError
from replicator.postgres.backupmanifest import ManifestCheck


def manifest(lines: int = 50) -> bytes:
    """Lines and their checksum, as PostgreSQL writes them."""
    body = b'{ "PostgreSQL-Backup-Manifest-Version": 1,\n' + b'{ "Path": "base/1/1" },\n' * lines
    return body + b'"Manifest-Checksum": "' + hashlib.sha256(body).hexdigest().encode() + b'"}\n'


def check(data: bytes, size: int) -> None:
    """Feed in pieces."""
    checker = ManifestCheck()
    for at in range(0, len(data), size):
        checker.feed(data[at : at + size])
    checker.finish()


@pytest.mark.parametrize("size", [1, 50, 511, 10**6])
def test_a_whole_manifest_passes_however_it_is_cut(size: int) -> None:
    """The check does not depend on the cuts."""
    check(manifest(), size)
    check(manifest(0), size)


@pytest.mark.parametrize("at", [0, 100, -40, -2])
def test_a_changed_byte_is_an_integrity_error(at: int) -> None:
    """In the body as in the last line."""
    data = bytearray(manifest())
    data[at] ^= 1
    with pytest.raises(IntegrityError):
        check(bytes(data), 300)


def test_a_cut_manifest_is_an_integrity_error() -> None:
    """No last line, or half of it."""
    for data in (b"", manifest()[:-100], manifest()[:-20]):
        with pytest.raises(IntegrityError):
            check(data, 300)

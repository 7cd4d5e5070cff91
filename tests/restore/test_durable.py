"""Making a tree durable: at once where the file system is known, file by file elsewhere, with the same result."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator.restore.durable import Flusher, can_sync_at_once, sync_at_once


@pytest.fixture
def handle(tmp_path: Path) -> Iterator[int]:
    """An open directory."""
    found = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield found
    os.close(found)


def test_what_is_no_known_file_system_is_synced_file_by_file(handle: int) -> None:
    """/proc is on none of those that are trusted; the answer for any directory is yes or no, never an error."""
    place = os.open("/proc/self", os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert not can_sync_at_once(place)
    finally:
        os.close(place)
    assert can_sync_at_once(handle) in (True, False)


def test_a_sync_that_fails_says_so(handle: int) -> None:
    """A handle that is none is an error, not silence."""
    sync_at_once(handle)
    with pytest.raises(OSError, match="descriptor"):
        sync_at_once(10_000)


def test_the_flusher_ends_with_its_block(handle: int, tmp_path: Path) -> None:
    """It works beside the writer and is gone afterwards; without a handle it does nothing."""
    for given in (handle, None):
        with Flusher(given, stride=1) as flusher:
            (tmp_path / "file").write_bytes(b"x")
            flusher.written(1)

"""Writes past the page cache: what they take, what they leave to others, and that the bytes are the same."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from replicator.store.direct import LARGE, SECTOR, room, write_past_cache
from replicator.store.directory import DirectoryStore


def filled(size: int) -> memoryview:
    """Memory that can be written from, with random bytes."""
    found = room(size)
    found[:] = os.urandom(size)
    return found


def can(directory: Path) -> bool:
    """Whether the file system writes past its cache."""
    try:
        os.close(os.open(directory / "probe", os.O_CREAT | os.O_WRONLY | os.O_DIRECT))
    except OSError:
        return False
    return True


def test_whole_sectors_are_written(tmp_path: Path) -> None:
    """As far as they are whole, and the handle is as it was; the others are left to who asked."""
    data = filled(LARGE + SECTOR + 100)
    handle = os.open(tmp_path / "file", os.O_CREAT | os.O_RDWR)
    flags = fcntl.fcntl(handle, fcntl.F_GETFL)
    written = write_past_cache(handle, data, SECTOR)
    assert written == (LARGE + SECTOR if can(tmp_path) else 0)
    assert os.pread(handle, written, SECTOR) == data[:written]
    assert fcntl.fcntl(handle, fcntl.F_GETFL) == flags
    os.close(handle)


@pytest.mark.parametrize(
    ("begin", "size", "offset"), [(0, LARGE - 1, 0), (0, LARGE, 512 + 1), (1, LARGE, 0)], ids=["few", "place", "memory"]
)
def test_what_can_not_be_is_left(tmp_path: Path, begin: int, size: int, offset: int) -> None:
    """Too little, a place within a sector, memory within a page: nothing is written, or all of it."""
    data = filled(size + SECTOR)[begin : begin + size]
    handle = os.open(tmp_path / "file", os.O_CREAT | os.O_RDWR)
    written = write_past_cache(handle, data, offset)
    assert written == 0 or os.pread(handle, size, offset) == data
    assert written in ((0,) if begin == 0 else (0, size))
    os.close(handle)


def test_an_error_is_told(tmp_path: Path) -> None:
    """Only the refusal of such writes is left to who asked: a handle that may not write raises."""
    (tmp_path / "file").touch()
    handle = os.open(tmp_path / "file", os.O_RDONLY)
    with pytest.raises(OSError, match="file descriptor"):
        write_past_cache(handle, filled(LARGE), 0)
    os.close(handle)


@pytest.mark.parametrize("where", ["disk", "memory"])
def test_an_object_is_what_was_written(tmp_path: Path, where: str) -> None:
    """Of parts, and a rest that fills no sector; also where the file system has no such writes."""
    base = tmp_path if where == "disk" else Path("/dev/shm") / f"replicator-{os.getpid()}"
    store = DirectoryStore("local", base / "store")
    store.prepare()
    data = os.urandom(3 * store.part_size + LARGE + 77)
    try:
        with store.writer("kept") as writer:
            for at in range(0, len(data), 700_001):
                writer.write(data[at : at + 700_001])
            writer.commit()
        assert store.get("kept") == data
    finally:
        store.delete("kept")
        if where == "memory":
            (base / "store").rmdir()
            base.rmdir()

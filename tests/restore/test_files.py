"""Bytes into files: nothing is lost between two writes, and zeros take no room where nothing was written before."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from replicator.restore.files import write_at, write_but_zeros
from replicator.store.direct import room

PIECE = 128 * 1024


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("place", [10, 8192])
@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 5 * PIECE + 17, 16 * PIECE])
def test_all_bytes_arrive_where_they_belong(tmp_path: Path, size: int, place: int, direct: bool) -> None:
    """Whatever the length, and in front and behind nothing is touched."""
    data = room(size + 1)[:size]
    data[:] = os.urandom(size)
    handle = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.ftruncate(handle, size + 2 * place)
    write_at(handle, data, place, direct=direct)
    os.close(handle)
    assert (tmp_path / "file").read_bytes() == bytes(place) + data + bytes(place)


def test_long_runs_of_zeros_stay_holes(tmp_path: Path) -> None:
    """What is not zero is written, to the byte; a switched segment's rest takes no room."""
    data = os.urandom(PIECE) + bytes(20 * PIECE) + os.urandom(10) + bytes(2 * PIECE) + b"\1" + bytes(77)
    handle = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.ftruncate(handle, len(data))
    write_but_zeros(handle, memoryview(data), 0)
    held = os.fstat(handle).st_blocks * 512
    os.close(handle)
    assert (tmp_path / "file").read_bytes() == data
    assert held <= 4 * PIECE

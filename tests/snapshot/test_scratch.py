"""A take's temporary file: what is written comes back, and a disk without room is said."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from replicator.errors import HostLacks
from replicator.snapshot.scratch import Scratch


def test_it_gives_back_what_it_was_given(tmp_path: Path) -> None:
    """In order, to its end; it has no name, also while it is used."""
    with Scratch(tmp_path) as scratch:
        for number in range(1000):
            scratch.write(b"%04d" % number)
        scratch.rewind()
        found = b""
        while part := scratch.read(77):
            assert len(part) <= 77
            found += part
        assert list(tmp_path.iterdir()) == []
    assert found == b"".join(b"%04d" % number for number in range(1000))


@pytest.mark.parametrize("size", [100, 2**20])
def test_a_file_that_can_not_grow_is_the_hosts_trouble(tmp_path: Path, size: int) -> None:
    """Not written at once, or only when it is read: HostLacks that names the directory, and leaving it is well."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def use(scratch: Scratch) -> None:
        scratch.write(bytes(size))
        scratch.rewind()

    with Scratch(tmp_path) as scratch:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
        try:
            with pytest.raises(HostLacks, match=str(tmp_path)) as failure:
                use(scratch)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "room" in failure.value.hint


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    """HostLacks, not an OSError."""
    with pytest.raises(HostLacks):
        Scratch(tmp_path / "gone")

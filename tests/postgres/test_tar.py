"""Reading tar archives."""

import io
import tarfile

import pytest

from replicator.errors import ProtocolViolation
from replicator.postgres.tar import Kind, TarReader, check_path, parse_header


def archive() -> bytes:
    """A ustar archive as Python's own writer makes it."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, size in (("backup_label", 200), ("base/1/1259", 8192 * 3), ("base/1/empty", 0), ("x", 511)):
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.mtime = size, 0o600, 1_700_000_000
            tar.addfile(member, io.BytesIO(name[-1:].encode() * size))
        folder = tarfile.TarInfo("pg_wal/")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o700
        tar.addfile(folder)
        link = tarfile.TarInfo("pg_tblspc/16385")
        link.type, link.linkname = tarfile.SYMTYPE, "/srv/ts"
        tar.addfile(link)
    return stream.getvalue()


class Held:
    """Bytes in memory, as a tar reader takes them."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def fill(self, room: memoryview) -> int:
        """The next bytes."""
        taken, self._data = self._data[: len(room)], self._data[len(room) :]
        room[: len(taken)] = taken
        return len(taken)


@pytest.mark.parametrize("size", [1, 7, 511, 512, 513, 10_000, 10**6])
def test_members_do_not_depend_on_how_they_are_taken(size: int) -> None:
    """Names, kinds and contents come out the same for every size of chunks."""
    reader = TarReader(Held(archive()))
    found = [(header, b"".join(reader.chunks(size))) for header in reader.members()]
    assert [(header.path, header.kind, len(content)) for header, content in found] == [
        ("backup_label", Kind.FILE, 200),
        ("base/1/1259", Kind.FILE, 24576),
        ("base/1/empty", Kind.FILE, 0),
        ("x", Kind.FILE, 511),
        ("pg_wal", Kind.DIRECTORY, 0),
        ("pg_tblspc/16385", Kind.SYMLINK, 0),
    ]
    assert found[1][1] == b"9" * 24576
    assert found[1][0].mode == 0o600
    assert found[1][0].mtime == 1_700_000_000
    assert found[5][0].link == "/srv/ts"


def test_what_is_not_taken_is_skipped() -> None:
    """The next member follows even when nobody read this one."""
    assert len(list(TarReader(Held(archive())).members())) == 6


def test_chunks_are_as_large_as_asked() -> None:
    """All chunks but the last have the full size."""
    reader = TarReader(Held(archive()))
    sizes = [[len(chunk) for chunk in reader.chunks(10_000)] for _ in reader.members()]
    assert sizes[1] == [10_000, 10_000, 4576]


def test_an_archive_without_closing_blocks_ends_well() -> None:
    """Servers before 15 leave them out."""
    data = archive()[: -(len(archive()) % 512 or 512)].rstrip(b"\0")
    padded = data + bytes(-len(data) % 512)
    assert len(list(TarReader(Held(padded)).members())) == 6


def test_a_cut_archive_is_a_violation() -> None:
    """An end inside a member is never taken for its end."""
    for end in (3000, 700, 100):
        with pytest.raises(ProtocolViolation):
            list(TarReader(Held(archive()[:end])).members())


def test_large_sizes_are_base_256() -> None:
    """A size beyond eleven octal digits."""
    member = tarfile.TarInfo("base/1/2")
    member.size = 2**36 + 5
    assert parse_header(member.tobuf(tarfile.GNU_FORMAT)).size == 2**36 + 5


def test_a_changed_header_is_a_violation() -> None:
    """The header's checksum is verified."""
    block = bytearray(archive()[:512])
    block[0] ^= 1
    with pytest.raises(ProtocolViolation):
        parse_header(bytes(block))


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../x", "base/../../x", "a//b", ".", "./"])
def test_names_that_leave_their_directory_are_refused(path: str) -> None:
    """Names become paths, so they are checked."""
    with pytest.raises(ProtocolViolation):
        check_path(path)


def test_names_are_normalised() -> None:
    """A closing slash and leading dots are not part of a name."""
    assert check_path("./pg_wal/archive_status/") == "pg_wal/archive_status"

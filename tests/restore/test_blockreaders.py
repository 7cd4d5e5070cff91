"""Processes that compare beside a restore: what they find, what they leave to it, and how they end."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator.restore.blockreader import LOOK, Question
from replicator.restore.blockreaders import BlockReaders
from replicator.seal.digest import block_hashes

KEY = os.urandom(32)
BLOCK = 8192


def asked(path: Path, offset: int = 0, length: int | None = None, block: int = BLOCK) -> Question:
    """About a file as it is."""
    facts = path.stat()
    size = facts.st_size if length is None else length
    return Question(str(path), facts.st_size, facts.st_mode & 0o7777, -1, -1, offset, size, block)


def hashes(data: bytes | bytearray, block: int = BLOCK) -> bytes:
    """As a map has them."""
    return b"".join(block_hashes(KEY, data, block))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of ten blocks and a half."""
    found = tmp_path / "file"
    found.write_bytes(os.urandom(10 * BLOCK + BLOCK // 2))
    return found


@pytest.fixture
def readers() -> Iterator[BlockReaders]:
    """Two."""
    with BlockReaders(KEY, 2) as found:
        yield found


def pids(readers: BlockReaders) -> list[int]:
    """Those that are running."""
    return [process.pid for process in readers._running]


def test_which_blocks_differ(readers: BlockReaders, path: Path) -> None:
    """Counted from each question's first; several at once, of which one is about nothing."""
    data = path.read_bytes()
    empty = path.with_name("empty")
    empty.touch()
    other = bytearray(data)
    other[3 * BLOCK] ^= 1
    other[-1] ^= 1
    questions = [asked(path), asked(empty), asked(path, 2 * BLOCK, 3 * BLOCK)]
    found = readers.ask(questions, hashes(other) + hashes(other[2 * BLOCK : 5 * BLOCK]))
    assert found == [[3, 10], [], [1]]
    assert readers.ask(questions, hashes(data) + hashes(data[2 * BLOCK : 5 * BLOCK])) == [[], [], []]


def test_a_block_larger_than_the_room(readers: BlockReaders, tmp_path: Path) -> None:
    """It is read whole."""
    path = tmp_path / "large"
    path.write_bytes(os.urandom(2 * LOOK + 5))
    assert readers.ask([asked(path, block=2 * LOOK)], hashes(path.read_bytes(), 2 * LOOK)) == [[]]


def test_what_is_not_as_it_should_be_is_left(readers: BlockReaders, path: Path) -> None:
    """Another size, mode or owner, a link, a second name, a pipe, a directory, nothing: the restore judges these."""
    good, known = asked(path), hashes(path.read_bytes())
    second = path.with_name("second")
    second.hardlink_to(path)
    assert readers.ask([good], known) == [None]
    second.unlink()
    path.with_name("link").symlink_to(path)
    os.mkfifo(path.with_name("pipe"))
    wrong = [
        good._replace(size=good.size + 1), good._replace(mode=0o640), good._replace(uid=12345, gid=good.gid),
        good._replace(path=str(path.with_name("link"))), good._replace(path=str(path.with_name("pipe"))),
        good._replace(path=str(path.parent)), good._replace(path=str(path.with_name("none"))),
        good._replace(offset=BLOCK),
    ]  # fmt: skip
    assert readers.ask([*wrong, good], known * (len(wrong) + 1)) == [*[None] * len(wrong), []]


def test_names_that_are_no_text(readers: BlockReaders, path: Path) -> None:
    """A path is bytes."""
    odd = os.fsdecode(os.fsencode(path) + b"\xff\n")
    renamed = path.rename(odd)
    assert readers.ask([asked(renamed)], hashes(renamed.read_bytes())) == [[]]


def test_one_that_died_is_done_without(readers: BlockReaders, path: Path) -> None:
    """Nobody looked, so the restore does; the other goes on."""
    known = hashes(path.read_bytes())
    os.kill(pids(readers)[0], signal.SIGKILL)
    found = [readers.ask([asked(path)], known) for _ in range(4)]
    assert sorted(found, key=str) == [[None], [None], [[]], [[]]]


def test_what_says_nothing_is_done_without(path: Path) -> None:
    """A program that ends at once, one that is not there, and none at all."""
    for count, program in ((2, (sys.executable, "-c", "")), (2, (str(path),)), (0, ())):
        with BlockReaders(KEY, count, (), program) as readers:
            assert [readers.ask([asked(path)], hashes(path.read_bytes())) for _ in range(3)] == [[None]] * 3


def test_they_end_with_the_restore(path: Path) -> None:
    """None is left, also after an error."""
    running: list[int] = []

    def fail() -> None:
        with BlockReaders(KEY, 2) as readers:
            running.extend(pids(readers))
            assert readers.ask([asked(path)], hashes(path.read_bytes())) == [[]]
            raise OSError("on purpose")

    with pytest.raises(OSError, match="on purpose"):
        fail()
    assert len(running) == 2
    assert not any(Path(f"/proc/{pid}").exists() for pid in running)


def test_they_end_when_the_restore_is_killed(path: Path) -> None:
    """Their input ends then."""
    child = os.fork()
    if not child:
        os.execv(sys.executable, [sys.executable, "-c", _HOLD, str(path)])
    found = path.with_name("pids")
    end = time.monotonic() + 30
    while not found.exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    running = found.read_text("ascii").split()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    end = time.monotonic() + 30
    while any(_runs(pid) for pid in running):
        assert time.monotonic() < end
        time.sleep(0.05)


def _runs(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii").rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


_HOLD = """
import sys, time
from pathlib import Path
from replicator.restore.blockreaders import BlockReaders
with BlockReaders(bytes(32), 2) as readers:
    made = Path(sys.argv[1]).with_name("made")
    made.write_text(" ".join(str(process.pid) for process in readers._running))
    made.rename(made.with_name("pids"))
    time.sleep(600)
"""

"""A process that reads blocks of files and compares them with their hashes, for a restore with --delta.

Run as `python -m replicator.restore.blockreader` by blockreaders.py, which says on its standard input what to look at
and reads on its standard output which blocks differ. Processes hash side by side; threads don't, as each block's hash
lets go of the interpreter lock. It changes nothing, leaves to its parent whatever is not a plain file as the snapshot
has it, and ends with its input. It imports little: a start costs 25 ms.
"""

from __future__ import annotations

import json
import os
import stat
import struct
import sys
from collections.abc import Sequence
from typing import IO, Any, NamedTuple

from replicator.seal.digest import COMPARISON_SIZE, block_hashes

#: Bytes that one look reads, but for a larger block.
LOOK = 4 * 1024 * 1024

_HEAD = struct.Struct(">II")
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Question(NamedTuple):
    """Which blocks of `length` bytes from `offset` on differ, in a file of this size, mode and owner (-1: whoever)?"""

    path: str
    size: int
    mode: int
    uid: int
    gid: int
    offset: int
    length: int
    block: int

    @property
    def blocks(self) -> int:
        """How many."""
        return -(-self.length // self.block)


class Room:
    """Memory to read into, again and again."""

    def __init__(self) -> None:
        self._room = memoryview(bytearray(LOOK))

    def read(self, handle: int, offset: int, length: int) -> memoryview | None:
        """The bytes, until the next call; None where the file has fewer. Raises OSError."""
        room = self._room if length <= len(self._room) else memoryview(bytearray(length))
        held = 0
        while held < length:
            count = os.preadv(handle, [room[held:length]], offset + held)
            if not count:
                return None
            held += count
        return room[:length]


def differing(key: bytes, data: memoryview, block: int, expected: bytes) -> list[int]:
    """The blocks whose hash under `key` is not the expected one, counted from 0."""
    hashes = block_hashes(key, data, block)
    if b"".join(hashes) == expected:
        return []
    size = COMPARISON_SIZE
    return [at for at, found in enumerate(hashes) if found != expected[at * size : (at + 1) * size]]


def send(stream: IO[bytes], said: Sequence[Any], data: bytes = b"") -> None:
    """One message: something that JSON can say, and bytes. Raises OSError."""
    text = json.dumps(said).encode("ascii")
    stream.write(_HEAD.pack(len(text), len(data)) + text + data)
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[list[Any], bytes] | None:
    """The next message, which always says a list; None at the end."""
    head = stream.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    texts, length = _HEAD.unpack(head)
    body = stream.read(texts + length)
    return (json.loads(body[:texts]), body[texts:]) if len(body) == texts + length else None


def answer(key: bytes, questions: Sequence[Question], expected: bytes, room: Room) -> list[list[int] | None]:
    """For each question the blocks that differ; None where the parent has to look itself."""
    found: list[list[int] | None] = []
    at = 0
    for question in questions:
        end = at + question.blocks * COMPARISON_SIZE
        found.append(_look(key, question, expected[at:end], room))
        at = end
    return found


def _look(key: bytes, question: Question, expected: bytes, room: Room) -> list[int] | None:
    try:
        handle = os.open(question.path, _FLAGS)
    except OSError:
        return None
    try:
        facts = os.fstat(handle)
        plain = stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1
        owner = question.uid < 0 or (facts.st_uid, facts.st_gid) == (question.uid, question.gid)
        if not (plain and owner and (facts.st_size, stat.S_IMODE(facts.st_mode)) == (question.size, question.mode)):
            return None
        data = room.read(handle, question.offset, question.length)
        return None if data is None else differing(key, data, question.block, expected)
    except OSError:
        return None
    finally:
        os.close(handle)


def main() -> None:
    """Answer until the input ends. The first message brings the comparison key."""
    asked, answers = sys.stdin.buffer, sys.stdout.buffer
    first, room = receive(asked), Room()
    while first is not None and (message := receive(asked)) is not None:
        said, expected = message
        send(answers, answer(first[1], [Question(*one) for one in said], expected, room))


if __name__ == "__main__":
    main()

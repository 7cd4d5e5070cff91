"""Processes that compare what a directory holds with a snapshot, several side by side (blockreader.py).

Owns their start, their end, and that a restore needs none of them: what one that died was asked, the restore does.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Collection, Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import Self

from replicator.restore.blockreader import Question, receive, send

#: -P: nothing is imported from the directory that the operator happens to be in.
_PROGRAM = (sys.executable, "-P", "-m", "replicator.restore.blockreader")
_END_S = 10.0


class BlockReaders:
    """So many processes, while in a with statement; safe in several threads. `key`: the snapshot's comparison key.
    `handles`: the directories that paths begin with, as /proc/self/fd has them.
    """

    def __init__(
        self, key: bytes, count: int, handles: Collection[int] = (), program: Sequence[str] = _PROGRAM
    ) -> None:  # fmt: skip
        self._key = key
        self._count = count
        self._handles = tuple(handles)
        self._program = program
        self._running: list[subprocess.Popen[bytes]] = []
        self._idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()

    def __enter__(self) -> Self:
        """Start them, or as many as the host lets us."""
        with suppress(OSError):
            for _ in range(self._count):
                self._running.append(self._started())
        for process in self._running:
            _ask(process, [], self._key)
            self._idle.put(process)
        return self

    def _started(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            pass_fds=self._handles,
            start_new_session=True,  # an interrupt of the terminal is for the restore
        )  # fmt: skip

    def __exit__(self, *_: object) -> None:
        for process in self._running:
            _end(process)

    def ask(self, questions: Sequence[Question], expected: bytes) -> list[list[int] | None]:
        """For each question the blocks that differ, None where nobody looked. `expected`: all hashes, joined."""
        nobody: list[list[int] | None] = [None] * len(questions)
        if not self._running:
            return nobody
        process = self._idle.get()
        try:
            if not _ask(process, questions, expected):
                return nobody
            assert process.stdout is not None
            found = receive(process.stdout)
            return found[0] if found is not None and len(found[0]) == len(questions) else nobody
        finally:
            self._idle.put(process)


def _ask(process: subprocess.Popen[bytes], questions: Sequence[Question], data: bytes) -> bool:
    """False when it has died."""
    assert process.stdin is not None
    try:
        send(process.stdin, questions, data)
    except BrokenPipeError:
        return False
    return True


def _end(process: subprocess.Popen[bytes]) -> None:
    """Its input ends, and so does it; one that does not is killed, and not waited for: its disk may be dead."""
    try:
        process.communicate(timeout=_END_S)
    except subprocess.TimeoutExpired:
        process.kill()

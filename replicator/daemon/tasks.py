"""Long verbs as child processes: started, listened to, and ended. One thread per child, two pipes, no shell.

Owns the children's life and the JSON lines of their standard output. It knows nothing else of what they do: a crash
there never stops the stream.
"""

from __future__ import annotations

import codecs
import json
import os
import selectors
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Event, Lock
from typing import Any

from replicator.errors import HostLacks
from replicator.status.model import TaskStatus
from replicator.tolerance import Clock, Deadline

#: From SIGTERM to SIGKILL.
GRACE_S = 10.0
#: A child that says nothing for so long hangs. Longer than a spread checkpoint lets a base backup wait.
SILENCE_S = 7200.0
_TICK_S = 0.2
_READ = 65536
_LONGEST_LINE = 1 << 20
_TAIL_LINES = 20


@dataclass(frozen=True, slots=True)
class TaskEnd:
    """How a child ended. `exit_code` below 0 is a signal. `error` is the child's own, as in `--json`; `stderr` the last
    lines. `stopped`: we ended it because we end. `silent`: we ended it because it said nothing any more.
    """

    kind: str
    exit_code: int
    elapsed_s: float
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    stderr: tuple[str, ...] = ()
    stopped: bool = False
    silent: bool = False


@dataclass
class Task:
    """One child. `facts` is called with every progress line's facts, in the thread that runs it."""

    kind: str
    command: Sequence[str]
    clock: Clock
    facts: Callable[[dict[str, Any]], None]
    started: Callable[[int], None] = lambda _: None
    grace_s: float = GRACE_S
    silence_s: float = SILENCE_S
    _lock: Lock = field(default_factory=Lock)
    _status: TaskStatus | None = None

    def status(self) -> TaskStatus | None:
        """What it does now; None when it does not run."""
        with self._lock:
            return self._status

    def run(self, stop: Event) -> TaskEnd:
        """Run the child to its end, or end it when `stop` is set or it hangs. Raises HostLacks when it can't be
        started.
        """
        began = self.clock.monotonic()
        process = _start(self.command)
        self._show(TaskStatus(self.kind, self.clock.now()))
        try:
            self.started(process.pid)
            heard, ended = self._listen(process, stop)
        finally:
            self._show(None)
            _end(process)
        return TaskEnd(
            self.kind,
            process.returncode,
            self.clock.monotonic() - began,
            heard.result,
            heard.error,
            heard.stderr.last(),
            stopped=ended and stop.is_set(),
            silent=ended and not stop.is_set(),
        )

    def _listen(self, process: subprocess.Popen[bytes], stop: Event) -> tuple[_Heard, bool]:
        """Read both pipes until both are closed: what a child leaves unread never blocks it. True: we ended it."""
        assert process.stdout is not None
        assert process.stderr is not None
        heard = _Heard(self._progress)
        ending: Deadline | None = None
        silence = Deadline(self.clock, self.silence_s)
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ, heard.stdout)
            selector.register(process.stderr, selectors.EVENT_READ, heard.stderr)
            while selector.get_map():
                if ending is None and (stop.is_set() or silence.over):
                    process.terminate()
                    ending = Deadline(self.clock, self.grace_s)
                if ending is not None and ending.over:
                    break
                had_ended = process.poll() is not None  # asked before: what it said last is read after its end
                ready = selector.select(_TICK_S)
                if not ready and had_ended:
                    break  # what still holds the pipes is not ours to wait for
                silence = Deadline(self.clock, self.silence_s) if ready else silence
                for key, _ in ready:
                    data = os.read(key.fd, _READ)
                    key.data.feed(data)
                    if not data:
                        selector.unregister(key.fileobj)
        with suppress(subprocess.TimeoutExpired):
            process.wait(ending.remaining() if ending is not None else self.grace_s)
        return heard, ending is not None

    def _progress(self, line: dict[str, Any]) -> None:
        shown = self.status()
        if shown is not None:
            done, total, unit = (line.get(key) for key in ("done", "total", "unit"))
            whole = isinstance(done, int) and isinstance(total, int) and isinstance(unit, str)
            if whole:
                self._show(TaskStatus(self.kind, shown.since, int(done or 0), int(total or 0), str(unit)))
        facts = line.get("facts")
        if isinstance(facts, dict) and facts:
            self.facts(facts)

    def _show(self, status: TaskStatus | None) -> None:
        with self._lock:
            self._status = status


def _start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    """In a session of its own: a signal to the daemon's group is for the daemon, which ends its children itself."""
    try:
        return subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        reason = (error.strerror or "unknown reason").lower()
        raise HostLacks(f"{command[0]} can not be started: {reason}") from error


def _end(process: subprocess.Popen[bytes]) -> None:
    """Nothing of a child outlives its task: its session is ours to kill until we have waited for it."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


class _Lines:
    """Bytes cut into lines; an endless line is cut too."""

    def __init__(self, take: Callable[[str], None]) -> None:
        self._take = take
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._rest = ""

    def feed(self, data: bytes) -> None:
        """The next bytes; none at the end."""
        *lines, self._rest = (self._rest + self._decode(data, not data)).split("\n")
        if self._rest and (not data or len(self._rest) > _LONGEST_LINE):
            lines.append(self._rest)
            self._rest = ""
        for line in lines:
            self._take(line)


class _Tail(_Lines):
    """The last lines alone."""

    def __init__(self) -> None:
        self._kept: deque[str] = deque(maxlen=_TAIL_LINES)
        super().__init__(lambda line: self._kept.append(line[:1000]))

    def last(self) -> tuple[str, ...]:
        """What was kept."""
        return tuple(self._kept)


class _Heard:
    """What a child said."""

    def __init__(self, progress: Callable[[dict[str, Any]], None]) -> None:
        self.stdout = _Lines(self._line)
        self.stderr = _Tail()
        self.result: dict[str, Any] | None = None
        self.error: dict[str, Any] | None = None
        self._progress = progress

    def _line(self, text: str) -> None:
        try:
            line = json.loads(text)
        except ValueError:  # not of the protocol: somebody printed
            return
        if not isinstance(line, dict):
            return
        if line.get("event") == "progress":
            self._progress(line)
        elif line.get("event") == "result" and isinstance(line.get("result"), dict):
            self.result = line["result"]
        elif line.get("event") == "error" and isinstance(line.get("error"), dict):
            self.error = line["error"]

"""Prefetching WAL into a recovery directory: all of it before the server starts, or ahead of its replay.

Owns the window: at most so many bytes wait in `ready/`. A file appears there whole, verified and durable, or not
at all.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Event, Thread

from replicator.core.progress import Progress, Report, silent
from replicator.errors import Interrupted, ReplicatorError
from replicator.repository.catalog import read_history_file
from replicator.restore.recoverydir import RecoveryDirectory
from replicator.restore.route import WalFile
from replicator.restore.sources import Sources
from replicator.restore.tree import host_errors, owner_ids
from replicator.restore.walfile import write_wal_file
from replicator.seal.keyring import Keyring
from replicator.store.protocol import ReadableStore

#: The most bytes that wait in `ready/`.
DEFAULT_WINDOW = 2 * 1024 * 1024 * 1024
_TICK_S = 0.05
_JOIN_S = 60.0
_NAME = re.compile(r"[0-9A-F]{24}\Z")


class Prefetcher:
    """Fills `ready/` of one recovery directory. `files` in replay order, of which the first `needed` are fetched
    unasked; the others, and those handed over before, when the guard asks for them.
    """

    def __init__(
        self,
        directory: RecoveryDirectory,
        store: ReadableStore | Sources,
        keyring: Keyring,
        files: Sequence[WalFile],
        needed: int,
        *,
        owner: str | None = None,
        window: int = DEFAULT_WINDOW,
        workers: int = 4,
        report: Report = silent,
        stop: Event | None = None,
    ) -> None:
        self._directory = directory
        self._sources = store if isinstance(store, Sources) else Sources((store,))
        self._keyring = keyring
        self._files = files
        self._needed = needed
        self._ids = owner_ids(owner) if owner is not None else None
        self._window = max(1, window // files[0].size) if files else 1
        self._workers = workers
        self._report = report
        self._stop = stop or Event()
        self._end = Event()
        self._thread: Thread | None = None
        self.error: BaseException | None = None

    @property
    def fits(self) -> bool:
        """Whether all that is needed fits the window."""
        return self._needed <= self._window

    def histories(self, system_id: int, timelines: Sequence[int]) -> None:
        """Write every timeline history. Raises ObjectAbsent, IntegrityError, StoreUnavailable, HostLacks."""
        for timeline in timelines:
            content = self._sources.read(partial(self._history, system_id, timeline))
            path = self._directory.history / f"{timeline:08X}.history"
            with host_errors(path):
                path.write_bytes(content)
                self._give(path)

    def _history(self, system_id: int, timeline: int, store: ReadableStore) -> bytes:
        return read_history_file(store, system_id, timeline, self._keyring)

    def fill(self) -> None:
        """Fetch as much as the window holds and return. Raises what reading a file does, Interrupted."""
        wanted = self._files[: min(self._needed, self._window)]
        with ThreadPoolExecutor(self._workers, thread_name_prefix="prefetch") as pool:
            for done, _ in enumerate(pool.map(self._fetch, wanted), 1):
                self._report(Progress("restore", "wal", done, len(wanted), "segments"))

    def __enter__(self) -> Prefetcher:
        """Go on in a thread until left: the server is to run meanwhile."""
        with host_errors(self._directory.path):
            # The directory is the server's user's by now: nothing that it may have put there is written through.
            self._directory.prefetching.unlink(missing_ok=True)
            with self._directory.prefetching.open("x", encoding="ascii") as file:
                file.write(f"{os.getpid()}\n")
            self._give(self._directory.prefetching)
        self._thread = Thread(target=self._run, name="prefetcher")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        if self._thread is not None:
            self._thread.join(_JOIN_S)

    def _run(self) -> None:
        try:
            with ThreadPoolExecutor(self._workers, thread_name_prefix="prefetch") as pool:
                self._follow(pool)
        except Interrupted:
            pass  # asked to stop: the guard sees that `prefetching` is gone
        except ReplicatorError as error:
            self.error = error
        except OSError as error:
            # The server removed the directory: recovery has ended.
            self.error = error if self._directory.path.exists() else None
        finally:
            self._directory.prefetching.unlink(missing_ok=True)

    def _follow(self, pool: ThreadPoolExecutor) -> None:
        """Keep the window full until all that is needed was fetched; then serve requests until the end."""
        at = 0
        by_name = {file.name: file for file in self._files}
        while not self._end.is_set() and not self._stop.is_set() and self._directory.path.exists():
            asked = [by_name[name] for name in self._requests() if name in by_name]
            room = max(0, self._window - sum(1 for _ in self._directory.ready.glob("[0-9A-F]*")))
            batch = self._files[at : min(at + min(room, 2 * self._workers), self._needed)]
            at += len(batch)
            for _ in pool.map(self._fetch, [*asked, *(file for file in batch if file not in asked)]):
                pass
            if not asked and not batch:
                self._end.wait(_TICK_S)

    def _requests(self) -> list[str]:
        """What the guard waits for, each once. A request that is already answered costs nothing."""
        names = sorted(path.name for path in self._directory.requests.iterdir() if _NAME.match(path.name))
        for name in names:
            (self._directory.requests / name).unlink(missing_ok=True)
        return [name for name in names if not (self._directory.ready / name).exists()]

    def _fetch(self, file: WalFile) -> None:
        if self._end.is_set() or self._stop.is_set():
            raise Interrupted("prefetching was stopped")
        path = self._directory.ready / file.name
        staged = self._directory.path / file.name
        self._sources.read(lambda store: write_wal_file(store, self._keyring, file, staged))
        self._give(staged)
        staged.replace(path)

    def _give(self, path: Path) -> None:
        if self._ids is not None:
            os.chown(path, *self._ids, follow_symlinks=False)

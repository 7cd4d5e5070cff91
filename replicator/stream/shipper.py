"""A shipper: the same sealed bytes to one store, in the order of the stream, histories before their timeline.

Owns one store's state and holdings. Never holds up another store: it waits, retries and fails alone. After any error it
reads the store's catalog again before it goes on.
"""

from __future__ import annotations

from concurrent.futures import Executor, ThreadPoolExecutor
from itertools import islice, takewhile
from threading import Event

from replicator.core.timeline import TimelineHistory
from replicator.errors import (
    AlreadyExists,
    Conflict,
    DeadlineExceeded,
    ForeignSource,
    HostLacks,
    IntegrityError,
    Interrupted,
    ObjectAbsent,
    ReplicatorError,
    StoreDenied,
    StoreUnavailable,
    UntrustedRepository,
    WalConflict,
)
from replicator.repository.catalog import read_catalog, read_history_file
from replicator.repository.claims import verified
from replicator.repository.layout import history_name
from replicator.repository.notes import CONFLICT, conflict_note
from replicator.repository.objects import read_table
from replicator.repository.repository import check_store
from replicator.seal.document import sign_as_writer
from replicator.seal.signature import base64url
from replicator.spool import SealedFile, Spool
from replicator.store.protocol import Store
from replicator.stream.board import Board
from replicator.stream.catchup import Copying, ElsewhereFailed, catch_up
from replicator.stream.followed import Followed
from replicator.stream.holdings import Holdings
from replicator.stream.release import release
from replicator.stream.statistics import Problem
from replicator.stream.verdict import REFUSED, verdict

#: The longest look away from the spool, and the same while something is copied from another store.
_LOOK, _MEANWHILE = 1.0, 0.1
_PARALLEL = 4
#: Seconds between two looks at what other stores have and this one has not.
_CATCH_UP_EVERY = 30.0


class Shipper:
    """One per store."""

    def __init__(self, board: Board, name: str) -> None:
        self._board = board
        self._name = name
        self._store: Store = board.repository.store(name)
        self._view = board.stores[name]
        self._may_delete = True
        self._copying = Copying()
        self._caught_up_at = -1e9
        self._followed = Followed(board, name, self._store)

    def run(self, stop: Event) -> None:
        """Ship until `stop` is set."""
        with ThreadPoolExecutor(_PARALLEL, thread_name_prefix=f"put-{self._name}") as executor:
            while not stop.is_set():
                try:
                    self._serve(stop, executor)
                except Interrupted:
                    if not stop.is_set():
                        raise
                except (StoreUnavailable, UntrustedRepository, IntegrityError, Conflict, HostLacks, DeadlineExceeded,
                        ObjectAbsent) as error:  # fmt: skip
                    self._board.nap(stop, self._failed(error))

    def _failed(self, error: ReplicatorError) -> float:
        """Say what is wrong; seconds to wait before the next try."""
        self._view.asked = self._view.listed = True
        self._board.problem(f"store {self._name}", error)
        self._view.state, seconds = verdict(error)
        return seconds

    def _serve(self, stop: Event, executor: Executor) -> None:
        if not check_store(self._board.repository, self._name):
            self._view.state, self._view.asked, self._view.listed = "absent", True, True
            hint = f"Run `replicator init {self._board.repository.cluster}`."
            problem = Problem(6, f"store {self._name} holds no repository", hint)
            self._board.problem(f"store {self._name}", problem)
            self._board.nap(stop, REFUSED)
            return
        self._followed.ask()
        spool = self._await_spool(stop)
        if spool is None:
            return
        holdings = self._read(spool)
        self._tidy(holdings)
        self._caught_up_at = -1e9
        while not stop.is_set():
            seen = self._board.shipper_bell.rings
            if not self._ship(spool, holdings, executor):
                self._catch_up(spool, holdings, executor, stop)
                self._well()
                self._followed.ask_again()
                self._board.shipper_bell.wait(seen, _LOOK, stop)

    def _await_spool(self, stop: Event) -> Spool | None:
        while self._board.spool is None and not stop.is_set():
            self._well()
            self._board.shipper_bell.wait(self._board.shipper_bell.rings, _LOOK, stop)
            self._followed.ask_again()
        return self._board.spool

    def _read(self, spool: Spool) -> Holdings:
        """What the store holds now. Raises ForeignSource when its histories are not the spool's."""
        keyring = self._board.repository.keyring
        listed = read_catalog(self._store, spool.system_id, keyring, segment_size=spool.segment_size)
        # What is still in the spool is only let go of when the store's copy is signed, not because a name is listed.
        spooled = {held.segment.name for held in spool.held()} | {file.segment for file in spool.sealed.files()}
        catalog = verified(listed, self._store, keyring, spooled)
        self._damaged(catalog.damaged)
        for timeline, content in spool.histories().items():
            theirs = catalog.histories.get(timeline)
            if theirs is not None and theirs != TimelineHistory.parse(timeline, content):
                raise ForeignSource(
                    f"store {self._name} holds another history of timeline {timeline} than the spool",
                    hint="Two servers were promoted to the same timeline number; look at both before going on.",
                )
        holdings = Holdings(catalog, self._board.gaps, spool)
        self._view.durable = holdings.durable(spool.stretches())
        self._view.holdings, self._view.listed = holdings, True
        for segment in catalog.conflicts:
            self._conflict(spool, segment, holdings)
        self._moved(spool, holdings)
        return holdings

    def _ship(self, spool: Spool, holdings: Holdings, executor: Executor) -> bool:
        """Put the next objects; whether there were any."""
        files = spool.sealed.files()  # before the histories: none of these is of a timeline that is not among them
        for timeline, content in spool.histories().items():
            if timeline not in holdings.histories:
                self._put_history(spool, holdings, timeline, content)
        whole = {file.segment for file in files if file.complete}
        missing = (
            file
            for file in files
            if not holdings.holds(file) and (file.complete or file.document or file.segment not in whole)
        )
        first = next(missing, None)
        if first is None:
            self._moved(spool, holdings)
            return False
        batch = [first]
        if first.complete:
            batch += islice(takewhile(lambda file: file.complete, missing), _PARALLEL - 1)
        self._put_all(spool, holdings, batch, executor)
        return True

    def _put_all(self, spool: Spool, holdings: Holdings, batch: list[SealedFile], executor: Executor) -> None:
        """Put several objects at once; those that were put count also when another failed."""
        if len(batch) == 1:
            self._put_one(spool, holdings, batch[0], self._put(spool, batch[0]))
            return
        futures = [(file, executor.submit(self._put, spool, file)) for file in batch]
        failure: ReplicatorError | None = None
        for file, future in futures:
            try:
                done = future.result()
            except ReplicatorError as error:
                failure = failure or error
                continue
            self._put_one(spool, holdings, file, done)
        if failure is not None:
            raise failure

    def _well(self) -> None:
        """It took what there was to take: that it can be read says nothing of that."""
        self._view.state = "ok"
        self._board.problem(f"store {self._name}", None)

    def _put(self, spool: Spool, file: SealedFile) -> bool:
        with spool.sealed.using(file.name) as path:
            if path is None:
                return False
            self._board.steps("before put")
            try:
                self._store.put(file.name, path)
            except AlreadyExists:
                # The name carries the fingerprint of the content: the same name, signed, is the same WAL.
                if not file.document:
                    read_table(self._store, file.name, self._board.repository.keyring)
            self._board.steps("after put")
            return True

    def _put_one(self, spool: Spool, holdings: Holdings, file: SealedFile, done: bool) -> None:
        """An object is durable in the store."""
        if not done:
            return
        self._well()
        holdings.add(file)
        if file.complete and len(holdings.wal[file.segment]) > 1:
            self._conflict(spool, file.segment, holdings)
        self._moved(spool, holdings)
        self._delete(holdings, file.segment, holdings.replaced_by(file))

    def _moved(self, spool: Spool, holdings: Holdings) -> None:
        """Make the store's position known, and let go of what is not needed any more."""
        durable = holdings.durable(spool.stretches())
        if durable > self._view.durable:
            self._view.durable = durable
            self._board.sealer_bell.ring()
        release(self._board)

    def _put_history(self, spool: Spool, holdings: Holdings, timeline: int, content: bytes) -> None:
        keyring = self._board.repository.keyring
        name = history_name(spool.system_id, timeline)
        body = {"timeline": timeline, "content": base64url(content)}
        self._board.steps("before history")
        try:
            self._store.put(name, sign_as_writer(keyring, "history", name, body))
        except AlreadyExists:
            if read_history_file(self._store, spool.system_id, timeline, keyring) != content:
                raise WalConflict(f"store {self._name} holds another history of timeline {timeline}") from None
        self._board.steps("after history")
        holdings.histories[timeline] = TimelineHistory.parse(timeline, content)

    def _delete(self, holdings: Holdings, segment: str, names: tuple[str, ...]) -> None:
        """Remove our pieces that something longer replaced, where the credentials allow it."""
        for name in names if self._may_delete else ():
            self._board.steps("before delete")
            try:
                self._store.delete(name)
            except StoreDenied:
                self._may_delete = False
                return
            self._board.steps("after delete")
            holdings.deleted(segment, name)

    def _tidy(self, holdings: Holdings) -> None:
        """Remove the pieces of complete segments that an earlier process left."""
        for segment in [name for name in holdings.pieces if name in holdings.wal]:
            self._delete(holdings, segment, tuple(holdings.pieces[segment]))

    def _catch_up(self, spool: Spool, holdings: Holdings, executor: Executor, stop: Event) -> None:
        """Now and then: take from another store what the spool let go of before this one had it. What is new in the
        spool goes between.
        """
        now = self._board.clock.monotonic()
        if now - self._caught_up_at < _CATCH_UP_EVERY:
            return
        self._caught_up_at = now
        for name, view in self._board.stores.items():
            other = view.holdings
            if name == self._name or other is None or view.state != "ok":
                continue
            source = self._board.repository.store(name)
            copies = catch_up(source, other, self._store, holdings, spool, self._board.repository.keyring)
            damaged: ReplicatorError | None = None
            try:
                for copied in self._copying.run(copies, executor, self._board.shipper_bell.ring):
                    if copied is not None:
                        holdings.add(copied)
                        self._well()
                        self._moved(spool, holdings)
                    elif not self._ship(spool, holdings, executor):
                        self._board.shipper_bell.wait(self._board.shipper_bell.rings, _MEANWHILE, stop)
                    if stop.is_set():
                        return
            except ElsewhereFailed as failed:  # that a store is away, its own shipper says
                damaged = failed.error if isinstance(failed.error, IntegrityError) else None
            self._board.problem(f"copies {self._name} {name}", damaged)

    def _damaged(self, names: tuple[str, ...]) -> None:
        """Objects that are not what their names say count for nothing, and everyone hears of them."""
        problem = Problem(
            4,
            f"store {self._name}: {len(names)} objects are not what their names say, for example {names[0]}",
            "Find out who put them there; they are ignored, and nothing of ours can take their names.",
        ) if names else None  # fmt: skip
        self._board.problem(f"damaged {self._name}", problem)

    def _conflict(self, spool: Spool, segment: str, holdings: Holdings) -> None:
        """Two contents for one segment: both are kept, and everyone hears of it."""
        names = sorted(holdings.wal[segment])
        self._board.problem(
            f"conflict {segment}",
            Problem(8, f"store {self._name} holds {len(names)} different contents of segment {segment}",
                    "Two servers wrote this timeline. Find out which object is right before the next restore."),
        )  # fmt: skip
        known = any(
            file.document and f"-{CONFLICT}-{segment}-" in file.name for file in spool.sealed.files()
        ) or holdings.has_note(CONFLICT, segment)
        if not known:
            keyring = self._board.repository.keyring
            note = conflict_note(keyring, spool.system_id, segment, names, self._board.clock.now())
            spool.sealed.put_document(*note)
            self._board.shipper_bell.ring()

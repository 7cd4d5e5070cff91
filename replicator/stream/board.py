"""What the workers of one stream tell each other: the spool, the stores' holdings, requests, problems.

Owns no decision. Values are replaced whole, so that any thread may read them at any time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event, Lock
from typing import Literal

from replicator.core.coverage import Coverage, LsnRange
from replicator.core.lsn import Lsn
from replicator.core.timeline import TimelineHistory
from replicator.core.windows import holes
from replicator.errors import ReplicatorError
from replicator.repository.notes import gap_note
from replicator.repository.repository import Repository
from replicator.spool import Position, Spool, spooled_system_ids
from replicator.spool.position import START
from replicator.stream.bell import Bell
from replicator.stream.durable import acknowledgeable
from replicator.stream.governor import Outlook
from replicator.stream.holdings import Holdings
from replicator.stream.naming import describer
from replicator.stream.settings import Steps, StreamSettings
from replicator.stream.statistics import Problem
from replicator.tolerance import Clock


@dataclass
class StoreView:
    """One store as its shipper sees it. `asked`: its system ids were asked for, with or without an answer; `listed`:
    its catalog was. `accepted`: (time, system id) of its newest signed note that says which cluster is followed.
    """

    state: str = "starting"
    asked: bool = False
    listed: bool = False
    system_ids: tuple[int, ...] | None = None
    accepted: tuple[str, int] | None = None
    holdings: Holdings | None = None
    durable: Position = START


@dataclass
class SourceView:
    """The source as the receiver and the slot watcher see it."""

    system_id: int | None = None
    state: str = "starting"
    host: str | None = None
    timeline: int | None = None
    server_lsn: Lsn | None = None
    acknowledged: Lsn | None = None
    back_pressure: bool = False
    #: Commits may wait for what we confirm; so it is until the source says otherwise.
    awaited: bool = True
    #: Lets nobody in, as one that shuts down.
    closing: bool = False
    wal_status: str | None = None
    safe_wal_bytes: int | None = None
    #: What the governor makes of the slot; None while nothing is known.
    outlook: Outlook | None = None
    #: Counts the connections that streamed.
    sessions: int = 0


@dataclass
class Requests:
    """What was asked from outside: a piece that ends at or after `cut`; the end of reading (`draining`); that the slot
    is given up (`give_up`), on the host where it was found in danger (`give_up_on`).
    """

    cut: Lsn = field(default_factory=lambda: Lsn(0))
    draining: bool = False
    give_up: bool = False
    give_up_on: str | None = None


@dataclass(frozen=True, slots=True)
class GivenUp:
    """Slots that were given up or lost since the start, and where the last new one stands: the source may have removed
    all WAL before. `pending`: where to go on is not decided yet.
    """

    count: int = 0
    lsn: Lsn | None = None
    pending: bool = False


class Board:
    """Built once per stream; outlives restarts of its workers."""

    def __init__(
        self, repository: Repository, directory: Path, settings: StreamSettings, clock: Clock, steps: Steps
    ) -> None:
        self.repository = repository
        self.settings = settings
        self.clock = clock
        self.steps = steps
        self.source = SourceView()
        self.requests = Requests()
        self.stores: dict[str, StoreView] = {name: StoreView() for name in repository.stores}
        self.sealer_bell = Bell()
        self.shipper_bell = Bell()
        self.gaps: tuple[LsnRange, ...] = ()
        #: By segment, the object that holds a complete raw segment of the spool: what makes it removable.
        self.objects: dict[str, str] = {}
        self.given_up = GivenUp()
        #: Whether the source repeated the newest segment since this process began: no torn tail is left.
        self.tail_confirmed = False
        self.began = clock.monotonic()
        self.directory = directory
        self._lock = Lock()
        self.release_lock = Lock()
        #: When it is worth looking again at what may go (monotonic seconds).
        self.release_due = -1e9
        self._problems: dict[str, Problem] = {}
        self._spool: Spool | None = None

    @property
    def spool(self) -> Spool | None:
        """The spool; None until the system id is known, from an older spool or the source."""
        return self._spool

    def spooled(self) -> tuple[int, ...]:
        """System ids that the spool's directory knows."""
        return spooled_system_ids(self.directory)

    def stores_answered(self) -> bool:
        """Whether every store was asked which clusters it holds, and one at least has answered."""
        views = list(self.stores.values())
        return all(view.asked for view in views) and any(view.system_ids is not None for view in views)

    def accepted(self) -> int | None:
        """The system id that an operator said is to be followed, by the newest note in any store; None without any."""
        found = [view.accepted for view in self.stores.values() if view.accepted is not None]
        return max(found)[1] if found else None

    def beside(self) -> Board:
        """A board of its own over the same repository and spool directory, for what is left of another system id."""
        return Board(self.repository, self.directory, self.settings, self.clock, self.steps)

    def open_spool(self, system_id: int, segment_size: int | None = None) -> Spool:
        """The spool of this system id, opened by whoever knows it first. Raises HostLacks, WalConflict."""
        with self._lock:
            if self._spool is None:
                self._spool = Spool(self.directory, system_id, describer, segment_size)
        self.ring()
        return self._spool

    def ring(self) -> None:
        """Something changed for sealer and shippers."""
        self.sealer_bell.ring()
        self.shipper_bell.ring()

    def ready(self) -> Iterator[tuple[StoreView, Holdings]]:
        """Every store whose catalog is known."""
        for view in self.stores.values():
            holdings = view.holdings
            if holdings is not None:
                yield view, holdings

    def histories(self) -> dict[int, TimelineHistory]:
        """Every timeline history that a store or the spool knows."""
        found: dict[int, TimelineHistory] = {}
        for _, holdings in self.ready():
            found.update(holdings.histories)
        if self._spool is not None:
            for timeline, content in self._spool.histories().items():
                found[timeline] = TimelineHistory.parse(timeline, content)
        return found

    def ends(self) -> dict[int, Lsn]:
        """The end of what is held of each timeline, here or in a store."""
        found = {timeline: end for timeline, _, end in (self._spool.stretches() if self._spool else ()) if end}
        for _, holdings in self.ready():
            for timeline in holdings.coverage.by_timeline:
                end = holdings.coverage.end(timeline)
                if end is not None and end > found.get(timeline, -1):
                    found[timeline] = end
        return found

    def before_holes(self, ends: dict[int, Lsn]) -> dict[int, Lsn]:
        """`ends`, or where the stores' newest timeline has its first open hole, when the spool that would have filled
        it is lost: puts that run side by side leave such. Holes that `prune` made lie before a snapshot: closed.
        """
        if not ends or self._spool is None or self._spool.stretches():
            return ends
        covered, timeline, closed = Coverage.of(), max(ends), Lsn(0)
        for gap in self.gaps:
            covered = covered.add(gap.timeline, gap.start, gap.end)
        for _, holdings in self.ready():
            covered = covered.union(holdings.accounted)
            taken = (snapshot.start for snapshot in holdings.snapshots if snapshot.timeline == timeline)
            closed = max([closed, *taken])
        open_ = [hole.start for hole in holes(covered) if hole.timeline == timeline and hole.end > closed]
        return {**ends, timeline: min([ends[timeline], *open_])}

    def acknowledgeable(self) -> Position:
        """What may be acknowledged now."""
        if self._spool is None:
            return START
        return acknowledgeable(
            self.settings.acknowledge, self._spool.flushed, [view.durable for view in self.stores.values()]
        )

    def furthest(self) -> Position:
        """The furthest durable position of any store."""
        return max((view.durable for view in self.stores.values()), default=START)

    def record_gap(self, gap: LsnRange, reason: str) -> None:
        """Make a gap known: here at once, and as a note that every store gets (promise 6)."""
        if self._spool is None:
            return
        keyring = self.repository.keyring
        known = Coverage.of((lost.timeline, lost.start, lost.end) for lost in self.gaps)
        for part in known.missing(gap.timeline, gap.start, gap.end):
            name, data = gap_note(keyring, self._spool.system_id, part, reason, self.clock.now())
            self._spool.sealed.put_document(name, data)
            self.gaps = (*self.gaps, part)
            for _, holdings in self.ready():
                holdings.lose(part)
        self.ring()

    def ask_to_give_up(self, seen: int, host: str) -> None:
        """Ask that the slot on `host` be given up, unless that happened since `seen` were."""
        with self._lock:
            if self.given_up.count == seen:
                self.requests.give_up_on, self.requests.give_up = host, True

    def replaced(self, why: Literal["given up", "lost"], lsn: Lsn | None) -> None:
        """The slot is a new one, which keeps WAL from `lsn` on."""
        with self._lock:
            self.given_up = GivenUp(self.given_up.count + 1, lsn, pending=why == "given up")
            self.requests.give_up = False
        if lsn is None:
            return  # it is gone again already: the next connection sees to that
        self.problem("given up", Problem(
            5,
            f"slot {self.settings.slot} was {why} and made again: the source does not keep the WAL before {lsn}",
            "What it has removed becomes a recorded gap; the next snapshot closes it.",
        ))  # fmt: skip

    def decided(self) -> None:
        """Where to go on after the last slot that was given up is decided."""
        with self._lock:
            self.given_up = replace(self.given_up, pending=False)

    def catching_up(self) -> bool:
        """Whether whole segments only are sealed: the slot is in danger, and more WAL waits at the source. Never while
        a commit may wait for a store.
        """
        source, spool = self.source, self._spool
        if spool is None or source.outlook is None or not source.outlook.strained:
            return False
        behind = (source.server_lsn or 0) - spool.flushed.lsn
        return self.settings.acknowledge == "spool" and behind >= spool.segment_size

    def problem(self, key: str, problem: Problem | ReplicatorError | None) -> None:
        """Set what is wrong about `key`; None: nothing any more."""
        with self._lock:
            if problem is None:
                self._problems.pop(key, None)
            else:
                self._problems[key] = Problem.of(problem) if isinstance(problem, ReplicatorError) else problem

    @property
    def problems(self) -> Mapping[str, Problem]:
        """Everything that is wrong now."""
        with self._lock:
            return dict(self._problems)

    def nap(self, stop: Event, seconds: float) -> None:
        """Wait, unless asked to stop."""
        self.clock.wait(stop, seconds)

"""What to ask the source for next, and what a refusal means. Pure.

Always our own durable end, rounded down to a segment start (trap 1). A source is accepted when its history does not
contradict ours; a cluster restored from this repository is the normal case.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from replicator.core.coverage import LsnRange
from replicator.core.lsn import Lsn
from replicator.core.timeline import TimelineHistory
from replicator.errors import ForeignSource


@dataclass(frozen=True, slots=True)
class Source:
    """What the source says of itself: identity, flushed end, and the history of its timeline."""

    system_id: int
    timeline: int
    lsn: Lsn
    history: TimelineHistory


@dataclass(frozen=True, slots=True)
class StartAt:
    """Ask for `timeline` from `lsn`, a segment start. `held` is our end there: bytes below it are here already.

    `beyond` is what we hold of an older timeline after its switch point: kept, and reported. `lost` is what we shall
    never get: the spool follows a newer timeline, which the source left aside, and can't go back to an older one.
    """

    timeline: int
    lsn: Lsn
    held: Lsn
    beyond: LsnRange | None = None
    lost: LsnRange | None = None


def check_system(system_id: int, known: Iterable[int], accepted: int | None = None, cluster: str = "CLUSTER") -> None:
    """Raise ForeignSource when spool or stores hold WAL of other clusters only, or an operator said which one of them
    is followed (`accepted`) and it is another.
    """
    ours = sorted(set(known)) if accepted is None else [accepted]
    if ours and system_id not in ours:
        held = "holds" if accepted is None else "follows"
        raise ForeignSource(
            f"the source is cluster {system_id}, the repository {held} cluster {', '.join(map(str, ours))}",
            hint="Correct conninfo in [source], or give a new cluster a policy and stores of its own. If it took the "
            f"other one's place, after pg_upgrade, run `replicator init {cluster} --accept-system {system_id}`.",
        )


def check_histories(source: TimelineHistory, known: Mapping[int, TimelineHistory]) -> None:
    """Raise ForeignSource when the source came to a timeline another way than we know it."""
    for number, (timeline, _) in enumerate([*source.parents, (source.timeline, Lsn(0))]):
        ours = known.get(timeline)
        if ours is not None and ours.parents != source.parents[:number]:
            raise ForeignSource(
                f"timeline {timeline} of the source has another history than in the repository",
                hint="Two servers were promoted to the same timeline number. Stream from the one whose WAL is here, "
                "or give the other a policy and stores of its own.",
                timeline=timeline,
            )


def next_start(source: Source, held: Mapping[int, Lsn], segment_size: int) -> StartAt:
    """Where to go on, given the end of what is held of each timeline (not empty). Raises ForeignSource."""
    newest = max(held)
    if newest > source.timeline:
        raise ForeignSource(
            f"the source is on timeline {source.timeline}, the repository already follows timeline {newest}",
            hint="A former primary came back. Stream from the server that was promoted.",
        )
    on_path = [timeline for timeline in held if source.history.on_path(timeline)]
    if not on_path:
        raise ForeignSource(
            f"timeline {source.timeline} of the source does not come from any timeline in the repository",
            hint="Give this cluster a policy and stores of its own.",
        )
    timeline = max(on_path)
    end = held[timeline]
    switch = source.history.switchpoint(timeline)
    if switch is None and source.lsn < end:
        raise ForeignSource(
            f"the source's timeline {timeline} ends at {source.lsn}, before our {end}",
            hint="The source lost WAL that it had sent. Restore it from this repository, or promote a standby.",
        )
    if switch is None or (end < switch and timeline == newest):
        return StartAt(timeline, end.floor(segment_size), end)
    following = next(stretch.timeline for stretch in source.history.path() if stretch.timeline > timeline)
    place = switch.floor(segment_size)
    beyond = LsnRange(timeline, switch, end) if end > switch else None
    lost = LsnRange(timeline, end, place) if end < place else None
    return StartAt(following, place, switch, beyond, lost)


def first_start(source: Source, restart: Lsn | None, segment_size: int) -> StartAt:
    """Where to begin when nothing is held: where the slot keeps WAL from, else the source's end."""
    lsn = restart if restart is not None else source.lsn
    start = lsn.floor(segment_size)
    return StartAt(source.history.timeline_of(start), start, start)


def after_removal(source: Source, start: StartAt, restart: Lsn | None, segment_size: int) -> tuple[StartAt, ...]:
    """Where the source may still give WAL when `start` was removed: from where the slot keeps it, else from its end."""
    places = [lsn.floor(segment_size) for lsn in (restart, source.lsn) if lsn is not None]
    later = sorted({place for place in places if place > start.held})
    return tuple(StartAt(source.history.timeline_of(place), place, place) for place in later)


def gaps_between(history: TimelineHistory, start: StartAt, then: StartAt) -> tuple[LsnRange, ...]:
    """What is lost when streaming goes on at `then` instead of at our own end."""
    lost: list[LsnRange] = []
    position = start.held
    for stretch in history.path():
        if stretch.timeline < start.timeline or stretch.timeline > then.timeline:
            continue
        end = then.lsn if stretch.end is None or stretch.timeline == then.timeline else min(stretch.end, then.lsn)
        if position < end:
            lost.append(LsnRange(stretch.timeline, position, end))
            position = end
    return tuple(lost)

"""Which store a drill restores from and to which moment: chosen, or drawn by a seed. Pure."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from replicator.core.lsn import Lsn
from replicator.core.moment import from_microseconds
from replicator.core.target import RecoveryTarget, TargetKind
from replicator.core.windows import Window
from replicator.errors import TargetUnreachable
from replicator.restore.plan import StoreView
from replicator.restore.search import CLOCK_SLACK_US

_KINDS = (TargetKind.LATEST, TargetKind.LSN, TargetKind.TIME)
#: The first and the last moment of a window, in microseconds.
Times = Callable[[StoreView, Window], tuple[int, int]]


def choose_view(views: Sequence[StoreView], rng: random.Random) -> StoreView:
    """One store's view of the newest system id that has a window. Raises TargetUnreachable."""
    for system_id in dict.fromkeys(view.catalog.system_id for view in views):
        able = [view for view in views if view.catalog.system_id == system_id and view.windows]
        if able:
            return rng.choice(able)
    names = ", ".join(dict.fromkeys(view.catalog.store for view in views)) or "its stores"
    raise TargetUnreachable(
        f"nothing can be restored from {names}: no snapshot has all of its WAL",
        hint="Take a snapshot with `replicator snapshot take` while the daemon runs.",
    )


def choose_target(view: StoreView, rng: random.Random, times: Times) -> tuple[RecoveryTarget, str | None]:
    """A reachable moment of that view: the latest, an LSN or a time, each as likely; and the snapshot where only that
    one reaches it (an isolated point).
    """
    window = rng.choice(view.windows)
    kind = rng.choice(_KINDS)
    if window.start == window.end:
        return RecoveryTarget(TargetKind.IMMEDIATE, timeline=window.timeline), window.snapshot.label
    if kind is TargetKind.TIME:
        begin, end = times(view, window)
        begin += CLOCK_SLACK_US  # a window's first moment is told by the clock of the host that took the snapshot
        if begin < end:
            moment = from_microseconds(rng.randint(begin, end))
            return RecoveryTarget(kind, time=moment, timeline=window.timeline), None
    if kind is TargetKind.LSN:
        lsn = Lsn(rng.randrange(window.start, window.end))
        return RecoveryTarget(kind, lsn=lsn, timeline=window.timeline), None
    return RecoveryTarget(TargetKind.LATEST, timeline=window.timeline), None

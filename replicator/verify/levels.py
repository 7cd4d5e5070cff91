"""All levels, in the order in which they run: what is quick first, what fills the time that is left last."""

from __future__ import annotations

from collections.abc import Collection

from replicator.verify.compare import CompareLevel
from replicator.verify.coverage import CoverageLevel
from replicator.verify.drill import DrillLevel
from replicator.verify.model import Level
from replicator.verify.objects import ObjectsLevel

#: A new level is one line here.
LEVELS: tuple[Level, ...] = (
    CoverageLevel(),
    DrillLevel(),
    CompareLevel(),
    ObjectsLevel(),
)


def chosen_levels(asked: Collection[str], levels: tuple[Level, ...] = LEVELS) -> tuple[Level, ...]:
    """The levels of these names; all when none is named."""
    return tuple(level for level in levels if not asked or level.name in asked)

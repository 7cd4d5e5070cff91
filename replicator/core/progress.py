"""Progress of a long verb: plain facts that a terminal, a pipe and the daemon each render in their own way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Progress:
    """One report. `unit` is "bytes", "objects" or "segments"; `total` 0 means unknown; `facts` carry named values
    (for example `stop_lsn`) that the daemon acts on.
    """

    kind: str
    phase: str
    done: int = 0
    total: int = 0
    unit: str = "bytes"
    facts: dict[str, Any] = field(default_factory=dict)


Report = Callable[[Progress], None]


def silent(_: Progress) -> None:
    """A Report that says nothing."""

"""Which of conninfo's hosts is asked first: the one that streamed last; after one that is not ours any more, the next.

libpq's rule, the first primary, is not enough: a former primary that comes back calls itself one, too. What is kept is
a hint for this host's processes, not a fact: a host that does not answer is followed by the others, in their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from replicator.errors import HostLacks
from replicator.postgres.conninfo import Target


class Memory(Protocol):
    """Where the hint outlives the process."""

    @property
    def source_host(self) -> str | None:
        """The label of the host that streamed last."""

    def record_source_host(self, label: str) -> None:
        """Remember it. Raises HostLacks."""


class Hosts:
    """The labels of conninfo's servers. Any thread may ask."""

    def __init__(self, labels: Sequence[str], memory: Memory | None = None) -> None:
        self._labels = tuple(labels)
        self._memory = memory
        self._first = memory.source_host if memory is not None and len(labels) > 1 else None

    @property
    def first(self) -> str | None:
        """Who is to be asked first; None: no matter."""
        return self._first

    def streams(self, label: str) -> None:
        """This one is ours: it comes first from now on."""
        if len(self._labels) < 2 or label == self._first:
            return
        self._first = label
        if self._memory is not None:
            with suppress(HostLacks):  # other processes then try conninfo's order
                self._memory.record_source_host(label)

    def pass_over(self, label: str | None) -> bool:
        """This one is not ours: the next comes first. False: there is no other."""
        if label not in self._labels or len(self._labels) < 2:
            return False
        self._first = self._labels[(self._labels.index(label) + 1) % len(self._labels)]
        return True


def in_order(targets: tuple[Target, ...], first: str | None) -> tuple[Target, ...]:
    """The servers as they are to be tried: `first`, those after it, those before it."""
    labels = [target.label for target in targets]
    if first not in labels:
        return targets
    place = labels.index(first)
    return targets[place:] + targets[:place]

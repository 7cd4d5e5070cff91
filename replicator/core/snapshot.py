"""A snapshot's facts, as its manifest's name and signed table tell them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from replicator.core.lsn import Lsn

LABEL = re.compile(r"\d{8}T\d{6}Z\Z")


def label_of(moment: datetime) -> str:
    """The label of a snapshot begun at that second: `20261122T020000Z`, sixteen characters, sorts by time."""
    return moment.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")


@dataclass(frozen=True, slots=True, order=True)
class Snapshot:
    """Read from a manifest's name alone: enough for the catalog and for windows. LSNs: the label's START (redo) and
    the stop of the backup; `timeline` the one it was taken on.
    """

    label: str
    system_id: int
    timeline: int
    start: Lsn
    stop: Lsn

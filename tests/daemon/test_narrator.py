"""What the log says of a stream: changes only."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import structlog
from structlog.testing import capture_logs

from replicator.core.lsn import Lsn
from replicator.daemon.narrator import Narrator
from replicator.stream import StreamStatistics
from replicator.stream.statistics import Problem, StoreStreamStatistics

STORE = StoreStreamStatistics("ok", "closed", Lsn(1), 0, 0.0, 0)
WELL = StreamStatistics(
    state="streaming", host="db1:5432", timeline=1, system_id=1, received_lsn=None, flushed_lsn=None,
    acknowledged_lsn=None, only_in_spool_bytes=0, spool_bytes=0, back_pressure=False, wal_status=None,
    safe_wal_bytes=None, server_lsn=None, stores={"local": STORE}, gaps=(), problems=(),
)  # fmt: skip


def told(*moments: StreamStatistics) -> list[dict[str, Any]]:
    """The lines of these moments, told one after the other."""
    with capture_logs() as lines:
        narrator = Narrator(structlog.stdlib.get_logger())
        for moment in moments:
            narrator.tell(moment)
    return [dict(line) for line in lines]


def test_a_beginning_is_not_told() -> None:
    """Before anything is known there is nothing to say; then each state is said once."""
    early = replace(WELL, state="connecting", stores={"local": replace(STORE, state="starting")})
    lines = told(early, WELL, WELL)
    assert [(line["event"], line["state"]) for line in lines] == [("stream_state", "streaming"), ("store_state", "ok")]


def test_away_and_back() -> None:
    """What went wrong is a warning with its hint, said once while its numbers change; its end is said too."""
    away = replace(WELL, state="away", problems=(Problem(5, "no answer for 3 s", "Start it."),))
    later = replace(away, problems=(Problem(5, "no answer for 4 s", "Start it."),))
    lines = told(WELL, away, later, WELL)[2:]
    assert [(line["event"], line["log_level"]) for line in lines] == [
        ("stream_state", "warning"), ("problem", "warning"), ("stream_state", "info"), ("problem_ended", "info")
    ]  # fmt: skip
    assert lines[1]["hint"] == "Start it."


def test_a_store_that_goes() -> None:
    """A store's state is its own."""
    gone = replace(WELL, stores={"local": replace(STORE, state="away")})
    assert told(WELL, gone)[2:] == [{"event": "store_state", "log_level": "warning", "store": "local", "state": "away"}]

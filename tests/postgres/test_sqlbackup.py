"""A base backup by SQL functions, on a real server: what it says at its end, and when that is no backup."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from replicator.errors import SourceUnavailable
from replicator.postgres.query import SqlConnection
from replicator.postgres.sqlbackup import SqlBackup
from tests.clusters import TestCluster

pytestmark = pytest.mark.server


def test_the_end_of_a_backup(primary: TestCluster) -> None:
    """Its label, timeline and range of WAL; the session is over with it."""
    sql = SqlConnection(primary.conninfo(), None)
    with SqlBackup(sql, label="uji") as backup:
        backup.alive()
        end = backup.stop()
    assert (end.timeline, end.tablespace_map) == (1, b"")
    assert end.stop_lsn > backup.start_lsn
    assert b"LABEL: uji\n" in end.label
    assert sql.closed


def test_a_standby_that_changed_its_timeline(primary: TestCluster) -> None:
    """It followed its primary to another timeline while it was read: SourceUnavailable (5), as over the network. Start
    and stop lie on two timelines, of which the label tells one.
    """

    class Following(SqlConnection):
        def execute(self, sql: str, parameters: Sequence[Any] | None = None) -> list[tuple[Any, ...]]:
            rows = super().execute(sql, parameters)
            return [(2,)] if "min_recovery_end_timeline" in sql else rows

    with (
        SqlBackup(Following(primary.conninfo(), None), label="uji") as backup,
        pytest.raises(SourceUnavailable, match="from timeline 1 to 2") as failure,
    ):
        backup.stop()
    assert failure.value.exit_code == 5

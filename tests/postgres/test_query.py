"""Plain SQL on a real server."""

import pytest

from replicator.errors import SourceUnavailable
from replicator.postgres.query import Privileges, SqlConnection
from tests.clusters import PASSWORD, REPLICATION_USER, TestCluster

pytestmark = pytest.mark.server


def test_facts_about_a_source(primary: TestCluster) -> None:
    """Settings, privileges, recovery, position."""
    with SqlConnection(primary.conninfo(REPLICATION_USER), PASSWORD.encode()) as sql:
        found = sql.settings(["wal_level", "max_wal_senders", "no_such_setting"])
        assert found == {"wal_level": "replica", "max_wal_senders": "10"}
        assert sql.privileges() == Privileges(REPLICATION_USER, superuser=False, replication=True)
        assert not sql.is_in_recovery()
        assert sql.synchronous_standby_names() == ""
        assert sql.wal_end() > 0
        assert sql.execute("SELECT 1 WHERE 2 = %s", (2,)) == [(1,)]
        assert sql.execute("SELECT '50%'") == [("50%",)]


def test_a_statement_has_a_deadline(primary: TestCluster) -> None:
    """The server ends what takes too long, and the session goes on."""
    with SqlConnection(primary.conninfo(), None, statement_timeout=1.0) as sql:
        with pytest.raises(SourceUnavailable) as caught:
            sql.execute("SELECT pg_sleep(20)")
        assert caught.value.context["sqlstate"] == "57014"
        assert sql.execute("SELECT 1") == [(1,)]


def test_a_closed_session_is_unavailable(primary: TestCluster) -> None:
    """Also when the server ended it."""
    with SqlConnection(primary.conninfo(), None) as sql:
        with pytest.raises(SourceUnavailable):
            sql.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        assert sql.closed

"""What a replica is told and what its state means, without a server."""

from __future__ import annotations

from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from replicator.core.lsn import Lsn
from replicator.errors import Conflict, NotFound, SourceRefused, SourceUnavailable, UsageError
from replicator.policy import ReplicaPolicy
from replicator.postgres.standby import StandbyFacts, passfile_line, primary_conninfo, slot_of_replica
from replicator.replicas import health
from replicator.replicas.health import Seen, judge
from replicator.replicas.job import check_kind, find_replica
from replicator.replicas.place import MARK, ReplicaMark, ReplicaPlace
from replicator.replicas.settings import ReplicaSettings, append, at_least

POLICY = ReplicaPolicy(name="r1", data_directory=Path("/r1"), follow="primary", max_lag="1MB")  # type: ignore[arg-type]


def test_conninfo_speaks_the_standbys_version() -> None:
    """A keyword that the standby's libpq doesn't know would stop its walreceiver: it is left out."""
    given = (
        "host=db1 port=5433 user=replicator dbname=postgres sslmode=require sslnegotiation=direct"
        " require_auth=scram-sha-256 channel_binding=require password=rahasia replication=database"
    )
    told = {
        major: conninfo_to_dict(primary_conninfo(given, major, application_name="r1", passfile=Path("/p/x")))
        for major in (12, 15, 16, 17, 18)
    }
    assert "channel_binding" not in told[12]
    assert "channel_binding" in told[15]
    assert [major for major in told if "require_auth" in told[major]] == [16, 17, 18]
    assert [major for major in told if "sslnegotiation" in told[major]] == [17, 18]
    for found in told.values():
        assert not {"password", "dbname", "replication"} & set(found)
        assert (found["host"], found["port"], found["passfile"], found["application_name"]) == (
            "db1",
            "5433",
            "/p/x",
            "r1",
        )
        assert "target_session_attrs" not in found


def test_conninfo_of_several_hosts_follows_the_primary() -> None:
    """With several hosts the walreceiver is told, in its version's word, to take the primary."""
    told = {
        major: primary_conninfo("host=a,b user=r", major, application_name="r1", passfile=None) for major in (13, 14)
    }
    assert "target_session_attrs=read-write" in told[13]
    assert "target_session_attrs=primary" in told[14]


def test_password_file() -> None:
    """Colons and backslashes are escaped as libpq reads them; a line end can't be written."""
    assert passfile_line(b"a:b\\c") == b"*:*:*:*:a\\:b\\\\c\n"
    with pytest.raises(UsageError):
        passfile_line(b"a\nb")


def test_settings_are_at_least_the_primarys() -> None:
    """The higher of what the primary has now and had at the snapshot; the block comes last, where it wins."""
    primary, snapshot = {"max_connections": "100", "max_wal_senders": "20"}, {"max_connections": "300"}
    assert at_least(primary, snapshot) == {"max_connections": 300, "max_wal_senders": 20}
    told = ReplicaSettings(
        "host=a", "s", "true", 5433, "localhost", Path("/r1"), 150000, primary, snapshot, {"ssl": "off"}
    )
    text = append("max_connections = 1\nprimary_conninfo = 'old'", told)
    values = dict(line.split(" = ", 1) for line in text.splitlines() if " = " in line)
    assert values["max_connections"] == "300"
    assert values["primary_conninfo"] == "'host=a'"
    assert (values["archive_mode"], values["recovery_target_time"], values["ssl"]) == ("off", "''", "'off'")
    assert (values["archive_library"], values["allow_in_place_tablespaces"]) == ("''", "on")


@pytest.mark.parametrize(
    ("seen", "primary", "state", "lag", "code"),
    [
        (None, 100, None, None, None),
        (Seen(StandbyFacts(True, True, Lsn(90))), 100, health.STREAMING, 10, None),
        (Seen(StandbyFacts(True, True, Lsn(110))), 100, health.STREAMING, 0, None),
        (Seen(StandbyFacts(True, False, Lsn(90))), 100, health.CATCHING_UP, 10, None),
        (Seen(StandbyFacts(True, True, Lsn(90))), None, health.STREAMING, None, None),
        (Seen(StandbyFacts(True, True, Lsn(1))), 2**21, health.LAGGING, 2**21 - 1, "replica_lagging"),
        (Seen(StandbyFacts(False, False, Lsn(1))), 100, health.PROMOTED, None, "replica_promoted"),
        (Seen(error=SourceUnavailable("no answer"), made=True), 100, health.AWAY, None, "replica_away"),
        (Seen(error=SourceUnavailable("no answer")), 100, health.AWAY, None, "replica_away"),
        (Seen(error=SourceRefused("wrong password"), made=True), 100, health.REFUSED, None, "replica_away"),
        (Seen(error=SourceUnavailable("no answer"), made=False), 100, health.ABSENT, None, "replica_absent"),
    ],
)
def test_health(seen: Seen | None, primary: int | None, state: str | None, lag: int | None, code: str | None) -> None:
    """What is seen becomes a state, a lag where both ends are known, and a complaint where something is wrong."""
    found = judge("frk", POLICY, seen, Lsn(primary) if primary is not None else None)
    assert (found.state, found.lag_bytes) == (state, lag)
    assert (found.complaint.code if found.complaint else None) == code
    if found.complaint is not None:
        assert found.complaint.hint.endswith(".")


def test_names() -> None:
    """A slot's name is one that PostgreSQL takes; an unknown replica names the known ones."""
    assert slot_of_replica("frk", "frk-replica-1") == "replicator_frk_frk_replica_1"
    assert len(slot_of_replica("c" * 60, "n" * 60)) == 63
    assert find_replica("frk", (POLICY,), "r1") is POLICY
    with pytest.raises(NotFound):
        find_replica("frk", (POLICY,), "r2")
    check_kind(POLICY)
    with pytest.raises(UsageError, match="logical"):
        check_kind(POLICY.model_copy(update={"kind": "logical"}))


class TestWhoseItIs:
    """Only what was made as this replica is removed."""

    @pytest.fixture
    def place(self, tmp_path: Path) -> ReplicaPlace:
        """A data directory of a finished replica, with a foreign file beside it."""
        place = ReplicaPlace(tmp_path / "data", tmp_path / "state" / "r1.json")
        (tmp_path / "data" / "global").mkdir(parents=True)
        (tmp_path / "data" / "global" / "pg_control").write_bytes(b"\x01" * 64)
        (tmp_path / "other").write_text("penting")
        return place

    def mark(self, place: ReplicaPlace) -> ReplicaMark:
        """Its mark, begun."""
        mark = ReplicaMark.new("frk", "r1", place.data_directory, "s", None, ())
        place.begin(mark)
        return mark

    def test_ours(self, place: ReplicaPlace) -> None:
        """A directory that holds the same mark is ours, and goes whole."""
        mark = self.mark(place)
        (place.data_directory / MARK).write_bytes(mark.to_bytes())
        assert place.mark() == mark
        place.check_ours(mark)
        place.remove(mark)
        assert sorted(path.name for path in place.data_directory.parent.iterdir()) == ["other", "state"]
        with pytest.raises(NotFound):
            place.mark()

    def test_another_cluster_in_the_same_place(self, place: ReplicaPlace) -> None:
        """A cluster without the mark, or with another replica's, is never touched."""
        mark = self.mark(place)
        with pytest.raises(Conflict):
            place.check_ours(mark)
        other = ReplicaMark.new("frk", "r1", place.data_directory, "s", None, ())
        (place.data_directory / MARK).write_bytes(other.to_bytes())
        with pytest.raises(Conflict):
            place.check_ours(mark)
        (place.data_directory / MARK).unlink()
        (place.data_directory / MARK).symlink_to(place.record)
        with pytest.raises((Conflict, OSError)):
            place.check_ours(mark)

    def test_the_policy_was_changed(self, place: ReplicaPlace, tmp_path: Path) -> None:
        """A data_directory that is not the one it was made in is refused."""
        mark = self.mark(place)
        with pytest.raises(Conflict, match="was made in"):
            ReplicaPlace(tmp_path / "elsewhere", place.record).check_ours(mark)

    def test_never_finished(self, place: ReplicaPlace) -> None:
        """What was never finished can't be anybody's cluster: it goes by the mark in the state directory alone."""
        (place.data_directory / "global" / "pg_control").unlink()
        place.check_ours(self.mark(place))

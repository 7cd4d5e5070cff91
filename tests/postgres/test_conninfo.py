"""From conninfo to single servers."""

import pytest

from replicator.errors import UsageError
from replicator.postgres.conninfo import targets_of


def test_each_host_is_a_target_with_our_defaults() -> None:
    """Several hosts, one port for all, keepalives unless set."""
    found = targets_of("host=db1,db2 port=5433 user=u keepalives_idle=7", b"geheim", application_name="slot")
    assert [target.label for target in found] == ["db1:5433", "db2:5433"]
    assert found[1].parameters["host"] == "db2"
    assert found[1].parameters["keepalives_idle"] == "7"
    assert found[1].parameters["tcp_user_timeout"] == "20000"
    assert found[1].parameters["password"] == "geheim"
    assert found[1].parameters["fallback_application_name"] == "slot"
    assert "replication" not in found[1].parameters


def test_ports_go_with_their_hosts() -> None:
    """As many ports as hosts."""
    found = targets_of("host=a,b port=1,2", None, application_name="x", replication="true")
    assert [target.label for target in found] == ["a:1", "b:2"]
    assert found[0].parameters["dbname"] == "replication"
    with pytest.raises(UsageError):
        targets_of("host=a,b,c port=1,2", None, application_name="x")


def test_only_conninfo_can_ask_for_another_kind_of_server() -> None:
    """A primary is wanted unless target_session_attrs says otherwise."""
    assert targets_of("host=a", None, application_name="x")[0].wants_primary
    assert not targets_of("host=a target_session_attrs=any", None, application_name="x")[0].wants_primary


def test_no_secret_in_what_is_shown() -> None:
    """Neither a broken conninfo nor a target's repr shows the password."""
    with pytest.raises(UsageError) as caught:
        targets_of("host=a password=rahasia oops", None, application_name="x")
    assert "rahasia" not in str(caught.value)
    assert "oops" not in str(caught.value)
    assert "rahasia" not in repr(targets_of("host=a password=rahasia", None, application_name="x"))

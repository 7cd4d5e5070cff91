"""What a restored cluster is told."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from replicator.core.lsn import Lsn
from replicator.core.target import RecoveryTarget, TargetKind
from replicator.errors import UsageError
from replicator.restore.recoverydir import RecoveryDirectory
from replicator.restore.settings import RecoverySettings, after_recovery, append, minimal_files, quote
from replicator.restore.start import missing_includes, overrides
from tests.restore.story import settings_of

LATEST = RecoveryTarget(TargetKind.LATEST)
TOLD = RecoverySettings(LATEST, 2, "promote", "guard", "end", 150018, {"max_connections": "200", "port": "5432"})


def test_a_restored_cluster_never_reaches_its_source() -> None:
    """Archiving, streaming and synchronous standbys are off, and stay off after recovery."""
    text = append("archive_command = 'cp %p /archive'\nprimary_conninfo = 'host=db1'\n", TOLD)
    for conf in (text, after_recovery(text)):
        found = settings_of(conf)
        assert found["archive_mode"] == "off"
        for name in ("archive_command", "archive_library", "primary_conninfo", "primary_slot_name",
                     "synchronous_standby_names"):  # fmt: skip
            assert found[name] == ""
    assert settings_of(text)["max_connections"] == "200"
    assert "max_connections" not in after_recovery(text)
    assert "restore_command" not in after_recovery(text)
    assert "recovery_target" not in after_recovery(text)


def test_tablespaces_inside_the_data_directory_are_let_be() -> None:
    """Recovery alone is told that they may be there; releases that don't know the setting hear nothing of it."""
    text = append("", TOLD)
    assert settings_of(text)["allow_in_place_tablespaces"] == "on"
    assert "allow_in_place_tablespaces" not in after_recovery(text)
    assert "allow_in_place_tablespaces" not in append("", replace(TOLD, server_version=140020))


@pytest.mark.parametrize(
    ("target", "name", "value"),
    [
        (RecoveryTarget(TargetKind.IMMEDIATE), "recovery_target", "immediate"),
        (RecoveryTarget(TargetKind.LSN, lsn=Lsn(0x1_0000_0010)), "recovery_target_lsn", "1/10"),
        (RecoveryTarget(TargetKind.XID, xid=42), "recovery_target_xid", "42"),
        (RecoveryTarget(TargetKind.NAME, name="it's"), "recovery_target_name", "it''s"),
        (
            RecoveryTarget(TargetKind.TIME, time=datetime(2026, 11, 22, 3, 4, 5, 60, UTC)),
            "recovery_target_time",
            "2026-11-22 03:04:05.000060+00",
        ),
    ],
)
def test_exactly_one_target_is_set(target: RecoveryTarget, name: str, value: str) -> None:
    """The target is the last line of its kind; every other kind is set to nothing before it, for stale ones."""
    text = append("recovery_target_xid = '7'\n", replace(TOLD, stop=replace(target, inclusive=False), action="pause"))
    found = settings_of(text)
    assert found[name] == value
    others = {key for key in found if key.startswith("recovery_target") and found[key] not in ("", value)}
    assert others == {"recovery_target_timeline", "recovery_target_inclusive", "recovery_target_action"}
    assert (found["recovery_target_inclusive"], found["recovery_target_action"]) == ("off", "pause")
    assert (found["hot_standby"], found["recovery_target_timeline"]) == ("on", "2")
    last = [line for line in text.splitlines() if line.startswith("recovery_target")][-1]
    assert last.startswith(f"{name} =")


def test_our_blocks_are_replaced_not_repeated() -> None:
    """A cluster that was itself restored carries one of each block, and the lines of others are kept."""
    told = "# replicator replica: begin\nport = 5499\n# replicator replica: end\n"
    assert append(f"work_mem = '8MB'\n{told}", TOLD) == append("work_mem = '8MB'", TOLD)
    once = append("work_mem = '8MB'", TOLD)
    assert append(once, TOLD) == once
    assert after_recovery(once).startswith("work_mem = '8MB'\n")


def test_values_are_quoted_for_the_file_and_the_shell() -> None:
    """Quotes, backslashes and per cent signs in a path survive PostgreSQL and the shell; a line end is refused."""
    recovery = RecoveryDirectory.beside(Path("/srv/it's 100%/data"))
    assert recovery.path == Path("/srv/it's 100%/data.replicator")
    assert "'/srv/it'\\''s 100%%/data.replicator/guard'" in recovery.restore_command
    assert quote("a'b\\c") == "'a''b\\\\c'"
    with pytest.raises(UsageError):
        quote("a\nb")


def test_minimal_files_are_safe() -> None:
    """Nobody gets in without the socket's owner or a password."""
    files = minimal_files({"max_connections": "50", "shared_preload_libraries": "x"})
    assert "trust" not in files["pg_hba.conf"]
    assert settings_of(files["postgresql.conf"])["max_connections"] == "50"
    assert "shared_preload_libraries" not in files["postgresql.conf"]


def test_files_outside_the_tree_are_overridden(tmp_path: Path) -> None:
    """What postgresql.conf names and this host lacks is overridden for --start; what is there is left alone."""
    (tmp_path / "there.conf").touch()
    (tmp_path / "postgresql.conf").write_text(
        f"hba_file = '/nowhere/pg_hba.conf'\nident_file = '{tmp_path}/there.conf' # well\ndata_directory '/var/lib/x'\n"
        "ssl = on\nssl_cert_file = '/etc/ssl/none.pem'\ninclude = '/nowhere/more.conf'\n#include 'not.conf'\n"
    )
    found = overrides(tmp_path)
    assert found["hba_file"] == str(tmp_path / "pg_hba.conf")
    assert found["data_directory"] == str(tmp_path)
    assert found["ssl"] == "off"
    assert "ident_file" not in found
    assert missing_includes(tmp_path) == ("/nowhere/more.conf",)

"""`replicator init` on the command line: the sheet, repetition, another host, another repository."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest

from replicator.upkeep.sheet import read_sheet
from tests.composed import json_of, replicator, write_policies

NOWHERE = "host=127.0.0.1 port=1 user=replicator"


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    """A cluster that was not initialised; its server is not there."""
    return write_policies(tmp_path, NOWHERE)


def test_first_and_second_time(policies: Path, tmp_path: Path) -> None:
    """The first run makes everything and prints the sheet; the second changes nothing and exits with 0."""
    sheet = tmp_path / "sheet.txt"
    first = replicator("init", "frk", "--sheet", sheet, "--policies", policies)
    assert first.returncode == 0
    assert read_sheet(sheet).secret in first.stdout
    assert stat.S_IMODE(sheet.stat().st_mode) == 0o600
    assert "the daemon will make it" in first.stdout
    again = json_of("init", "frk", "--policies", policies)
    assert again["created"] is False
    assert again["stores"] == {"local": "unchanged"}
    assert again["root"] == read_sheet(sheet).root


def test_sheet_is_never_overwritten(policies: Path, tmp_path: Path) -> None:
    """A file that is there already is a usage error before anything is put; a repetition that has no sheet to hand out
    doesn't mind it.
    """
    sheet = tmp_path / "sheet.txt"
    sheet.write_text("mine")
    assert replicator("init", "frk", "--sheet", sheet, "--policies", policies).returncode == 2
    assert sheet.read_text() == "mine"
    assert not list((tmp_path / "local").rglob("*.json"))
    sheet.unlink()
    for _ in range(2):
        assert replicator("init", "frk", "--sheet", sheet, "--policies", policies).returncode == 0


def test_json_without_a_file_tells_the_sheet_on_standard_error(policies: Path) -> None:
    """With --json standard output is one JSON value without the secret; the sheet goes to standard error."""
    done = replicator("init", "frk", "--json", "--policies", policies)
    assert done.returncode == 0
    assert "x25519-secret:" not in done.stdout
    assert "x25519-secret:" in done.stderr


def test_store_newly_added(policies: Path, tmp_path: Path) -> None:
    """A store that is added later gets the same repository."""
    first = json_of("init", "frk", "--policies", policies)
    write_policies(tmp_path, NOWHERE, stores=("local", "second"))
    again = json_of("init", "frk", "--policies", policies)
    assert again["repository"] == first["repository"]
    assert again["stores"] == {"local": "unchanged", "second": "created"}


def test_another_host_registers(policies: Path, tmp_path: Path) -> None:
    """A host without a writer key becomes a writer with the passphrase, and not without a secret that fits (7)."""
    first = json_of("init", "frk", "--policies", policies)
    (policies / "writer.key").unlink()
    (tmp_path / "passphrase").write_text("salah")
    assert json_of("init", "frk", "--policies", policies, code=7)["error"]["type"] == "WrongSecret"
    write_policies(tmp_path, NOWHERE)
    again = json_of("init", "frk", "--policies", policies)
    assert again["writer"] != first["writer"]


def test_another_repository_is_refused(policies: Path, tmp_path: Path) -> None:
    """Stores that are suddenly empty are not filled with a new repository: this host remembers the root (8)."""
    json_of("init", "frk", "--policies", policies)
    shutil.rmtree(tmp_path / "local")
    error = json_of("init", "frk", "--policies", policies, code=8)["error"]
    assert str(tmp_path / "state/frk/root") in error["hint"]

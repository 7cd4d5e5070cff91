"""`key` and `mirror` as they are typed: what they print, and every mistake as a sentence with its exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from replicator.cli.main import run
from replicator.seal.signature import SEALING, SEALING_SECRET, key_text, new_x25519, x25519_public
from tests.composed import write_policies

NOWHERE = "host=127.0.0.1 port=1 user=replicator"
Read = pytest.CaptureFixture[str]
Typed = Callable[..., Any]


@pytest.fixture
def typed(tmp_path: Path, capsys: Read) -> Typed:
    """Types a verb: its JSON, or with `text` what it prints. The cluster is initialised, its server away."""
    policies = write_policies(tmp_path, NOWHERE, stores=("local", "offsite"))

    def type_(*words: object, code: int = 0, text: bool = False) -> Any:
        capsys.readouterr()
        line = [*map(str, words), "--policies", str(policies), *(() if text else ("--json",))]
        assert run(line) == code, capsys.readouterr()
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return out + err if text else json.loads(out)

    type_("init", "frk", "--sheet", tmp_path / "sheet")
    return type_


def test_a_key_is_added_shown_tried_and_removed(typed: Typed, tmp_path: Path) -> None:
    """The whole life of a recipient, by a file of its own."""
    private = new_x25519()
    identity = tmp_path / "identity"
    identity.touch(mode=0o600)
    identity.write_text(key_text(SEALING_SECRET, private))
    public = key_text(SEALING, x25519_public(private))
    added = typed("key", "add", "frk", public, "--label", "kantor")
    assert added["stores"] == {"local": "added", "offsite": "added"}
    shown = typed("key", "list", "frk", text=True)
    assert "kantor" in shown
    assert added["ids"][0] in shown
    assert "there is nothing yet to open" in typed("key", "test", "frk", "--identity", identity, text=True)
    done = typed("key", "remove", "frk", added["ids"][0], "--yes")
    assert done["stores"] == {"local": "removed", "offsite": "removed"}
    tested = typed("key", "test", "frk", "--identity", identity, code=7)
    assert [trial["ok"] for trial in tested["trials"]] == [True, True, False, False]


def test_a_new_sheet_opens_and_the_old_one_can_go(typed: Typed, tmp_path: Path) -> None:
    """A lost sheet is replaced; the last one is not removed by mistake; a sheet of elsewhere is refused."""
    old = next(row["id"] for row in typed("key", "list", "frk")["recipients"] if row["label"] == "recovery sheet")
    assert "recovery sheet" in typed("key", "remove", "frk", old, "--yes", code=8)["error"]["message"]
    typed("key", "add", "frk", "--new-sheet", tmp_path / "second")
    typed("key", "remove", "frk", old, "--yes")
    assert typed("key", "test", "frk", "--sheet", tmp_path / "second")["ok"]
    assert not typed("key", "test", "frk", "--sheet", tmp_path / "sheet", code=7)["ok"]
    text = (tmp_path / "sheet").read_text().replace("repository: ", "repository: 0")
    (tmp_path / "foreign").write_text(text)
    assert (
        "another repository" in typed("key", "test", "frk", "--sheet", tmp_path / "foreign", code=7)["error"]["message"]
    )


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("key", "add", "frk"), 2),
        (("key", "add", "frk", "x25519:short"), 2),
        (("key", "add", "frk", "x25519:" + "A" * 43, "--new-passphrase-env", "HOME"), 2),
        (("key", "remove", "frk", "passphrase-0000000000000000"), 2),
        (("key", "remove", "frk", "passphrase-0000000000000000", "--yes"), 3),
        (("key", "rotate", "nobody"), 2),
        (("mirror", "frk", "--to", "nowhere"), 3),
        (("mirror", "frk", "--from", "local", "--to", "local"), 2),
    ],
)
def test_mistakes(typed: Typed, words: tuple[str, ...], code: int) -> None:
    """Each is one sentence with a hint and its documented exit code."""
    error = typed(*words, code=code)["error"]
    assert error["exit_code"] == code
    assert error["message"]


def test_mirror_says_what_it_did(typed: Typed, tmp_path: Path) -> None:
    """Equal stores lack nothing; a document that one lost comes back; a store that is away is named with exit 6."""
    assert "lacks nothing" in typed("mirror", "frk", text=True)
    lost = next((tmp_path / "offsite/frk/writers").iterdir())
    lost.unlink()
    assert typed("mirror", "frk", "--dry-run")["stores"]["offsite"]["keys"] == 1
    assert not lost.exists()
    assert "got 1 key document," in typed("mirror", "frk", text=True)
    assert lost.exists()
    (tmp_path / "offsite").rename(tmp_path / "gone")
    assert set(typed("mirror", "frk", code=6)["silent"]) == {"offsite"}
    assert typed("key", "rotate", "frk", code=6)["error"]["type"] == "StoreMisconfigured"

"""`replicator policy check|explain|schema`, as an operator calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from replicator.cli.main import run

Read = pytest.CaptureFixture[str]
SHIPPED = Path(__file__).resolve().parents[2] / "policies"
WRONG = 'cluster = "frk"\nclutser = 1\n[source]\nconninfo = "host=a password=hunter2"\n[encryption]\n'


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    """A policy with four problems, one of them a secret."""
    path = tmp_path / "frk.toml"
    path.write_text(WRONG)
    path.chmod(0o600)
    return path


def shipped() -> list[str]:
    """The files that we ship."""
    return [str(path) for path in sorted(SHIPPED.glob("*.toml"))]


def test_check_of_the_shipped_policies_is_well(capsys: Read) -> None:
    """Each file is named, and nothing stands on standard error."""
    assert run(["policy", "check", *shipped()]) == 0
    out, err = capsys.readouterr()
    assert (out.count(": well\n"), err) == (3, "")


def test_check_tells_programs_what_was_read(capsys: Read) -> None:
    """Clusters and files in one object."""
    assert run(["policy", "check", "--json", *shipped()]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["ok"], sorted(said["clusters"]), len(said["files"])) == (True, ["fed", "frk"], 3)


def test_check_of_a_directory_takes_the_option_the_variable_and_quiet(
    tmp_path: Path, capsys: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory is found as every verb finds it; --quiet leaves only the exit code."""
    directory = tmp_path / "policies"
    directory.mkdir(mode=0o755)
    for path in SHIPPED.glob("*.toml"):
        (directory / path.name).write_text(path.read_text())
        (directory / path.name).chmod(0o644)
    assert run(["policy", "check", "--policies", str(directory)]) == 0
    assert str(directory / "frk.toml") in capsys.readouterr().out
    monkeypatch.setenv("REPLICATOR_POLICIES", str(directory))
    assert run(["policy", "check", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_check_names_every_problem_with_its_place(wrong: Path, capsys: Read) -> None:
    """Exit 2, every problem, the nearest key, a hint; no traceback and no secret."""
    assert run(["policy", "check", str(wrong)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: 4 problems in the policies\n")
    assert f"{wrong}:2: clutser: is not a key of a policy; did you mean 'cluster'?" in err
    assert f"{wrong}:4: source.conninfo: holds a password." in err
    assert "store: is missing" in err
    assert "nobody could open the repository" in err
    assert "\nhint: " in err
    assert "hunter2" not in err
    assert "Traceback" not in err


def test_check_tells_programs_every_problem(wrong: Path, capsys: Read) -> None:
    """The error object carries them."""
    assert run(["policy", "check", "--json", str(wrong)]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["type"], error["exit_code"], len(error["problems"])) == ("PolicyError", 2, 4)


@pytest.mark.parametrize("verb", ["check", "explain"])
def test_an_absent_file_or_directory_is_a_usage_error(verb: str, tmp_path: Path, capsys: Read) -> None:
    """One sentence and a hint."""
    assert run(["policy", verb, str(tmp_path / "no.toml")]) == 2
    assert "no such file or directory" in capsys.readouterr().err
    assert run(["policy", verb, "--policies", str(tmp_path / "no")]) == 2
    assert "is not a directory" in capsys.readouterr().err


def test_explain_prints_sentences(capsys: Read) -> None:
    """Cluster by cluster, the daemon last; the shipped policies ask for nothing that isn't run."""
    assert run(["policy", "explain", *shipped()]) == 0
    out = capsys.readouterr().out
    assert out.index("fed\n") < out.index("frk\n") < out.index("daemon\n")
    assert "Changes of frk are streamed through slot replicator_frk" in out
    assert "the daemon prunes after each snapshot" in out
    assert "Not run by this version" not in out


def test_explain_tells_programs_the_same(capsys: Read) -> None:
    """Lists of sentences by cluster."""
    assert run(["policy", "explain", "--json", *shipped()]) == 0
    said = json.loads(capsys.readouterr().out)
    assert sorted(said["clusters"]) == ["fed", "frk"]
    assert all(isinstance(sentence, str) for sentence in [*said["clusters"]["frk"], *said["daemon"]])


@pytest.mark.parametrize(
    ("arguments", "keys"),
    [([], {"cluster", "store"}), (["--daemon"], {"api", "log", "state"}), (["policies/daemon.toml"], {"api", "state"})],
)
def test_schema_is_one_json_schema(arguments: list[str], keys: set[str], capsys: Read) -> None:
    """An editor can use it as it is."""
    assert run(["policy", "schema", *arguments]) == 0
    assert keys <= set(json.loads(capsys.readouterr().out)["properties"])

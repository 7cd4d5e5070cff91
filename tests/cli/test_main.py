"""Every failure becomes a sentence, a hint and an exit code; no verb is imported before it is called."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import click
import pytest

import replicator
from replicator.cli.common import Context, common_options
from replicator.cli.main import VERBS, run
from replicator.errors import (
    Interrupted,
    ObjectAbsent,
    PolicyError,
    ReplicatorError,
    StoreUnavailable,
    TargetUnreachable,
)

Read = pytest.CaptureFixture[str]
PROGRAM = [sys.executable, "-m", "replicator"]


def failing(raise_: Callable[[], object]) -> click.Group:
    """A group with one verb that does what the test wants."""

    @click.group()
    def group() -> None:
        """Nothing of its own."""

    @group.command()
    @common_options(progress=True)
    def go(_ctx: Context) -> object:
        return raise_()

    return group


def throw(error: BaseException) -> Callable[[], object]:
    """A verb's body that raises."""

    def body() -> object:
        raise error

    return body


@pytest.mark.parametrize(
    "error",
    [
        ReplicatorError("it broke", hint="Mend it."),
        PolicyError("it is wrong"),
        ObjectAbsent("it is not there"),
        StoreUnavailable("it does not answer", hint="Start it."),
        Interrupted("stopped"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_ours_is_a_sentence_a_hint_and_its_exit_code(error: ReplicatorError, capsys: Read) -> None:
    """People read it on standard error, and standard output stays clean."""
    assert run(["go"], failing(throw(error))) == error.exit_code
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"error: {error.message}\n" + (f"hint: {error.hint}\n" if error.hint else "")


def test_with_json_a_failure_is_one_object_on_standard_output(capsys: Read) -> None:
    """Programs read type, message, hint and exit code."""
    assert run(["go", "--json"], failing(throw(StoreUnavailable("it is away", hint="Wait.")))) == 6
    out, err = capsys.readouterr()
    facts = {"type": "StoreUnavailable", "message": "it is away", "hint": "Wait.", "exit_code": 6}
    assert (json.loads(out), err) == ({"error": facts}, "")


@pytest.mark.parametrize("arguments", [["--progress", "json"], ["--progress=json"], ["--json", "--progress", "json"]])
def test_a_child_of_the_daemon_tells_its_failure_as_its_last_line(arguments: list[str], capsys: Read) -> None:
    """The daemon reads one JSON object a line."""
    assert run(["go", *arguments], failing(throw(ObjectAbsent("no")))) == 3
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["event"] == "error"
    assert json.loads(line)["error"]["exit_code"] == 3


def test_every_problem_of_a_policy_is_printed(capsys: Read) -> None:
    """All at once, in both forms."""
    error = PolicyError("2 problems in the policies", problems=("a: x", "b: y"))
    assert run(["go"], failing(throw(error))) == 2
    assert "  a: x\n  b: y\n" in capsys.readouterr().err
    run(["go", "--json"], failing(throw(error)))
    assert json.loads(capsys.readouterr().out)["error"]["problems"] == ["a: x", "b: y"]


def test_an_unreachable_target_shows_the_windows(capsys: Read) -> None:
    """The operator sees what could be asked for instead."""
    window = {"timeline": 1, "from_lsn": "0/1", "to_lsn": "0/9", "from_time": "t1", "to_time": "t2", "snapshot": "s"}
    error = TargetUnreachable("too late", windows=(window,))
    assert run(["go"], failing(throw(error))) == 3
    assert "reachable: timeline 1, 0/1 to 0/9 (t1 to t2)" in capsys.readouterr().err
    run(["go", "--json"], failing(throw(error)))
    assert json.loads(capsys.readouterr().out)["error"]["windows"] == [window]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_an_interrupt_is_130(error: BaseException, capsys: Read) -> None:
    """Ctrl-C is no traceback."""
    assert run(["go"], failing(throw(error))) == 130
    assert capsys.readouterr().err == "error: interrupted\n"


def test_a_bug_is_one_line_and_the_traceback_only_when_asked_for(capsys: Read) -> None:
    """Exit 1 is a bug of ours; --verbose shows where."""
    body = failing(throw(ZeroDivisionError("two\nlines")))
    assert run(["go"], body) == 1
    err = capsys.readouterr().err
    assert err == "unexpected error: ZeroDivisionError: two lines\nhint: Run with --verbose for the traceback.\n"
    assert run(["go", "--verbose"], body) == 1
    assert "Traceback" in capsys.readouterr().err
    assert run(["go", "--json"], body) == 1
    assert json.loads(capsys.readouterr().out)["error"]["type"] == "ZeroDivisionError"


@pytest.mark.parametrize(("value", "code"), [(None, 0), (0, 0), (44, 44)])
def test_a_verbs_integer_is_its_exit_code(value: object, code: int) -> None:
    """`wal get` says 44, `status` the first problem's code."""
    assert run(["go"], failing(lambda: value)) == code


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no verb was given"),
        (["polcy"], "no such verb 'polcy'"),
        (["policy", "check", "--nope"], "no such option '--nope'"),
        (["policy", "check", "--policies"], "requires an argument"),
        (["policy", "nope"], "no such command 'nope'"),
        (["policy", "check", "--quiet", "--verbose"], "exclude each other"),
    ],
)
def test_a_wrong_call_is_2_in_both_forms(arguments: list[str], said: str, capsys: Read) -> None:
    """A usage error has the same shape as every other failure."""
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err.lower()
    assert "Usage:" not in err
    if arguments:
        assert run([*arguments, "--json"] if "--policies" not in arguments else ["policy", "--json", *arguments]) == 2
        assert json.loads(capsys.readouterr().out)["error"]["exit_code"] == 2


def test_a_misspelt_verb_names_the_nearest(capsys: Read) -> None:
    """A typing error costs one look."""
    run(["restor"])
    assert "Did you mean `replicator restore`?" in capsys.readouterr().err


def test_version_and_help_are_results(capsys: Read) -> None:
    """They go to standard output and are well; help names every verb without importing one."""
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"replicator {replicator.__version__}\n"
    assert run(["--help"]) == 0
    listed = capsys.readouterr().out
    assert all(f"  {verb} " in listed for verb in VERBS)


def test_the_entry_point_imports_little() -> None:
    """restore_command starts once for each segment: no library but click is loaded before the verb is known."""
    code = (
        "import sys, replicator.cli.main, replicator.cli.common\n"
        "heavy = {'rich', 'psycopg', 'boto3', 'cryptography', 'apscheduler', 'structlog', 'waitress'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"


def test_a_verb_loads_no_library_that_it_does_not_use() -> None:
    """A restore and a list of snapshots ask no server, check no page and draw no table before they have begun."""
    code = (
        "import sys, replicator.cli.restore, replicator.restore.run, replicator.cli.source, replicator.compose\n"
        "import replicator.cli.snapshot, replicator.snapshot.view, replicator.store.directory\n"
        "heavy = {'psycopg', 'numpy', 'boto3', 'urllib3', 'rich', 'asyncio', 'sqlite3', 'ssl'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"


def test_a_reader_that_goes_away_is_quiet() -> None:
    """`replicator … | head -1` prints no traceback."""
    process = subprocess.Popen([*PROGRAM, "policy", "schema"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 141
    assert err == b""

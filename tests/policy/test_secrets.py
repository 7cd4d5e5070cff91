"""Secrets are fetched by reference, and never told."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from replicator.errors import HostLacks, PolicyError, ReplicatorError, UsageError
from replicator.policy import SecretRef, resolve_secret
from replicator.policy.secrets import LONGEST_SECRET, parse_secret

WHAT = "the passphrase of frk"


def secret_file(directory: Path, content: bytes, mode: int = 0o600) -> Path:
    """A file that holds a secret."""
    path = directory / "secret"
    path.write_bytes(content)
    path.chmod(mode)
    return path


def script(code: str) -> SecretRef:
    """A command that runs a piece of Python."""
    return SecretRef(command=(sys.executable, "-c", code))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"phrase\n", b"phrase"),
        (b"phrase", b"phrase"),
        (b"phrase\r\n", b"phrase"),
        (b"a\nb\n\n", b"a\nb\n"),
        (b" x ", b" x "),
    ],
)
def test_file_gives_its_bytes_without_one_newline(tmp_path: Path, content: bytes, expected: bytes) -> None:
    """An editor's newline is not part of the secret; everything else is."""
    assert resolve_secret(SecretRef(file=secret_file(tmp_path, content)), what=WHAT) == expected


def test_environment_gives_its_value() -> None:
    """The variable's bytes are the secret."""
    assert resolve_secret(SecretRef(env="PHRASE"), what=WHAT, environ={"PHRASE": "grüße"}) == "grüße".encode()


def test_command_gives_its_output() -> None:
    """A program's standard output is the secret; its standard error is nobody's business."""
    ref = script("import sys; print('phrase'); print('noise', file=sys.stderr)")
    assert resolve_secret(ref, what=WHAT) == b"phrase"


def test_command_runs_without_a_shell() -> None:
    """Arguments reach the program as they are."""
    ref = SecretRef(command=(sys.executable, "-c", "import sys; print(sys.argv[1])", "$HOME; `id`"))
    assert resolve_secret(ref, what=WHAT) == b"$HOME; `id`"


def test_command_ends_at_its_deadline_with_all_it_started() -> None:
    """A program that waits forever, and its child that holds the pipe, cost the deadline and no more."""
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    began = time.monotonic()
    with pytest.raises(HostLacks, match="took more than"):
        resolve_secret(script(code), what=WHAT, deadline_s=0.5)
    assert time.monotonic() - began < 40


@pytest.mark.parametrize(
    "ref",
    [
        SecretRef(env="NOT_SET"),
        SecretRef(env="EMPTY"),
        SecretRef(file=Path("/nonexistent/secret")),
        SecretRef(file=Path("/")),
        SecretRef(command=("/nonexistent/program", "s3cret-argument")),
        SecretRef(command=(sys.executable, "-c", "print('s3cret-argument'); raise SystemExit(3)")),
        SecretRef(command=(sys.executable, "-c", "pass")),
    ],
    ids=str,
)
def test_what_can_not_be_had_is_said_without_the_value(ref: SecretRef) -> None:
    """The host lacks it (9); the error names what and where, never arguments or output."""
    with pytest.raises(HostLacks) as lacking:
        resolve_secret(ref, what=WHAT, environ={"EMPTY": ""})
    assert lacking.value.exit_code == 9
    assert WHAT in lacking.value.message
    assert "s3cret-argument" not in lacking.value.message + lacking.value.hint


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o602, 0o666])
def test_file_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    """A secret that every user can read is none."""
    with pytest.raises(PolicyError, match="open to every user") as refused:
        resolve_secret(SecretRef(file=secret_file(tmp_path, b"phrase", mode)), what=WHAT)
    assert "chmod 600" in refused.value.hint


def test_a_large_file_is_not_a_secret(tmp_path: Path) -> None:
    """What is larger than any secret is not read into memory."""
    path = secret_file(tmp_path, b"x" * (LONGEST_SECRET + 1))
    with pytest.raises(HostLacks, match="too long"):
        resolve_secret(SecretRef(file=path), what=WHAT)


@pytest.mark.parametrize(
    ("ref", "shown"),
    [
        (SecretRef(env="PHRASE"), "environment variable PHRASE"),
        (SecretRef(file=Path("/etc/x")), "file /etc/x"),
        (SecretRef(command=("pass", "show", "frk")), "command pass"),
    ],
)
def test_only_the_reference_is_shown(ref: SecretRef, shown: str) -> None:
    """Neither str nor repr holds a command's arguments."""
    assert str(ref) == shown
    assert repr(ref) == f"SecretRef({shown})"


@pytest.mark.parametrize(
    "value",
    [
        "hunter2",
        42,
        ["hunter2"],
        {},
        {"env": "A", "file": "/b"},
        {"envv": "hunter2"},
        {"env": 5},
        {"env": ""},
        {"env": "A=hunter2"},
        {"file": "relative/path"},
        {"command": "hunter2"},
        {"command": []},
        {"command": ["a", 1]},
    ],
    ids=str,
)
def test_what_is_no_reference_is_refused_without_quoting_a_secret(value: object) -> None:
    """An inline secret, two places, none, and a wrong type are named; the value is not printed."""
    with pytest.raises(UsageError) as refused:
        parse_secret(value)
    assert "hunter2" not in f"{refused.value.message} {refused.value.hint}"


def test_a_misspelt_way_names_the_nearest() -> None:
    """`comand` means `command`."""
    with pytest.raises(UsageError, match="did you mean 'command'"):
        parse_secret({"comand": ["a"]})


def test_an_unreadable_file_is_the_hosts_lack(tmp_path: Path) -> None:
    """Permission denied is a lack of this host, not a traceback."""
    path = secret_file(tmp_path, b"x", 0o000)
    me = os.geteuid()
    if me == 0:
        os.seteuid(65534)  # root reads everything
    try:
        with pytest.raises(ReplicatorError) as lacking:
            resolve_secret(SecretRef(file=path), what=WHAT)
    finally:
        os.seteuid(me)
    assert lacking.value.exit_code == 9

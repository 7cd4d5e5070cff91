"""The guard, run by a real shell: what PostgreSQL is told for each thing that can happen."""

from __future__ import annotations

import os
import struct
import subprocess
import threading
import time
from pathlib import Path

import pytest

from replicator.restore.guard import guard_script

HELD, WANTED, ELSE = (f"0000000100000000000000{number}" for number in ("01", "02", "03"))


@pytest.fixture
def recovery(tmp_path: Path) -> Path:
    """A recovery directory whose name needs quoting, beside an empty data directory."""
    found = tmp_path / "it's a dir.replicator"
    for part in ("ready", "history", "requests"):
        (found / part).mkdir(parents=True)
    (tmp_path / "data/pg_wal").mkdir(parents=True)
    (found / "wanted").write_text(f"{HELD}\n{WANTED}\n")
    (found / "begins").write_text(f"{HELD} 0000000001000000\n{WANTED} 0000000002000000\n")
    (found / "ready" / HELD).write_text("wal")
    (found / "history/00000002.history").write_text("1\t0/1\n")
    return found


def guard(recovery: Path, name: str, *, command: str = "exit 7", patience: int = 5) -> int:
    """Run it as PostgreSQL does, with a shell command in the place of replicator."""
    script = recovery / "guard"
    script.write_text(guard_script(recovery, ["/bin/sh", "-c", command], patience=patience))
    words = ["/bin/sh", str(script), name, "pg_wal/RECOVERYXLOG"]
    return subprocess.run(words, cwd=recovery.parent / "data", timeout=120, check=False).returncode


def delivered(recovery: Path) -> bool:
    """Whether the file is in place."""
    return (recovery.parent / "data/pg_wal/RECOVERYXLOG").exists()


def test_a_prefetched_file_is_moved_into_place(recovery: Path) -> None:
    """The fast path needs no Python, and hands a file over once."""
    assert guard(recovery, HELD) == 0
    assert delivered(recovery)
    assert not (recovery / "ready" / HELD).exists()


def test_what_the_plan_does_not_name_is_absent(recovery: Path) -> None:
    """1 at once: PostgreSQL reads it as the end of the archive."""
    assert guard(recovery, ELSE) == 1
    assert guard(recovery, "00000003.history") == 1


def test_a_history_can_be_asked_for_again(recovery: Path) -> None:
    """PostgreSQL asks for the same history several times."""
    assert [guard(recovery, "00000002.history") for _ in range(2)] == [0, 0]


def test_a_file_handed_over_before_is_the_servers_own(recovery: Path) -> None:
    """Asked for again, the server's kept copy counts; without one it is fetched again, never called absent."""
    kept = recovery.parent / "data/pg_wal" / WANTED
    kept.write_bytes(page(0x2000000))
    assert guard(recovery, WANTED) == 1
    kept.unlink()
    assert guard(recovery, WANTED) == 126


@pytest.mark.parametrize("content", [b"", bytes(64), "recycled"])
def test_a_file_that_was_never_handed_over_is_fetched(recovery: Path, content: bytes | str) -> None:
    """Until version 14 a recovering server recycles old segments under coming names: 1 would end its recovery there."""
    kept = recovery.parent / "data/pg_wal" / WANTED
    kept.write_bytes(page(0x1000000) if isinstance(content, str) else content)
    assert guard(recovery, WANTED) == 126
    assert guard(recovery, WANTED, command="exit 0") == 0
    (recovery / "ready" / WANTED).write_text("wal")
    assert guard(recovery, WANTED) == 0
    assert delivered(recovery)


def page(address: int) -> bytes:
    """The first bytes of a segment: magic, flags, timeline, page address."""
    return struct.pack("=HHIQ", 0xD110, 2, 1, address) + bytes(100)


def test_lost_histories_stop_the_server(recovery: Path) -> None:
    """Without its histories the guard can not say that a timeline's number is free."""
    (recovery / "history/00000002.history").unlink()
    (recovery / "history").rmdir()
    assert guard(recovery, "00000002.history") == 126


@pytest.mark.parametrize(
    ("command", "code"),
    [("exit 0", 0), ("exit 44", 1), ("exit 1", 126), ("exit 6", 126), ("exit 125", 126), ("exit 127", 126),
     ("exit 143", 143), ("kill -TERM $$", 143)],
)  # fmt: skip
def test_exit_codes_are_mapped(recovery: Path, command: str, code: int) -> None:
    """0 and signals pass, 44 means absent, everything else stops the server."""
    assert guard(recovery, WANTED, command=command) == code


def test_a_lost_plan_stops_the_server(recovery: Path) -> None:
    """Without its list the guard can not call anything absent."""
    (recovery / "wanted").unlink()
    assert guard(recovery, ELSE) == 126


def test_a_living_prefetcher_is_waited_for(recovery: Path) -> None:
    """The guard asks for the file and takes it as soon as it is there."""
    (recovery / "prefetching").write_text(f"{os.getpid()}\n")

    def answer() -> None:
        while not (recovery / "requests" / WANTED).exists():
            time.sleep(0.01)
        (recovery / "ready" / WANTED).write_text("wal")

    thread = threading.Thread(target=answer)
    thread.start()
    assert guard(recovery, WANTED, patience=60) == 0
    thread.join()
    assert delivered(recovery)


@pytest.mark.parametrize("alive", [True, False])
def test_a_dead_or_slow_prefetcher_is_not_waited_for_long(recovery: Path, alive: bool) -> None:
    """Its death ends the wait at once, its silence after the patience; then replicator is asked."""
    pid = os.getpid() if alive else 2**22 + 1
    (recovery / "prefetching").write_text(f"{pid}\n")
    assert guard(recovery, WANTED, command="exit 44", patience=1) == 1

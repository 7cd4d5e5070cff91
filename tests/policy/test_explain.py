"""A policy explains itself in sentences, and says what isn't run yet."""

from __future__ import annotations

from pathlib import Path

import pytest

from replicator.policy import DaemonPolicy, explain, explain_daemon, parse_policy

PATH = Path("/etc/replicator/frk.toml")


def told(text: str) -> str:
    """All sentences, each of which is one."""
    sentences = explain(parse_policy(text, PATH))
    assert all(sentence[0].isupper() and sentence.endswith(".") for sentence in sentences)
    return "\n".join(sentences)


@pytest.mark.parametrize(
    ("added", "said"),
    [
        ("", "through slot replicator_frk"),
        ("", "fsynced in the spool"),
        ('[stream]\nacknowledge = "store"', "when at least one store has it durably"),
        ('[stream]\nacknowledge = "stores"', "when every store has it durably"),
        ("", "Beware: one store"),
        ("", "Beware: no snapshot is scheduled"),
        ("", "This host can open the repository"),
        ("", "Nothing is ever pruned"),
        ("", "Nothing is verified by itself"),
        ("", "just before its max_slot_wal_keep_size is reached (without one: 32GB)"),
        ('[snapshot]\nschedule = "0 2 * * *"', "A snapshot is taken at '0 2 * * *'"),
        ('[snapshot]\nrate_limit = "5MB"', "at 5MB/s"),
        ("[relay]", "Not run by this version: the relay on 127.0.0.1:6432"),
        (
            "[retention]\ndaily = 7",
            "Every moment of the last 14d and 7 daily snapshots are kept, and what is pinned; the daemon prunes",
        ),
        ('[verify]\nschedule = "0 4 * * 0"', "Every store is verified at '0 4 * * 0' (cron, UTC)"),
        (
            '[[replica]]\nname = "r"\ndata_directory = "/r"\nfollow = "primary"\n[snapshot]\nread_from = "r"',
            "from replica r instead, over the network, where that follows the primary and is at most 16MB behind",
        ),
        ('[[replica]]\nname = "r"\ndata_directory = "/r"\nfollow = "primary"', "Replica r is a standby on this host"),
        ('[[store]]\nname = "b"\nurl = "s3://bkt/p"\nobject_lock = "2d"', "locked there for 2d"),
        (
            '[[store]]\nname = "b"\nurl = "s3://bkt/p"\nendpoint = "http://h:1"',
            "bucket bkt, below p/ at http://h:1 without TLS",
        ),
    ],
)
def test_a_policy_says_what_it_means(minimal: str, added: str, said: str) -> None:
    """Each key that changes what happens changes a sentence."""
    assert said in told(f"{minimal}{added}\n")


def test_not_encrypted_is_said_loudly(minimal: str) -> None:
    """Nobody overlooks mode none."""
    assert "Beware: nothing is encrypted" in told(minimal.replace('passphrase = { env = "PHRASE" }', 'mode = "none"'))


def test_where_snapshots_are_read(minimal: str) -> None:
    """The data directory where there is one, and what is done where it is not the server's."""
    assert "A snapshot is read over the replication protocol" in told(minimal)
    assert "A snapshot is read from /d, where that is the server's own, else over the replication protocol" in told(
        minimal.replace("[source]", '[source]\ndata_directory = "/d"')
    )


def test_the_daemon_explains_itself() -> None:
    """An address that others reach without a token is warned of."""
    assert not any("Beware" in sentence for sentence in explain_daemon(DaemonPolicy()))
    public = DaemonPolicy.model_validate({"api": {"listen": "0.0.0.0:8009"}})
    assert any("Beware" in sentence for sentence in explain_daemon(public))

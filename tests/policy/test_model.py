"""Every key of the interface is read, and every wrong value is named."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from pathlib import Path

import pytest
from pydantic import ValidationError

from replicator.errors import PolicyError, UsageError
from replicator.policy import Policy, SecretRef, StorePolicy, TolerancePolicy, parse_policy
from replicator.policy.addresses import split_listen, split_store_url

PATH = Path("/etc/replicator/frk.toml")
KEY = urlsafe_b64encode(bytes(range(32))).decode().rstrip("=")

FULL = f"""\
cluster = "frk"
compression = "zstd:3"
[source]
conninfo = "host=db1,db2 port=5432 user=replicator dbname=postgres"
password = {{ env = "FRK_REPLICATION_PASSWORD" }}
slot = "replicator_frk"
data_directory = "/var/lib/postgresql/15/main"
binaries = "/usr/lib/postgresql"
[[store]]
name = "local"
url = "file:///var/lib/replicator/repository"
[[store]]
name = "offsite"
url = "s3://spt-backup/a/b"
endpoint = "https://s3.example.org"
region = "ap-southeast-3"
access_key = {{ env = "OFFSITE_ACCESS_KEY" }}
secret_key = {{ command = ["pass", "offsite"] }}
ca = "/etc/ssl/certs/institute.pem"
object_lock = "14d"
[encryption]
mode = "aes-256-gcm"
passphrase = {{ file = "/etc/replicator/passphrase" }}
recipients = ["x25519:{KEY}"]
identity = {{ file = "/root/replicator.key" }}
root = "ed25519:{KEY}"
writer_key = {{ file = "/etc/replicator/other.key" }}
[stream]
acknowledge = "stores"
spool = "/var/lib/replicator/spool"
spool_limit = "10GB"
piece_interval = "1s"
piece_size = "1MB"
protect = "data"
[relay]
listen = "127.0.0.1:6432"
[snapshot]
schedule = "0 2 * * *"
workers = 4
rate_limit = "50MB"
checkpoint = "spread"
read_from = "frk-replica-1"
[retention]
window = "14d"
daily = 7
weekly = 4
monthly = 12
prune = "elsewhere"
[verify]
schedule = "0 4 * * 0"
scratch = "/var/lib/replicator/scratch"
max_age = "8d"
[[verify.probe]]
database = "frk"
sql = "SELECT count(*) FROM rencana_kerja"
at_least = 1
[[replica]]
name = "frk-replica-1"
host = "10.0.0.12"
data_directory = "/var/lib/postgresql/frk-replica-1"
port = 5433
follow = "relay"
kind = "physical"
max_lag = "16MB"
[tolerance]
connect_timeout = "5s"
request_timeout = "30s"
retry_budget = "2m"
breaker_failures = 5
breaker_reset = "30s"
"""


def problems(text: str) -> tuple[str, ...]:
    """The problems of a policy that is refused."""
    with pytest.raises(PolicyError) as refused:
        parse_policy(text, PATH)
    return refused.value.problems


def test_every_key_of_the_interface_is_read() -> None:
    """The interface's own example, with nothing left at its default, is read value by value."""
    policy = parse_policy(FULL, PATH)
    offsite = policy.stores[1]
    assert (policy.cluster, str(policy.compression), policy.path) == ("frk", "zstd:3", PATH)
    assert policy.source.password == SecretRef(env="FRK_REPLICATION_PASSWORD")
    assert policy.source.data_directory == Path("/var/lib/postgresql/15/main")
    assert (offsite.scheme, offsite.bucket, offsite.prefix) == ("s3", "spt-backup", "a/b")
    assert (offsite.secret_key, offsite.object_lock) == (SecretRef(command=("pass", "offsite")), 14 * 86400.0)
    assert policy.encryption.recipients == (f"x25519:{KEY}",)
    assert policy.encryption.writer_key == Path("/etc/replicator/other.key")
    assert (policy.stream.spool_limit, policy.stream.piece_interval) == (10 * 2**30, 1.0)
    assert policy.relay is not None
    assert policy.relay.listen == "127.0.0.1:6432"
    assert (policy.snapshot.schedule, policy.snapshot.rate_limit) == ("0 2 * * *", 50 * 2**20)
    assert policy.retention is not None
    assert (policy.retention.window, policy.retention.monthly) == (14 * 86400.0, 12)
    assert policy.verify is not None
    assert (policy.verify.max_age, policy.verify.probes[0].at_least) == (8 * 86400.0, 1)
    assert (policy.replicas[0].port, policy.replicas[0].max_lag) == (5433, 2**24)
    assert (policy.tolerance.retry_budget, policy.tolerance.breaker_failures) == (120.0, 5)


def test_defaults_of_a_smallest_policy(minimal: str) -> None:
    """Absent keys have the documented defaults; absent tables of what isn't wanted stay absent."""
    policy = parse_policy(minimal, PATH)
    assert policy.source.slot == "replicator_frk"
    assert policy.encryption.mode == "aes-256-gcm"
    assert policy.encryption.writer_key == Path("/etc/replicator/writer.key")
    assert (policy.stream.acknowledge, policy.stream.spool_limit) == ("spool", 10 * 2**30)
    assert (policy.snapshot.schedule, policy.snapshot.rate_limit) == (None, None)
    assert (policy.relay, policy.retention, policy.verify, policy.replicas) == (None, None, None, ())
    assert policy.stores[0].directory == Path("/var/lib/replicator/repository")


def test_slot_of_a_cluster_with_a_hyphen_is_a_slot(minimal: str) -> None:
    """PostgreSQL has no hyphen in slot names."""
    assert parse_policy(minimal.replace('"frk"', '"frk-b"'), PATH).source.slot == "replicator_frk_b"


def test_absent_zero_and_off_are_three_values(minimal: str) -> None:
    """Off is None where a key can be off; zero is a number, refused where it makes no sense; absent is a default."""
    assert parse_policy(f'{minimal}[snapshot]\nrate_limit = "off"\n', PATH).snapshot.rate_limit is None
    assert "is not from 32kB" in problems(f'{minimal}[snapshot]\nrate_limit = "0B"\n')[0]
    assert parse_policy(f"{minimal}[retention]\ndaily = 0\n", PATH).retention is not None
    assert "can not be off" in problems(f'{minimal}[stream]\nspool_limit = "off"\n')[0]
    assert parse_policy(f'{minimal}[tolerance]\nretry_budget = "0s"\n', PATH).tolerance.retry_budget == 0.0


@pytest.mark.parametrize(
    ("added", "place", "said"),
    [
        ('[stream]\nspool_limt = "1GB"', "stream.spool_limt", "did you mean 'spool_limit'?"),
        ("[streem]", "streem", "did you mean 'stream'?"),
        ('[snapshot]\nspool_limit = "1GB"', "snapshot.spool_limit", "it belongs under [stream]"),
        ('[relay]\nxyzzy = "1"', "relay.xyzzy", "known here: listen"),
        ("[stream]\nspool_limit = 10", "stream.spool_limit", "must be a string with a unit, not an integer"),
        ('[stream]\nspool_limit = "10"', "stream.spool_limit", "has no unit"),
        ('[stream]\npiece_interval = "1min"', "stream.piece_interval", "unknown unit 'min'"),
        ('[stream]\nacknowledge = "disk"', "stream.acknowledge", 'must be "spool", "store" or "stores"'),
        ('[stream]\nspool = "spool"', "stream.spool", "is not an absolute path"),
        ("stream = 5", "stream", "must be a table"),
        ('[snapshot]\nworkers = "2"', "snapshot.workers", "must be an integer, not a string"),
        ("[snapshot]\nworkers = true", "snapshot.workers", "must be an integer, not a boolean"),
        ("[snapshot]\nworkers = 0", "snapshot.workers", "is not from 1 to 64"),
        ('[snapshot]\nschedule = "daily"', "snapshot.schedule", "has 1 fields, not 5"),
        ('[snapshot]\nread_from = "nobody"', "snapshot.read_from", "nor the name of a replica"),
        (
            '[snapshot]\nread_from = "a"\n[[replica]]\nname = "a"\ndata_directory = "/a"\nkind = "logical"',
            "snapshot.read_from",
            "is a logical replica",
        ),
        ('[relay]\nlisten = "6432"', "relay.listen", "is not an address to listen on"),
        ('[[verify.probe]]\ndatabase = "frk"', "verify.probe[1].sql", "is missing"),
        ('[[verify.probe]]\ndatabase = "a"\nsql = "b"\nequals = 1\nat_least = 1', "verify.probe[1]", "Keep one"),
        ('[[verify.probe]]\ndatabase = "a"\nsql = "b"\nequals = 1.5', "verify.probe[1].equals", "an integer or"),
        ('[[verify.probe]]\ndatabase = "a"\nsql = "b"\nnewer_than = 5', "verify.probe[1].newer_than", "with a unit"),
        ('[replica]\nname = "a"', "replica", "Write [[replica]]"),
        ('[[replica]]\nname = "a"\ndata_directory = "/a"', "replica[a]", "follows the relay, and there is none"),
        ('[[store]]\nname = "local"\nurl = "s3://bkt"', "store[local].name", "is the name of two stores"),
        ('[[store]]\nname = "b"\nurl = "file:///var/lib/replicator/repository/"', "store[b].url", "one copy"),
        ('[[store]]\nname = "b"\nurl = "file:///b"\nregion = "x"', "store[b].region", "no meaning for a file:// store"),
        ('[[store]]\nname = "b"\nurl = "s3://bkt"\naccess_key = {env="A"}', "store[b].access_key", "needs secret_key"),
        ('[[store]]\nname = "b"\nurl = "ftp://b"', "store[b].url", "is not the URL of a store"),
        ('[[store]]\nname = "b"\nurl = "s3://u:pw@bkt"', "store[b].url", "holds neither user"),
        ('[[store]]\nname = "b"\nurl = "s3://bkt/../x"', "store[b].url", "is not a prefix"),
        ('[[store]]\nname = "b"\nurl = "file://host/b"', "store[b].url", "absolute directory"),
        ('[[store]]\nname = "b"\nurl = "file:///"', "store[b].url", "absolute directory"),
        ('[[store]]\nname = "B b"\nurl = "s3://bkt"', "store[B b].name", "is not a name"),
        ('[[store]]\nname = "b"\nurl = "s3://bkt"\nendpoint = "s3.example.org"', "store[b].endpoint", "S3 service"),
    ],
    ids=lambda value: value if isinstance(value, str) and "\n" not in value else "",
)
def test_a_wrong_value_is_named_with_its_place(minimal: str, added: str, place: str, said: str) -> None:
    """One mistake gives one problem: file, line, key and what to write instead."""
    text = f"{added}\n{minimal}" if added.startswith("stream =") else f"{minimal}{added}\n"
    found = problems(text)
    assert len(found) == 1
    assert found[0].startswith(f"{PATH}:")
    assert f" {place}: " in found[0]
    assert said in found[0]


@pytest.mark.parametrize(
    "conninfo",
    [
        "host=a password=hunter2",
        "host=a PASSWORD = 'hunter2'",
        "password=hunter2",
        "user='x'password=hunter2",
        "host=a sslpassword=hunter2",
        "postgresql://u:hunter2@a/db",
        "postgresql://a/db?user=u&password=hunter2",
    ],
)
def test_a_password_in_conninfo_is_refused_and_not_printed(minimal: str, conninfo: str) -> None:
    """Secrets stand in a policy by reference only; the problem doesn't quote the value."""
    found = problems(minimal.replace("host=db1 user=replicator", conninfo))
    assert "source.conninfo: holds a password" in found[0]
    assert "hunter2" not in "".join(found)


@pytest.mark.parametrize(
    "conninfo", ["host=a passfile=/x", "postgresql://u@a:5432/db", "service=frk", "host=a,b user=u"]
)
def test_a_conninfo_without_password_is_well(minimal: str, conninfo: str) -> None:
    """Only passwords are looked for; libpq reads the rest."""
    assert parse_policy(minimal.replace("host=db1 user=replicator", conninfo), PATH).source.conninfo == conninfo


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("root", f'"x25519:{KEY}"'),
        ("root", f'"ed25519:{KEY}="'),
        ("root", f'"ed25519:{KEY[:-1]}"'),
        ("root", f'"ed25519:{KEY[:-1]}9"'),
        ("root", '"ed25519:' + "+" * 43 + '"'),
        ("root", "5"),
        ("recipients", f'"x25519:{KEY}"'),
        ("recipients", '["x25519:short"]'),
        ("recipients", f'["x25519:{KEY}", "x25519:{KEY}"]'),
        ("writer_key", '{ env = "A" }'),
        ("passphrase", '"hunter2"'),
        ("mode", '"aes-128"'),
    ],
)
def test_a_wrong_key_or_secret_is_refused(minimal: str, key: str, value: str) -> None:
    """Keys are 32 bytes in base64url of their own kind; secrets are references; nothing secret is printed."""
    text = minimal if key == "passphrase" else f"{minimal}{key} = {value}\n"
    found = problems(text.replace('{ env = "PHRASE" }', value) if key == "passphrase" else text)
    assert [f" encryption.{key}: " in problem for problem in found] == [True]
    assert "hunter2" not in found[0]


def test_encryption_needs_someone_who_can_open_unless_none_is_said(minimal: str) -> None:
    """Encryption fails closed: off is written, never slipped into."""
    nobody = minimal.replace('passphrase = { env = "PHRASE" }\n', "")
    assert "nobody could open" in problems(nobody)[0]
    assert "encryption: is missing" in problems(nobody.replace("[encryption]\n", ""))[0]
    assert parse_policy(f'{nobody}mode = "none"\n', PATH).encryption.mode == "none"
    assert parse_policy(f'{nobody}recipients = ["x25519:{KEY}"]\n', PATH).encryption.passphrase is None


def test_all_problems_come_at_once_in_the_files_order() -> None:
    """Wrong keys, wrong values, missing tables and rules over several keys stand in one list, by line."""
    found = problems('cluster = "FRK"\nbogus = 1\n[source]\nslot = "A"\n[[store]]\nname = "a"\n[encryption]\n')
    lines = [problem.split(":")[1] for problem in found]
    assert [line for line in lines if line.strip().isdigit()] == sorted(
        line for line in lines if line.strip().isdigit()
    )
    for said in ("'FRK' is not a name", "bogus: is not a key", "conninfo: is missing", "'A' is not a slot name",
                 "store[a].url: is missing", "nobody could open"):  # fmt: skip
        assert sum(said in problem for problem in found) == 1
    assert len(found) == 6


def test_a_policy_is_frozen_and_holds_no_secret(minimal: str) -> None:
    """Models can't be changed, and what they print is references."""
    policy = parse_policy(minimal, PATH)
    with pytest.raises(ValidationError):
        policy.cluster = "fed"
    assert "environment variable PHRASE" in repr(policy)


def test_code_may_give_values_that_are_already_read() -> None:
    """What a file must write with a unit, code gives in seconds, bytes and paths."""
    assert TolerancePolicy(connect_timeout=0.5, breaker_failures=2).connect_timeout == 0.5
    store = StorePolicy(name="a", url="s3://bkt", secret_key=SecretRef(env="X"), object_lock=None)
    assert store.secret_key == SecretRef(env="X")


def test_store_is_found_by_name() -> None:
    """A store's name finds it, another finds nothing."""
    policy: Policy = parse_policy(FULL, PATH)
    assert policy.store("offsite") is policy.stores[1]
    assert policy.store("moon") is None


@pytest.mark.parametrize(
    ("text", "parts"),
    [("127.0.0.1:80", ("127.0.0.1", 80)), ("[::1]:8009", ("::1", 8009)), ("host.example:1", ("host.example", 1))],
)
def test_listen_addresses_split(text: str, parts: tuple[str, int]) -> None:
    """IPv6 addresses stand in brackets."""
    assert split_listen(text) == parts


@pytest.mark.parametrize("text", ["", ":80", "a:", "a:0", "a:65536", "::1:80", "[::1]", "a b:80", "a:80x"])
def test_other_listen_addresses_are_refused(text: str) -> None:
    """A port is 1 to 65535, and a host is there."""
    with pytest.raises(UsageError):
        split_listen(text)


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("file:///var/lib/x", ("file", "", "/var/lib/x")),
        ("file:///with%20space", ("file", "", "/with space")),
        ("s3://bkt", ("s3", "bkt", "")),
        ("s3://bkt/", ("s3", "bkt", "")),
        ("s3://bkt/a/b/", ("s3", "bkt", "a/b")),
    ],
)
def test_store_urls_split(url: str, parts: tuple[str, str, str]) -> None:
    """A directory is a path, a bucket may have a prefix."""
    assert split_store_url(url) == parts

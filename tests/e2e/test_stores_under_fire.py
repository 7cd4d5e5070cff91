"""Stores under fire, one at a time, while rows are committed: named, retried, left alone, probed; the other store goes
on; healed, it catches up by itself; and in the end either store alone gives back every acknowledged row.
"""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import psycopg
import pytest

from tests.clusters import TestCluster, cluster_base, have_binaries, make_cluster
from tests.e2e.site import Site, number, site_of
from tests.httpproxy import HttpProxy, http_proxy_to
from tests.servers import S3Server, moto_server

pytestmark = [
    pytest.mark.server,
    pytest.mark.s3,
    pytest.mark.slow,
    pytest.mark.skipif(not have_binaries(), reason="no PostgreSQL binaries"),
]
MB = 2**20
DISK = 192 * MB
BUDGET_S, REQUEST_S = 3.0, 1.0
#: A request's budget is spent, its last try has timed out, the next look is over; and this host is slow.
NAMED_S = BUDGET_S + 2 * REQUEST_S + 10.0
#: The other store's piece is due after 1 s. One that waited for the sick store's tries would mostly be further behind;
#: a single look may meet a moment of this host's slowness, which is still shorter than a fault may hold.
MOSTLY_S, UNDISTURBED_S = 3.0, 12.0
MEMORY = 200 * MB


class Load(threading.Thread):
    """Commits rows all the time, and notes which were acknowledged."""

    def __init__(self, cluster: TestCluster) -> None:
        super().__init__(name="load", daemon=True)
        self._cluster, self._ending = cluster, threading.Event()
        self.acknowledged: list[int] = []

    def run(self) -> None:
        """Until `end`."""
        with psycopg.connect(self._cluster.conninfo(), autocommit=True) as connection:
            while not self._ending.wait(0.02):
                query = b"INSERT INTO kegiatan (isi) SELECT string_agg(md5(random()::text), '') \
                          FROM generate_series(1, 40) RETURNING id"
                row = connection.execute(query).fetchone()
                assert row is not None
                self.acknowledged.append(row[0])

    def end(self) -> None:
        """Stop and wait."""
        self._ending.set()
        self.join(30)


@dataclass
class Seen:
    """What the daemon said of one store at one moment."""

    at: float
    store: dict[str, Any]
    other: dict[str, Any]
    problems: list[dict[str, str]]
    metrics: dict[str, float]
    well: bool


class Fire:
    """A site with a directory on a small disk and an S3 store behind a proxy, and a load that never ends."""

    def __init__(self, site: Site, server: S3Server, proxy: HttpProxy, disk: Path | None) -> None:
        self.site, self.server, self.proxy, self.disk = site, server, proxy, disk
        self.load = Load(site.cluster)
        self.peak = 0

    def look(self, store: str, other: str) -> Seen:
        """Status and metrics now."""
        assert self.site.daemon is not None
        self.peak = max(self.peak, psutil.Process(self.site.daemon.pid).memory_info().rss)
        status = self.site.status()
        with urllib.request.urlopen(f"http://127.0.0.1:{self.site.port}/metrics", timeout=60) as answer:
            text = answer.read().decode()
        metrics = {}
        for line in text.splitlines():
            found = re.fullmatch(rf'replicator_(\w+){{cluster="frk"(?:,(?:store|endpoint)="{store}")?}} (\S+)', line)
            if found:
                metrics[found[1]] = float(found[2])
        problems = [problem for problem in status["problems"] if f"store {store}" in problem["text"]]
        stores = status["stores"]
        return Seen(time.monotonic(), stores[store], stores[other], problems, metrics, bool(status["ok"]))

    def well(self, store: str, other: str, seconds: float = 60) -> None:
        """Wait until both stores are ok, up to date and without a problem."""
        end = number(self.site.cluster.lsn())

        def reached() -> bool:
            seen = self.look(store, other)
            both = (seen.store, seen.other)
            return (
                all(one["state"] == "ok" and one["breaker"] == "closed" for one in both)
                and all(number(one["durable_lsn"]) >= end for one in both)
                and not seen.problems
                and seen.well
            )

        self.site.wait(reached, seconds)

    def burn(self, store: str, other: str, until: Callable[[list[Seen]], bool], seconds: float) -> list[Seen]:
        """Look again and again until enough was seen; everything seen. The other store must be undisturbed."""
        seen: list[Seen] = []
        deadline = time.monotonic() + seconds
        while not (seen and until(seen)):
            assert time.monotonic() < deadline, (seen[-1] if seen else None, self.site.log())
            seen.append(self.look(store, other))
            time.sleep(0.15)
        lags = [one.other["lag_s"] or 0.0 for one in seen]
        assert max(lags) < UNDISTURBED_S, f"{other} lags {max(lags)} s behind while {store} suffers"
        assert median(lags) < MOSTLY_S, f"{other} mostly lags {median(lags)} s behind while {store} suffers"
        assert {one.other["state"] for one in seen} == {"ok"}
        assert {one.other["breaker"] for one in seen} == {"closed"}
        return seen


@pytest.fixture(scope="module")
def fire() -> Iterator[Fire]:
    """Everything burns in one place. At the end each store alone is restored from."""
    with (
        cluster_base() as base,
        make_cluster(base, wal_segsize_mb=1) as cluster,
        site_of(base, cluster) as site,
        moto_server() as server,
        http_proxy_to(server.port) as proxy,
        small_disk(site.base / "local") as disk,
    ):
        cluster.sql("CREATE TABLE kegiatan (id bigserial PRIMARY KEY, isi text)")
        write_policy(site, server, proxy)
        site.run("init", "frk", "--sheet", str(site.base / "sheet"))
        site.start_daemon()
        site.run("snapshot", "take", "frk")
        fire = Fire(site, server, proxy, disk)
        fire.load.start()
        try:
            yield fire
            assert_nothing_lost(fire)
        finally:
            fire.load.end()
            site.close()


def write_policy(site: Site, server: S3Server, proxy: HttpProxy) -> None:
    """A directory and a bucket, and short patience."""
    bucket = site.s3_store(server, port=proxy.port, place=f"{server.bucket}/a")
    site.write_policy(stores=site.directory_store("local/store") + bucket)
    with (site.policies / "frk.toml").open("a") as policy:
        policy.write(f'request_timeout = "{REQUEST_S:g}s"\nbreaker_failures = 3\nbreaker_reset = "1s"\n')


@contextmanager
def small_disk(place: Path) -> Iterator[Path | None]:
    """A small file system at `place` that can be taken away and brought back: bound from `place`.disk. None where
    nothing can be mounted.
    """
    backing = place.with_suffix(".disk")
    for directory in (place, backing):
        directory.mkdir(mode=0o700)
    made = os.geteuid() == 0 and mount("-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", backing)
    if not (made and mount("--bind", backing, place)):
        yield None
        return
    try:
        yield backing
    finally:
        for directory in (place, backing):
            subprocess.run(["umount", "-l", str(directory)], capture_output=True, check=False)


def mount(*arguments: object) -> bool:
    """Run mount; whether it worked."""
    line = ["mount", *(str(argument) for argument in arguments)]
    return subprocess.run(line, capture_output=True, check=False).returncode == 0


def assert_nothing_lost(fire: Fire) -> None:
    """One gapless range in each store; a restore from each alone, the other away, has every acknowledged row."""
    fire.load.end()
    site = fire.site
    end = site.cluster.lsn()
    site.shipped(end)
    coverage = site.run("wal", "coverage", "frk")
    for store in ("local", "offsite"):
        assert len(coverage[store]["ranges"]) == 1, coverage
        assert coverage[store]["gaps"] == []
        assert number(coverage[store]["ranges"][0]["to_lsn"]) >= number(end)
    site.kill_daemon(15)
    fire.proxy.refuse()
    assert_rows(fire, "local")
    fire.proxy.resume()
    (site.base / "local/store").rename(site.base / "local/away")
    assert_rows(fire, "offsite")


def assert_rows(fire: Fire, store: str) -> None:
    """Restore from one store: every acknowledged row is there."""
    restored = fire.site.restore("--latest", "--store", store, name=f"from-{store}")
    with psycopg.connect(f"host=127.0.0.1 port={restored['port']} user=postgres dbname=postgres") as connection:
        found = {row[0] for row in connection.execute("SELECT id FROM kegiatan")}
    fire.site.stop_restored(f"from-{store}")
    lost = set(fire.load.acknowledged) - found
    assert not lost, f"{len(lost)} of {len(fire.load.acknowledged)} rows are lost from {store}"
    assert fire.load.acknowledged


@dataclass(frozen=True)
class Fault:
    """A way to fail: how it begins and ends, the state it is named by, words of the problem and its hint."""

    begin: Callable[[Fire], object]
    state: str
    text: str
    hint: str
    end: Callable[[Fire], object] = lambda fire: fire.proxy.resume()
    probed: bool = True
    hold_s: float = 1.5


LOOK = "Look at the network and at the store's endpoint."
AWAY = {
    "refused": Fault(lambda fire: fire.proxy.refuse(), "away", "", ""),
    "hanging": Fault(lambda fire: fire.proxy.deafen(), "away", "", ""),
    "errors": Fault(
        lambda fire: fire.proxy.say((500, "InternalError"), (503, "ServiceUnavailable"), (503, "SlowDown")),
        "away",
        "",
        "",
    ),
    "half answers": Fault(lambda fire: fire.proxy.halve("answers"), "away", "", ""),
    "half requests": Fault(lambda fire: fire.proxy.halve("requests"), "away", "", "", probed=False),
    "answers lost": Fault(lambda fire: fire.proxy.lose_answers(10**6), "away", "", ""),
}
REFUSED = {
    "access denied": Fault(
        lambda fire: fire.proxy.say((403, "AccessDenied")), "refused", "AccessDenied", "what they may do in the bucket"
    ),
    "credentials expired": Fault(
        lambda fire: fire.proxy.say((400, "ExpiredToken")), "refused", "ExpiredToken", "renew them", hold_s=0
    ),
    "credentials unknown": Fault(
        lambda fire: authenticate(fire, "0"),
        "refused",
        "InvalidAccessKeyId",
        "access_key",
        lambda fire: authenticate(fire, "inf"),
        hold_s=0,
    ),
    "wrong bucket": Fault(
        lambda fire: fire.proxy.rename(fire.server.bucket, "elsewhere"), "refused", "NoSuchBucket", "Make the bucket"
    ),
}
DISKS = {
    "read-only": Fault(
        lambda fire: remount(fire, "ro"), "refused", "read-only file system", "mounted read-only",
        lambda fire: remount(fire, "rw"),
    ),
    "unmounted": Fault(
        lambda fire: unmount(fire), "refused", "does not exist", "Mount it", lambda fire: remount(fire, "rw", bind=True)
    ),
    "full": Fault(
        lambda fire: fill(fire), "away", "no space left on device", "Free space", lambda fire: filler(fire).unlink()
    ),
}  # fmt: skip


def authenticate(fire: Fire, after: str) -> None:
    """Have the server look at credentials after so many requests."""
    url = f"http://127.0.0.1:{fire.server.port}/moto-api/reset-auth"
    plain = {"Content-Type": "text/plain"}
    urllib.request.urlopen(urllib.request.Request(url, after.encode(), plain, method="POST"), timeout=10).close()


def remount(fire: Fire, mode: str, *, bind: bool = False) -> None:
    """The directory's file system, readable only or writable."""
    place = fire.site.base / "local"
    assert not bind or mount("--bind", fire.disk, place)
    assert mount("-o", f"remount,bind,{mode}", place)


def unmount(fire: Fire) -> None:
    """The disk is gone; its mount point is there, and empty."""
    subprocess.run(["umount", "-l", str(fire.site.base / "local")], check=True)


def filler(fire: Fire) -> Path:
    """A file that takes the room."""
    assert fire.disk is not None
    return fire.disk / "filler"


def fill(fire: Fire) -> None:
    """Write until nothing goes any more."""
    with filler(fire).open("wb", buffering=0) as file:
        for size in (MB, 4096):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def named(fault: Fault, seen: Seen) -> bool:
    """Whether status and metrics both say what is wrong."""
    return (
        seen.store["state"] == fault.state
        and any(fault.text in one["text"] and fault.hint in one["hint"] for one in seen.problems)
        and seen.metrics["ok"] == 0
        and seen.metrics["problems"] >= 1
        and seen.metrics["stream_lag_bytes"] > 0
    )


def suffer(fire: Fire, fault: Fault, store: str, other: str, *, probed: bool = False) -> list[Seen]:
    """The fault, from a well site to a well site: what was seen while it held. `probed`: the breaker opens, too."""
    fire.well(store, other)
    before = fire.look(store, other)
    fault.begin(fire)
    try:
        seen = fire.burn(store, other, lambda seen: named(fault, seen[-1]), NAMED_S)
        asked, since = fire.proxy.requests, time.monotonic()
        held = fire.burn(
            store,
            other,
            lambda seen: seen[-1].at - since >= fault.hold_s and (not fault.hold_s or ahead(seen[-1], before)),
            NAMED_S,
        )
        if probed:  # status and metrics are asked one after the other: a try may lie between
            held += fire.burn(store, other, lambda seen: seen[-1].store["breaker"] == "open", NAMED_S)
            held += fire.burn(store, other, lambda seen: seen[-1].metrics["breaker_open"] == 1, NAMED_S)
            took = time.monotonic() - since
            assert fire.proxy.requests - asked <= 10 + 5 * took, "it is not left alone"
        if fault.hold_s:
            assert all(one.store["state"] == fault.state and one.problems for one in held), "named, and unnamed again"
        assert number(held[-1].store["durable_lsn"]) < number(fire.site.cluster.lsn())
    finally:
        fault.end(fire)
    fire.well(store, other)
    assert fire.peak < MEMORY, f"{fire.peak >> 20} MB"
    return [before, *seen, *held]


def ahead(now: Seen, before: Seen) -> bool:
    """Whether the other store has got more since."""
    return number(now.other["durable_lsn"]) > number(before.other["durable_lsn"])


def retries(seen: list[Seen]) -> float:
    """Requests made again meanwhile."""
    return seen[-1].metrics["retries_total"] - seen[0].metrics["retries_total"]


@pytest.mark.parametrize("fault", AWAY.values(), ids=AWAY)
def test_an_s3_that_fails(fire: Fire, fault: Fault) -> None:
    """Named within its budget, retried, left alone and probed; the directory is undisturbed; healed, it catches up."""
    seen = suffer(fire, fault, "offsite", "local", probed=fault.probed)
    assert retries(seen) >= 2


@pytest.mark.parametrize("fault", REFUSED.values(), ids=REFUSED)
def test_an_s3_that_says_no(fire: Fire, fault: Fault) -> None:
    """Named at once with what to do about it, and not retried: the answer is an answer."""
    seen = suffer(fire, fault, "offsite", "local")
    assert retries(seen) <= 1
    assert {one.store["breaker"] for one in seen} == {"closed"}


@pytest.mark.parametrize("fault", DISKS.values(), ids=DISKS)
def test_a_directory_that_fails(fire: Fire, fault: Fault) -> None:
    """Named with what to do about it; the bucket is undisturbed; healed, it catches up."""
    if fire.disk is None:
        pytest.skip("a file system can be mounted by root only")
    suffer(fire, fault, "local", "offsite")


def test_an_s3_at_ten_kilobytes_per_second(fire: Fire) -> None:
    """Lag is shown, the directory is undisturbed; at full speed again it catches up."""
    fire.well("offsite", "local")
    fire.proxy.crawl(10_000)
    try:
        seen = fire.burn("offsite", "local", lambda seen: (seen[-1].store["lag_s"] or 0) > 5, 60)
        metrics = ("stream_lag_seconds", 5), ("stream_lag_bytes", 0)
        seen += fire.burn(
            "offsite", "local", lambda seen: all(seen[-1].metrics[name] > least for name, least in metrics), 60
        )
        assert len({one.other["durable_lsn"] for one in seen}) >= 3
    finally:
        fire.proxy.resume()
    fire.well("offsite", "local")
    assert fire.peak < MEMORY


def test_two_lost_answers_are_not_even_noticed(fire: Fire) -> None:
    """A put that succeeded and whose answer was lost is settled by a retry: no problem, no conflict."""
    fire.well("offsite", "local")
    before = fire.look("offsite", "local")
    fire.proxy.lose_answers(2)
    seen = fire.burn(
        "offsite", "local", lambda seen: seen[-1].metrics["retries_total"] >= before.metrics["retries_total"] + 2, 60
    )
    assert all(not one.problems for one in seen)
    fire.well("offsite", "local")

"""Snapshots and restores beside pgBackRest, pg_basebackup and a pipeline, on two loads. Owns the order of the runs.

Each pair runs both tools one after the other over the same pages, which were read once before, and in the other order
in the next pair. What the daemon and pgBackRest's archiving do beside a run is not counted for either.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import backrest
from measure import Row, Spent, against, alone
from snapshot_loads import SERVER, Load
from snapshot_tools import WORKERS, Ours, ServerCpu, Theirs, base_backup, pipeline, quiet, warm

from replicator.snapshot.stamps import SETTLED_S
from tests.clusters import TestCluster, make_cluster
from tests.e2e.site import Site, site_of

WORKS = ("full", "tar", "network", "local", "scatter", "restore", "tenth", "delta", "replay")
_CHAIN = 10
#: Target ratios: wall on A, wall on B.
_WALL = {
    "full": (1.0, 0.85), "tar": (1.3, 1.1), "network": (0.95, 0.85), "local": (0.8, 0.8), "scatter": (0.45, 0.45),
    "restore": (0.75, 0.5), "tenth": (0.75, 0.75), "same": (1.0, 1.0), "drift": (0.8, 0.8),
}  # fmt: skip
_CPU = {"full": (1.2, 1.0), "network": (None, None), "restore": (0.75, 0.75), "tenth": (0.75, 0.75)}
_BYTES = {"full": (1.03, 1.03), "local": (0.6, 0.6), "scatter": (0.8, 0.5)}
_TITLES = {
    "full": "full beside the server", "tar": "full beside the server", "network": "full over the network",
    "local": "incremental after a local change", "scatter": "incremental after a scattered change",
    "restore": "restore of a full", "tenth": "restore of the tenth incremental",
    "same": "delta restore, nothing changed", "drift": "delta restore after a scattered change",
}  # fmt: skip
_PEERS = {"tar": "tar | zstd -T2 -3 | openssl aes-256-ctr", "network": "pg_basebackup -Ft --compress=client-zstd:3"}
OURS = f"replicator: zstd:3, aes-256-gcm, workers {WORKERS}, one directory store, restores with --workers {WORKERS}"


@dataclass
class _Pairs:
    """The nth of each list comes from the nth pair."""

    ours: list[Spent] = field(default_factory=list)
    peer: list[Spent] = field(default_factory=list)
    our_bytes: list[float] = field(default_factory=list)
    peer_bytes: list[float] = field(default_factory=list)
    our_server: list[float] = field(default_factory=list)
    peer_server: list[float] = field(default_factory=list)


class Snapshots:
    """One load in one cluster."""

    def __init__(self, base: Path, load: Load, only: Sequence[str], say: Callable[[str], None]) -> None:
        self._base, self._load, self._only, self._say = base, load, only, say
        self._found: dict[str, _Pairs] = {}
        self._fulls = ["", ""]
        self._chain: list[tuple[str, str]] = []
        self.settings = ""
        self._peak = 0.0

    def rows(self, pairs: int) -> list[Row]:
        """Fill the cluster, then every kind of run that was asked for."""
        with make_cluster(self._base, conf=SERVER) as cluster, site_of(self._base, cluster) as site:
            self._say(f"{self._load.name}: making the load at scale {self._load.scale:g}")
            self._load.fill(cluster)
            ours = Ours(site)
            path = backrest.program()
            theirs = Theirs(path, site.base / "pgbackrest", cluster) if path else None
            if theirs is not None:
                self.settings = theirs.settings
                cluster.configure({"archive_command": theirs.tool.archive_command})
                cluster.reload()
            site.start_daemon()
            self._run(_Ground(site, cluster, ours, theirs), pairs)
            self._peak = ours.peak_mb
            if theirs is not None:
                cluster.stop()
                theirs.tool.finish()
        return self._rows()

    def _run(self, ground: _Ground, pairs: int) -> None:
        if "network" in self._only:
            for turn in range(pairs):
                self._network(ground, turn)
        for turn in range(pairs):
            self._full(ground, turn)
        for turn in range(pairs if {"scatter", "delta", "tenth"} & set(self._only) else 0):
            self._load.scatter(ground.cluster)
            self._increment(ground, turn, "scatter")
        for turn in range(pairs if {"local", "tenth"} & set(self._only) else 0):
            self._load.local(ground.cluster, turn)
            self._increment(ground, turn, "local")
        while "tenth" in self._only and len(self._chain) < _CHAIN:
            self._load.local(ground.cluster, len(self._chain))
            self._increment(ground, len(self._chain), "")
        for turn in range(pairs):
            self._restores(ground, turn)

    def _network(self, ground: _Ground, turn: int) -> None:
        """Over the replication connection alone."""
        ground.ours.source(beside=False)
        server = [ServerCpu(ground.cluster), ServerCpu(ground.cluster)]

        def ours() -> Spent:
            ground.ready()
            with server[0]:
                return ground.ours.take("--full")[1]

        def peer() -> Spent:
            ground.ready()
            with server[1]:
                return base_backup(ground.cluster, ground.site.base / "basebackup")

        pairs = self._paired("network", turn, ours, peer)
        pairs.our_server.append(server[0].seconds)
        pairs.peer_server.append(server[1].seconds)
        ground.ours.source(beside=True)

    def _full(self, ground: _Ground, turn: int) -> None:
        """Beside the server; the pipeline runs in the same turn."""
        ground.settle()
        if "tar" in self._only and turn % 2 == 1:
            self._pipeline(ground)
        self._take(ground, "full", ("--full",), "full", turn)
        if "tar" in self._only and turn % 2 == 0:
            self._pipeline(ground)

    def _pipeline(self, ground: _Ground) -> None:
        ground.ready()
        used = pipeline(ground.cluster.directory, ground.site.base / "pipeline")
        if used is not None:
            self._tell("tar", "the pipeline", used)
            self._pairs("tar").peer.append(used)

    def _take(self, ground: _Ground, work: str, ours: tuple[str, ...], theirs: str, turn: int) -> tuple[str, str]:
        """Both tools, in turn: their labels. What they took counts for `work`, if that is one."""
        labels, sizes = ["", ""], [0, 0]

        def our_take() -> Spent:
            ground.ready()
            labels[0], used, sizes[0] = ground.ours.take(*ours)
            return used

        def their_take() -> Spent:
            ground.ready()
            assert ground.theirs is not None
            labels[1], used, sizes[1] = ground.theirs.take(theirs)
            return used

        pairs = self._paired(work, turn, our_take, their_take if ground.theirs else None)
        pairs.our_bytes.append(sizes[0])
        pairs.peer_bytes += [sizes[1]] if ground.theirs else []
        self._say(f"   bytes added: {sizes[0] / 1e6:.1f} MB, {sizes[1] / 1e6:.1f} MB")
        if work == "full":
            self._fulls = labels
        return labels[0], labels[1]

    def _increment(self, ground: _Ground, turn: int, work: str) -> None:
        ground.settle()
        self._chain.append(self._take(ground, work, (), "incr", turn))

    def _restores(self, ground: _Ground, turn: int) -> None:
        """A full into an empty directory, the same again, what follows a scattered change, and the tenth of a chain."""
        delta = "delta" in self._only
        places = (ground.site.base / "restored", ground.site.base / "restored-peer")
        if delta or "restore" in self._only:
            self._restore(ground, "restore", turn, self._fulls, places)
        if delta:
            self._restore(ground, "same", turn, self._fulls, places, "--delta")
            self._restore(ground, "drift", turn, self._chain[0], places, "--delta")
        _set_aside(places)
        if "tenth" in self._only:
            self._restore(ground, "tenth", turn, self._chain[_CHAIN - 1], places)
        _set_aside(places)

    def _restore(
        self, ground: _Ground, work: str, turn: int, labels: Sequence[str], places: tuple[Path, Path], *options: str
    ) -> None:
        def ours() -> Spent:
            ground.ready(ground.ours.store, *([places[0]] if options else []))
            return ground.ours.restore(labels[0], places[0], *options)

        def theirs() -> Spent:
            assert ground.theirs is not None
            ground.ready(ground.theirs.tool.repository, *([places[1]] if options else []))
            return ground.theirs.restore(labels[1], places[1], *options)

        self._paired(work, turn, ours, theirs if ground.theirs else None)

    def _paired(self, work: str, turn: int, ours: Callable[[], Spent], peer: Callable[[], Spent] | None) -> _Pairs:
        pairs = self._pairs(work)
        steps: list[tuple[str, list[Spent], Callable[[], Spent]]] = [("ours", pairs.ours, ours)]
        if peer is not None:
            steps.append(("peer", pairs.peer, peer))
        for who, figures, step in steps if turn % 2 == 0 else reversed(steps):
            figures.append(step())
            self._tell(work, who, figures[-1])
        return pairs

    def _pairs(self, work: str) -> _Pairs:
        return self._found.setdefault(work, _Pairs())

    def _tell(self, work: str, who: str, used: Spent) -> None:
        title = _TITLES.get(work, "a further incremental")
        self._say(f"{self._load.name} {title}: {who} {used.seconds:.2f} s, CPU {used.cpu:.2f} s,"
                  f" {used.memory_mb:.0f} MB")  # fmt: skip

    def _rows(self) -> list[Row]:
        """In the order of the works."""
        if "tar" in self._found:
            self._found["tar"].ours = self._found["full"].ours
        order = [work for name in WORKS for work in (("same", "drift") if name == "delta" else (name,))]
        asked = [work for work in order if work in self._found and (work in self._only or work in ("same", "drift"))]
        found = [row for work in asked for row in self._rows_of(work, self._found[work])]
        title = f"{self._load.name} peak memory of any of our takes and restores, MB"
        return [*found, alone(title, self._peak, target=300, runs=len(self._found["full"].ours))]

    def _rows_of(self, work: str, found: _Pairs) -> Iterable[Row]:
        column = "AB".index(self._load.name)
        title, peer = f"{self._load.name} {_TITLES[work]}", _PEERS.get(work, "pgBackRest")
        yield self._row(f"{title}, wall s; {peer}", [one.seconds for one in found.ours],
                        [one.seconds for one in found.peer], _WALL[work][column])  # fmt: skip
        if work in _CPU:
            both = [[one.cpu for one in found.ours], [one.cpu for one in found.peer]]
            if found.our_server:
                servers = (found.our_server, found.peer_server)
                both = [[sum(pair) for pair in zip(*each, strict=True)] for each in zip(both, servers, strict=True)]
            with_server = " with the server's sessions" if found.our_server else ""
            yield self._row(f"{title}, CPU s{with_server}; {peer}", both[0], both[1], _CPU[work][column])
        if work in _BYTES:
            ours, peers = ([size / 1e6 for size in each] for each in (found.our_bytes, found.peer_bytes))
            yield self._row(f"{title}, repository MB added; {peer}", ours, peers, _BYTES[work][column])

    def _row(self, work: str, ours: Sequence[float], peer: Sequence[float], target: float | None) -> Row:
        return against(work, ours, peer, target=target, better="lower")


@dataclass
class _Ground:
    """What every run stands on."""

    site: Site
    cluster: TestCluster
    ours: Ours
    theirs: Theirs | None

    def settle(self) -> None:
        """Let the files that a change left alone be older than the seconds within which ours believes no time stamp:
        snapshots that follow each other by minutes find them so.
        """
        time.sleep(SETTLED_S + 1)

    def ready(self, *directories: Path) -> None:
        """Nobody has WAL left to keep, the disk has everything, and what is read next was read once."""
        quiet(self.site, self.cluster)
        warm(*(directories or (self.cluster.directory / "base",)))


def _set_aside(places: Iterable[Path]) -> None:
    """Take restored trees out of the way and give their room back, but leave the empty files: ext4 gives out no inode
    that was deleted in the last minutes, and looks through all of these for each new file. Of 13,000 deleted ones both
    tools would have paid seconds for the run before.
    """
    for place in places:
        shutil.rmtree(place.with_name(place.name + ".replicator"), ignore_errors=True)
        if not place.exists():
            continue
        aside = place.rename(place.with_name(f"{place.name}-{time.monotonic_ns()}"))
        for path in aside.rglob("*"):
            if path.is_file() and not path.is_symlink():
                os.truncate(path, 0)

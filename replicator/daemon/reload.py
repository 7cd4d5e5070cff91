"""SIGHUP: policies are read again, checked first, and taken over cluster by cluster.

Owns what a change means: an invalid file changes nothing; a changed cluster begins anew alone; who is unchanged does
not notice. Also begins a cluster anew whose source became another one that was accepted. It reads no file itself.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from replicator.compose import Cluster
from replicator.daemon import events
from replicator.daemon.fleet import Fleet
from replicator.daemon.log import get_logger
from replicator.errors import HostLacks, PolicyError, ReplicatorError, UsageError
from replicator.policy import DaemonPolicy, Policy, SecretRef, resolve_secret
from replicator.status.model import POLICY_INVALID, Problem, problem_of
from replicator.tolerance import Clock

_TICK_S = 0.5
_BRIEF_S = 2.0
#: What a mark is worth outside this process: nothing.
_KEY = secrets.token_bytes(32)


@dataclass(frozen=True)
class Files:
    """What the files say now. `commit` takes over what is the daemon's own (log, token); it can't fail."""

    settings: DaemonPolicy
    policies: Mapping[str, Policy]
    commit: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Reload:
    """What a reload works with. `read` raises UsageError or HostLacks when a file is not right; `build` touches nothing
    yet. `files` is what the daemon began with.
    """

    files: Files
    read: Callable[[], Files]
    build: Callable[[Policy, DaemonPolicy], Cluster]


@dataclass(frozen=True, slots=True)
class Change:
    """Names of clusters, each once, ascending."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


def change_of(
    old: Mapping[str, Policy], new: Mapping[str, Policy], marks: Mapping[str, bytes], now: Mapping[str, bytes]
) -> Change:
    """What differs between two sets of policies. `marks` and `now`: the credentials in files, by cluster. Pure."""
    both = sorted(old.keys() & new.keys())
    return Change(
        tuple(sorted(new.keys() - old.keys())),
        tuple(name for name in both if old[name] != new[name] or marks.get(name) != now.get(name)),
        tuple(sorted(old.keys() - new.keys())),
    )


def needs_restart(old: DaemonPolicy, new: DaemonPolicy) -> tuple[str, ...]:
    """The keys of daemon.toml that differ and can only change with a new process. Pure."""
    pairs = (
        ("[api] listen", old.api.listen, new.api.listen),
        ("[state] directory", old.state.directory, new.state.directory),
    )
    return tuple(name for name, before, after in pairs if before != after)


def effective(old: DaemonPolicy, new: DaemonPolicy) -> DaemonPolicy:
    """The new settings with what can't change as it was. Pure."""
    api = new.api.model_copy(update={"listen": old.api.listen})
    return new.model_copy(update={"api": api, "state": old.state})


def credentials_mark(policy: Policy) -> bytes:
    """A digest of the credentials that a running cluster keeps and its policy names as files: when they change, so does
    the cluster. Raises HostLacks, PolicyError.
    """
    mark = hashlib.blake2b(key=_KEY)
    for name, value in _credentials(policy):
        mark.update(f"{name} {len(value)} ".encode() + value)
    return mark.digest()


def _credentials(policy: Policy) -> Iterator[tuple[str, bytes]]:
    for store in policy.stores:
        for name, reference in (("access_key", store.access_key), ("secret_key", store.secret_key)):
            if isinstance(reference, SecretRef) and reference.file is not None:
                yield name, resolve_secret(reference, what=f"{name} of store {store.name}")
        if store.ca is not None:
            yield "ca", _content(store.ca)
    yield "writer_key", _content(policy.encryption.writer_key, missing=b"")


def _content(path: Path, *, missing: bytes | None = None) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        if missing is not None:
            return missing
        raise HostLacks(f"{path} does not exist") from error
    except OSError as error:
        raise HostLacks(f"{path} can not be read: {(error.strerror or 'unknown reason').lower()}") from error


class Reloader:
    """A worker. `ask` may be called from anywhere; what is asked while one reload is under way is one more after it."""

    def __init__(self, fleet: Fleet, reload: Reload, clock: Clock, *, flush_s: float, join_s: float) -> None:
        """`flush_s`: how long what a removed cluster received may take to the stores; `join_s`: its threads' end."""
        self._fleet = fleet
        self._reload = reload
        self._clock = clock
        self._flush_s, self._join_s = flush_s, join_s
        self._log = get_logger(__name__)
        self._asked = Event()
        self._settings = reload.files.settings
        self._policies = dict(reload.files.policies)
        self._marks = {name: _mark_now(policy) for name, policy in self._policies.items()}
        self._problem: Problem | None = None
        self._hanging: dict[str, Problem] = {}

    def ask(self) -> None:
        """Ask that the policies be read again; returns at once."""
        self._asked.set()

    def problems(self, cluster: str) -> tuple[Problem, ...]:
        """What is wrong with the last reload, for one cluster's status."""
        found = (self._problem, self._hanging.get(cluster))
        return tuple(problem for problem in found if problem is not None)

    def run(self, stop: Event) -> None:
        """Until `stop` is set."""
        while not self._clock.wait(stop, _TICK_S):
            if self._asked.is_set():
                self._asked.clear()
                self._again(stop)
            for node in self._fleet.nodes:
                successor = node.successor
                if successor is not None and node.name not in self._hanging:
                    self._log.warning(events.SYSTEM_CHANGED, cluster=node.name, system_id=str(successor))
                    self._renew((node.name,), stop, system_id=successor)

    def _again(self, stop: Event) -> None:
        try:
            files = self._reload.read()
            marks = {name: self._mark(name, policy) for name, policy in files.policies.items()}
            change = change_of(self._policies, files.policies, self._marks, marks)
            settings = effective(self._settings, files.settings)
            clusters = {name: self._reload.build(files.policies[name], settings) for name in change.added}
            self._lock_new(clusters)
        except ReplicatorError as error:
            self._refuse(error)
            return
        self._problem = None
        for key in needs_restart(self._settings, files.settings):
            self._log.warning(events.RESTART_NEEDED, key=key)
        self._settings, self._policies, self._marks = settings, dict(files.policies), marks
        files.commit()
        self._log.info(events.POLICIES_RELOADED, added=change.added, changed=change.changed, removed=change.removed)
        for name in change.added:
            if (node := self._fleet.node(name)) is not None:
                self._fleet.start(node)
        # Who could not end the last time may have ended by now.
        self._renew(tuple(dict.fromkeys((*change.changed, *change.removed, *self._hanging))), stop)

    def _mark(self, name: str, policy: Policy) -> bytes:
        """The cluster's mark. One that could not be read when the daemon began may still be so."""
        if self._policies.get(name) == policy and not self._marks.get(name):
            return _mark_now(policy)
        return credentials_mark(policy)

    def _lock_new(self, clusters: Mapping[str, Cluster]) -> None:
        """New clusters' nodes, locked: all or none. Raises Conflict, HostLacks."""
        try:
            for cluster in clusters.values():
                self._fleet.add(cluster).lock()
        except ReplicatorError:
            for name in clusters:
                self._fleet.drop(name)
            raise

    def _renew(self, names: tuple[str, ...], stop: Event, *, system_id: int | None = None) -> None:
        """End these clusters in an orderly way, and begin those anew that still have a policy."""
        if not names:
            return
        gone = tuple(name for name in names if name not in self._policies)
        again = tuple(name for name in names if name in self._policies)
        late = self._fleet.end(gone, self._flush_s, self._join_s, stop)
        # What begins anew goes on with what is in the spool: it need not wait for a store that is away.
        late += self._fleet.end(again, min(_BRIEF_S, self._flush_s), self._join_s, stop)
        if stop.is_set():
            return
        hanging = {name: [worker for worker in late if worker.startswith(f"{name}/")] for name in names}
        for name in names:
            if hanging[name]:
                # Two streams must not share a spool: the former one's threads hang in a call, and nothing ends them.
                self._hang(name, hanging[name])
                continue
            self._hanging.pop(name, None)
            if name in self._policies:
                former = self._fleet.node(name)
                node = self._fleet.add(self._reload.build(self._policies[name], self._settings), system_id=system_id)
                if former is not None:
                    node.inherit(former)
                self._fleet.start(node)
            else:
                self._fleet.drop(name)
                self._log.info(events.CLUSTER_ENDED, cluster=name)

    def _hang(self, name: str, workers: list[str]) -> None:
        problem = Problem(
            "host_lacks",
            f"{name} could not begin anew: {', '.join(workers)} did not end",
            "A call is not answered (a dead network file system?). Send SIGHUP once it is, or restart the daemon.",
        )
        self._hanging[name] = problem
        self._log.error(events.RELOAD_REFUSED, cluster=name, error=problem.text, hint=problem.hint)

    def _refuse(self, error: ReplicatorError) -> None:
        problems = list(error.problems) if isinstance(error, PolicyError) else [error.message]
        said = problem_of(error)
        code = POLICY_INVALID if isinstance(error, UsageError) else said.code
        text = f"the policies were not taken over, all runs as before: {'; '.join(problems)}"
        self._problem = Problem(code, text, f"{error.hint} Then send SIGHUP again.".strip())
        self._log.error(events.RELOAD_REFUSED, error=error.message, problems=problems, hint=error.hint)


def _mark_now(policy: Policy) -> bytes:
    """The mark; empty when a credential can't be read."""
    try:
        return credentials_mark(policy)
    except (HostLacks, PolicyError):
        return b""

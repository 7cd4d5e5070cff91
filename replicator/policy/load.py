"""Policy files: found, checked for who may write them, read, and made into models.

Owns the way from a directory to frozen models, and that all problems come at once, each with its place.
It writes nothing and fetches no secret.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from replicator.errors import PolicyError, UnknownCluster
from replicator.policy.crosscheck import cross_problems, shared_problems
from replicator.policy.daemon_model import DaemonPolicy
from replicator.policy.model import Policy, Table
from replicator.policy.problems import Problem, from_validation, render
from replicator.policy.values import is_name

DAEMON_FILE = "daemon.toml"
PLACES = (Path("/etc/replicator"), Path("policies"))
_LONGEST = 1024 * 1024
_AT = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)\Z")
_Model = TypeVar("_Model", bound=Table)
_SEE = "Run `replicator policy explain` for what a policy means, `replicator policy schema` for its keys."


@dataclass(frozen=True)
class _File:
    """A file that was read: its TOML, or the problems that kept it from being TOML."""

    path: Path
    text: str = ""
    data: dict[str, Any] | None = None
    problems: tuple[str, ...] = ()


def find_policies_directory(
    explicit: Path | None = None, *, environ: Mapping[str, str] | None = None, places: Iterable[Path] = PLACES
) -> Path:
    """The directory of policies: `--policies`, else REPLICATOR_POLICIES, else the first of the usual places that has
    a policy. Raises PolicyError when there is none; a place that was named is never passed over.
    """
    named = (os.environ if environ is None else environ).get("REPLICATOR_POLICIES")
    if explicit is not None or named:
        directory = explicit if explicit is not None else Path(str(named))
        if not directory.is_dir():
            said = "--policies" if explicit is not None else "REPLICATOR_POLICIES"
            raise PolicyError(f"{directory} is not a directory", hint=f"Point {said} at the directory of policies.")
        return directory
    tried = list(places)
    for place in tried:
        if _policy_files(place):
            return place
    raise PolicyError(
        f"no policies in {' or '.join(str(place) for place in tried)}",
        hint="Name their directory with --policies or REPLICATOR_POLICIES.",
    )


def load_policies(directory: Path) -> tuple[DaemonPolicy, dict[str, Policy]]:
    """daemon.toml (or its defaults) and every cluster's policy by name. Raises PolicyError with all problems of all
    files.
    """
    problems = tuple(_writable_problems(directory))
    paths = _policy_files(directory)
    if not paths and not problems:
        raise PolicyError(f"no policies in {directory}", hint="Put one TOML file for each cluster there.")
    daemon_file = directory / DAEMON_FILE
    daemon, policies = _load([*paths, *([daemon_file] if daemon_file.exists() else [])], problems)
    return daemon or DaemonPolicy(), policies


def load_files(paths: Iterable[Path]) -> tuple[DaemonPolicy | None, dict[str, Policy]]:
    """The same for files by name, wherever they are; a file named daemon.toml is the daemon's."""
    return _load(paths, ())


def _load(paths: Iterable[Path], problems: Iterable[str]) -> tuple[DaemonPolicy | None, dict[str, Policy]]:
    found, daemon, policies = list(problems), None, list[Policy]()
    for path in paths:
        if path.name == DAEMON_FILE:
            daemon, wrong = _model(DaemonPolicy, _read(path))
        else:
            policy, wrong = _model(Policy, _read(path))
            policies += [policy] if policy else []
        found += wrong
    found += shared_problems(policies, daemon)
    _refuse(found)
    return daemon, {policy.cluster: policy for policy in policies}


def load_cluster(directory: Path, cluster: str) -> tuple[DaemonPolicy, Policy]:
    """daemon.toml and one cluster's policy: another cluster's broken file holds nobody up.

    Raises PolicyError for problems of these two, UnknownCluster when no file is about that cluster.
    """
    problems = list(_writable_problems(directory))
    daemon, daemon_problems = _load_daemon(directory)
    problems += daemon_problems
    files = [_read(path) for path in _policy_files(directory)]
    mine = [file for file in files if file.data is not None and file.data.get("cluster") == cluster]
    if not mine:
        _refuse([*problems, *(wrong for file in files for wrong in file.problems)])
        raise unknown_cluster(cluster, filter(is_name, ((file.data or {}).get("cluster") for file in files)), directory)
    policies: list[Policy] = []
    for file in mine:
        policy, wrong = _model(Policy, file)
        problems += wrong
        policies += [policy] if policy else []
    problems += shared_problems(policies, daemon)
    _refuse(problems)
    return daemon or DaemonPolicy(), policies[0]


def load_policy(path: Path) -> Policy:
    """One cluster's policy from its file. Raises PolicyError with all its problems."""
    policy, problems = _model(Policy, _read(path))
    _refuse(problems)
    assert policy is not None
    return policy


def load_daemon_policy(path: Path) -> DaemonPolicy:
    """daemon.toml from its file. Raises PolicyError with all its problems."""
    daemon, problems = _model(DaemonPolicy, _read(path))
    _refuse(problems)
    assert daemon is not None
    return daemon


def parse_policy(text: str, path: Path) -> Policy:
    """One cluster's policy from TOML text, as if read from `path`. Raises PolicyError with all its problems."""
    policy, problems = _model(Policy, _parse(path, text))
    _refuse(problems)
    assert policy is not None
    return policy


def unknown_cluster(cluster: str, known: Iterable[str], directory: Path) -> UnknownCluster:
    """The error for a cluster that no policy names, with the nearest name that one does."""
    names = sorted(set(known))
    near = get_close_matches(cluster, names, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else f"There are policies for: {', '.join(names) or 'none'}."
    return UnknownCluster(f"no policy in {directory} is for cluster {cluster!r}", hint=hint)


def _policy_files(directory: Path) -> list[Path]:
    if not directory.is_dir():
        return []
    found = (path for path in directory.glob("*.toml") if path.name != DAEMON_FILE and not path.name.startswith("."))
    return sorted(found)


def _load_daemon(directory: Path) -> tuple[DaemonPolicy | None, tuple[str, ...]]:
    path = directory / DAEMON_FILE
    return _model(DaemonPolicy, _read(path)) if path.exists() else (DaemonPolicy(), ())


def _read(path: Path) -> _File:
    try:
        with path.open("rb") as file:
            raw = file.read(_LONGEST + 1)
    except OSError as error:
        return _File(path, problems=(f"{path}: can not be read: {(error.strerror or 'unreadable').lower()}",))
    if writable := tuple(_writable_problems(path)):
        return _File(path, problems=writable)
    if len(raw) > _LONGEST:
        return _File(path, problems=(f"{path}: is larger than {_LONGEST} bytes: this is no policy",))
    try:
        return _parse(path, raw.decode())
    except UnicodeDecodeError:
        return _File(path, problems=(f"{path}: is not UTF-8 text",))


def _parse(path: Path, text: str) -> _File:
    try:
        return _File(path, text, tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        said = str(error)
        at = _AT.search(said)
        place = f"{path}:{at[1]}:{at[2]}" if at and at[1] else f"{path}:{len(text.splitlines())}"
        words = _AT.sub("", said)
        return _File(path, text, problems=(f"{place}: is not TOML: {words[:1].lower()}{words[1:]}",))


def _model(model: type[_Model], file: _File) -> tuple[_Model | None, tuple[str, ...]]:
    """The model, or the problems that keep it from being one."""
    if file.data is None:
        return None, file.problems
    found: list[Problem] = cross_problems(file.data) if model is Policy else []
    made: _Model | None = None
    try:
        made = model.model_validate(file.data, context={"path": file.path})
    except ValidationError as error:
        found += from_validation(error, model)
    return (None if found else made), render(found, str(file.path), file.text, file.data)


def _writable_problems(path: Path) -> Iterable[str]:
    """Who can write a policy owns the backups: only its owner, who is us or root, may.

    Nobody writes to a read-only mount, whatever its modes say (a Kubernetes ConfigMap's directory has 0777).
    """
    try:
        facts = path.stat()
        read_only = bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except OSError as error:
        yield f"{path}: can not be read: {(error.strerror or 'unreadable').lower()}"
        return
    if facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not read_only:
        yield f"{path}: others than its owner may write it. Run chmod go-w {path}"
    if facts.st_uid not in {0, os.geteuid()}:
        yield f"{path}: belongs to user {facts.st_uid}, who is neither root nor us. Run chown for it"


def _refuse(problems: Iterable[str]) -> None:
    every = tuple(dict.fromkeys(problems))
    if len(every) == 1:
        raise PolicyError(every[0], problems=every, hint=_SEE)
    if every:
        raise PolicyError(f"{len(every)} problems in the policies", problems=every, hint=_SEE)

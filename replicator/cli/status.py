"""`replicator status`: asks the daemon how every cluster stands; without one it reads the stores, and says so.

Owns how a status looks on a terminal. The exit code is the first of 8, 4, 7, 5, 6, 9 that a problem means.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import click

from replicator.cli.common import Context, cluster_policies, common_options, note
from replicator.cli.render import human_duration, human_size, print_json, print_lines, print_table
from replicator.errors import ReplicatorError

if TYPE_CHECKING:
    from replicator.policy import DaemonPolicy, Policy
    from replicator.status.model import ClusterStatus

#: A status must not wait for a dead store as long as a stream may.
BUDGET_S = 3.0
_COLUMNS = ("cluster", "store", "state", "durable", ">lag", ">behind", "recoverable to", ">gaps")


@click.command()
@click.argument("cluster", required=False)
@common_options()
def status(ctx: Context, cluster: str | None) -> int:
    """Show how CLUSTER stands, or all clusters."""
    from replicator.status.model import exit_code

    daemon, policies = cluster_policies(ctx, (cluster,) if cluster else ())
    found = _ask(daemon, policies) or _read(daemon, policies)
    if ctx.json:
        print_json(found)
    else:
        _show(ctx, found)
    return exit_code(found)


def _ask(daemon: DaemonPolicy, policies: Mapping[str, Policy]) -> dict[str, Any] | None:
    """The daemon's status of these clusters; None when none answers. One it does not run is read from its stores."""
    from replicator.api.client import fetch_status
    from replicator.policy import resolve_secret

    token = resolve_secret(daemon.api.token, what="the HTTP interface's token") if daemon.api.token else None
    found = fetch_status(daemon.api.host, daemon.api.port, token)
    if found is None:
        return None
    others = {name: policy for name, policy in policies.items() if name not in found["clusters"]}
    clusters = {name: value for name, value in found["clusters"].items() if name in policies}
    if others:
        clusters |= _read(daemon, others)["clusters"]
    return {**found, "ok": all(value["ok"] for value in clusters.values()), "clusters": clusters}


def _read(daemon: DaemonPolicy, policies: Mapping[str, Policy]) -> dict[str, Any]:
    """The status as the stores tell it."""
    from replicator.status.model import Status

    with ThreadPoolExecutor(max_workers=min(8, len(policies) or 1), thread_name_prefix="status") as pool:
        found = pool.map(lambda policy: _read_one(daemon, policy), policies.values())
        return Status(dict(zip(policies, found, strict=True))).as_json()


def _read_one(daemon: DaemonPolicy, policy: Policy) -> ClusterStatus:
    from replicator.compose import compose
    from replicator.status.offline import offline_status

    built = compose(policy, daemon, budget_s=BUDGET_S)
    try:
        repository = built.repository(secrets=False)
    except ReplicatorError as error:
        return offline_status(policy, error, built.clock)
    breakers = {name: store.breaker.state.value for name, store in built.store_statistics().items()}
    return offline_status(policy, repository, built.clock, breakers)


def _show(ctx: Context, found: Mapping[str, Any]) -> None:
    if found["daemon"]["running"]:
        note(ctx, f"daemon running since {found['daemon']['since']}")
    else:
        note(ctx, "no daemon answers: this is read from the stores")
    rows = [row for name, cluster in found["clusters"].items() for row in _rows(name, cluster)]
    print_table(ctx, _COLUMNS, rows)
    print_lines([line for name, cluster in found["clusters"].items() for line in _lines(name, cluster)])


def _rows(name: str, cluster: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    for store, facts in cluster["stores"].items():
        windows = facts["windows"] or []
        newest = max(windows, key=lambda window: (window["timeline"], window["to_time"] or ""), default=None)
        reach = None if newest is None else _to_the_second(newest["to_time"]) or newest["to_lsn"]
        gaps = None if facts["gaps"] is None else sum(gap["open"] for gap in facts["gaps"])
        lag = None if facts["lag_bytes"] is None else human_size(facts["lag_bytes"])
        behind = None if facts["lag_s"] is None else human_duration(facts["lag_s"])
        yield name, store, facts["state"], facts["durable_lsn"], lag, behind, reach, gaps


def _to_the_second(time: str | None) -> str | None:
    """A time cut, never rounded up, so that a line holds it."""
    return None if time is None else re.sub(r"\.\d+", "", time)


def _lines(name: str, cluster: Mapping[str, Any]) -> Iterator[str]:
    source, stream, snapshots = cluster["source"], cluster["stream"], cluster["snapshots"]
    yield ""
    yield f"{name}: {'well' if cluster['ok'] else 'not well'}"
    if source["state"] is not None:
        place = f" from {source['host']}, timeline {source['timeline']}" if source["host"] else ""
        yield f"  source: {source['state']}{place}, slot {source['wal_status'] or 'unknown'}"
    if stream["received_lsn"] is not None:
        kept = f"{human_size(stream['spool_bytes'] or 0)} in the spool"
        alone = f"{human_size(stream['only_in_spool_bytes'] or 0)} only there"
        yield f"  stream: received {stream['received_lsn']}, acknowledged {stream['acknowledged_lsn']}, {kept}, {alone}"
    count = "unknown" if snapshots["count"] is None else snapshots["count"]
    last = f", last {snapshots['last']}" if snapshots["last"] else ""
    due = f", next {snapshots['next']}" if snapshots["next"] else ""
    yield f"  snapshots: {count}{last}{due}"
    for kind, proof in cluster["proofs"].items():
        age = "never proven" if proof["time"] is None else f"proven as of {_to_the_second(proof['time'])}"
        yield f"  {kind}: {age}{'' if proof['ok'] else ', overdue' if proof['time'] else ''}"
    for replica, facts in cluster["replicas"].items():
        lag = "" if facts["lag_bytes"] is None else f", {human_size(facts['lag_bytes'])} behind"
        yield f"  replica {replica}: {facts['state'] or 'not asked'}{lag}"
    for task in cluster["tasks"]:
        share = f", {100 * task['done'] // task['total']} %" if task["total"] else ""
        yield f"  running: {task['kind']} since {task['since']}{share}"
    for problem in cluster["problems"]:
        yield f"  problem: {problem['text']} ({problem['code']})"
        if problem["hint"]:
            yield f"    {problem['hint']}"

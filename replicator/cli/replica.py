"""`replicator replica`: make, list and remove the standbys of a policy.

Owns the options, and how a replica looks on a terminal. The work is replicas'.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import click

from replicator.cli.common import Context, cluster_and_daemon_policy, common_options, confirm, note, stopping
from replicator.cli.progress import progress_reporter
from replicator.cli.render import human_duration, human_size, print_json, print_lines, print_result, print_table
from replicator.errors import ReplicatorError, UsageError

if TYPE_CHECKING:
    from replicator.compose import Cluster
    from replicator.core.lsn import Lsn
    from replicator.replicas.health import Health
    from replicator.replicas.job import Created

#: A replica or a primary that is away is said within seconds.
BUDGET_S = 5.0
_COLUMNS = ("replica", "role", "state", "replayed", ">lag", "address", "data directory", "slot")


@click.group()
def replica() -> None:
    """Make, list and remove standbys."""


@replica.command()
@click.argument("cluster")
@click.argument("name")
@click.option("--tablespace", "tablespaces", multiple=True, metavar="OID=DIR", help="Where a tablespace goes.")
@click.option("--workers", type=click.IntRange(1, 64), default=4, show_default=True, help="Threads that fetch.")
@click.option("--owner", metavar="USER", help="The user that the files are given to and the server runs as.")
@click.option(
    "--time-limit", default="1h", show_default=True, metavar="D", help="For the server to follow, once fetched."
)
@common_options(progress=True)
def create(ctx: Context, cluster: str, name: str, time_limit: str, **options: Any) -> None:
    """Make the replica NAME of CLUSTER's policy on this host, from the newest snapshot of any store.

    Nothing of the primary's data is read: it only gets a replication slot and one more standby. Returns when the
    replica has replayed what the primary had when the work began, and streams.
    """
    from replicator.cli.restore import parse_tablespaces
    from replicator.jobs import replica_job
    from replicator.policy import parse_duration
    from replicator.replicas.create import create as make

    limit, spaces = parse_duration(time_limit), parse_tablespaces(options["tablespaces"])
    with stopping() as stop, progress_reporter(ctx, "replica") as report:
        job = replica_job(
            _composed(ctx, cluster, stop),
            name,
            owner=options["owner"],
            tablespaces=spaces,
            workers=options["workers"],
            wait_s=limit,
            report=report,
        )
        made = make(job)
    for text in made.notes:
        note(ctx, f"note: {text}")
    if ctx.json or ctx.progress == "json":
        print_result(ctx, made.as_json())
    else:
        print_lines(_created(cluster, made))


@replica.command(name="list")
@click.argument("cluster")
@common_options()
def list_(ctx: Context, cluster: str) -> int:
    """List the replicas of CLUSTER: role, state, and how far behind the primary each is.

    Exits with 8 when one was promoted, with 5 when one lags too much or can't be asked.
    """
    from replicator.core.codes import exit_code_of
    from replicator.replicas.health import CODES

    with stopping() as stop:
        built = _composed(ctx, cluster, stop, budget_s=BUDGET_S)
        found = _ask_all(built)
    rows = [_row(built, name, health) for name, health in found.items()]
    if ctx.json:
        print_json(rows)
    else:
        print_table(ctx, _COLUMNS, [_cells(row) for row in rows])
    complaints = [health.complaint for health in found.values() if health.complaint is not None]
    for complaint in complaints:
        note(ctx, f"{complaint.text} ({complaint.code})")
        note(ctx, f"hint: {complaint.hint}")
    return exit_code_of((complaint.code for complaint in complaints), CODES)


@replica.command()
@click.argument("cluster")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Don't ask.")
@common_options()
def remove(ctx: Context, cluster: str, name: str, yes: bool) -> None:
    """Remove the replica NAME of CLUSTER from this host: its server, its slot on the primary, its data directory.

    Only what `replica create` made here is removed, and never a server that was promoted.
    """
    from replicator.jobs import replica_job
    from replicator.replicas.remove import remove as take_away

    with stopping() as stop:
        job = replica_job(_composed(ctx, cluster, stop, budget_s=BUDGET_S), name)
        mark = job.place.mark()
        confirm(f"Stop replica {name} and remove {mark.data_directory} and slot {mark.slot}?", yes=yes)
        take_away(job)
    facts = {"name": name, "removed": True, "data_directory": mark.data_directory, "slot": mark.slot}
    if ctx.json:
        print_json(facts)
    else:
        print_lines([f"replica {name} of {cluster} is removed: {mark.data_directory} and slot {mark.slot} are gone"])


def _composed(ctx: Context, cluster: str, stop: Event, budget_s: float | None = None) -> Cluster:
    from replicator.compose import compose

    daemon, policy = cluster_and_daemon_policy(ctx, cluster)
    return compose(policy, daemon, interrupt=stop, budget_s=budget_s)


def _ask_all(built: Cluster) -> dict[str, Health]:
    """Every replica and the primary, asked side by side."""
    from replicator.replicas.health import judge
    from replicator.replicas.watch import ask

    replicas = [found for found in built.policy.replicas if found.kind == "physical"]
    with ThreadPoolExecutor(len(replicas) + 1, thread_name_prefix="replicas") as pool:
        primary = pool.submit(_primary_end, built)
        seen = list(pool.map(lambda found: ask(found, built.replica_sql), replicas))
    end = primary.result()
    return {found.name: judge(built.name, found, one, end) for found, one in zip(replicas, seen, strict=True)}


def _primary_end(built: Cluster) -> Lsn | None:
    """The end of the primary's WAL; None when it does not answer: then no lag is known."""
    try:
        with built.sql() as sql:
            return sql.wal_end()
    except UsageError:
        raise
    except ReplicatorError:
        return None


def _row(built: Cluster, name: str, health: Health) -> dict[str, Any]:
    from replicator.postgres.standby import slot_of_replica
    from replicator.replicas.job import find_replica

    policy = find_replica(built.name, built.policy.replicas, name)
    return {
        "name": name,
        "host": policy.host,
        "port": policy.port,
        "data_directory": policy.data_directory,
        "follow": policy.follow,
        "slot": slot_of_replica(built.name, name),
        "role": health.role,
        "state": health.state,
        "replay_lsn": health.replay_lsn,
        "lag_bytes": health.lag_bytes,
    }


def _cells(row: dict[str, Any]) -> tuple[Any, ...]:
    lag = None if row["lag_bytes"] is None else human_size(row["lag_bytes"])
    address = f"{row['host'] or 'localhost'}:{row['port']}"
    return (
        row["name"], row["role"], row["state"], row["replay_lsn"], lag, address, Path(row["data_directory"]),
        row["slot"],
    )  # fmt: skip


def _created(cluster: str, made: Created) -> list[str]:
    return [
        f"replica {made.name} of {cluster} follows: made from snapshot {made.snapshot} of store {made.store}"
        f" ({human_size(made.bytes)}) in {human_duration(made.elapsed_s)}",
        f"data directory: {made.data_directory}",
        f"server: port {made.port}, process {made.pid}, slot {made.slot}",
        f"replayed {made.replayed}; the primary was at {made.target} when the work began",
    ]

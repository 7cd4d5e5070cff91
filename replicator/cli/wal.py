"""`replicator wal`: what WAL is covered, and one file of it.

Owns the options and the exit code 44 of `wal get`: absent, and nothing else, so that a restore_command can tell.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from replicator.cli.common import Context, cluster_and_daemon_policy, common_options, note
from replicator.errors import ObjectAbsent, UsageError

if TYPE_CHECKING:
    from replicator.restore.coverage import CoverageReport

ABSENT = 44


@click.group()
def wal() -> None:
    """What WAL is covered, and one file of it."""


@wal.command()
@click.argument("words", nargs=-1, required=True, metavar="CLUSTER FILE PATH")
@click.option("--store", metavar="S", help="Ask this store alone.")
@click.option("--until", metavar="LSN", help="Serve pieces too, with zeros from LSN on.")
@click.option("--recovery", type=click.Path(path_type=Path), hidden=True, help="A restore's recovery directory.")
@click.option("--replica", type=click.Path(path_type=Path), hidden=True, help="A replica's own directory.")
@common_options()
def get(
    ctx: Context,
    words: tuple[str, ...],
    store: str | None,
    until: str | None,
    recovery: Path | None,
    replica: Path | None,
) -> int:
    """Write the WAL file FILE of CLUSTER to PATH. Exits with 0 when delivered, 44 when absent, else with an error."""
    if len(words) != (3 if recovery is None and replica is None else 2):
        raise UsageError("wal get needs CLUSTER, FILE and PATH", hint="Run `replicator wal get --help`.")
    name, path = words[-2], Path(words[-1])
    try:
        if recovery is not None:
            from replicator.restore.walget import wal_get_planned

            wal_get_planned(recovery, name, path)
        elif replica is not None:
            from replicator.replicas.place import serve_wal

            serve_wal(replica, name, path)
        else:
            _get(ctx, words[0], name, path, store, until)
    except ObjectAbsent as error:
        note(ctx, error.message)
        return ABSENT
    return 0


def _get(ctx: Context, cluster: str, name: str, path: Path, store: str | None, until: str | None) -> None:
    from replicator.compose import compose
    from replicator.core.lsn import Lsn
    from replicator.postgres.controldata import system_id_of
    from replicator.restore.walget import wal_get

    limit = Lsn.parse(until) if until is not None else None
    daemon, policy = cluster_and_daemon_policy(ctx, cluster)
    repository = compose(policy, daemon).repository(only=(store,) if store else ())
    # As restore_command we are run in the data directory of the server that asks.
    wal_get(repository, name, path, limit, system_id=system_id_of(Path()))


@wal.command()
@click.argument("cluster")
@click.option("--store", metavar="S", help="Only this store.")
@common_options()
def coverage(ctx: Context, cluster: str, store: str | None) -> int:
    """Show the LSN ranges, recoverable windows and gaps of CLUSTER by store. Exits with 6 when a store is silent."""
    from replicator.cli.render import print_json
    from replicator.compose import compose
    from replicator.restore.coverage import coverage as read_coverage

    daemon, policy = cluster_and_daemon_policy(ctx, cluster)
    repository = compose(policy, daemon).repository(secrets=False, only=(store,) if store else ())
    report = read_coverage(repository)
    if ctx.json:
        print_json({name: found.as_json() for name, found in report.stores.items()})
    else:
        _print(ctx, report)
    for name, error in report.silent.items():
        note(ctx, f"store {name} does not answer: {error.message}")
    return 6 if report.silent else 0


def _print(ctx: Context, report: CoverageReport) -> None:
    from replicator.cli.render import print_table

    rows: list[tuple[object, ...]] = []
    for name, found in report.stores.items():
        rows += [(name, "range", held.timeline, held.start, held.end, None) for held in found.ranges]
        for facts in found.windows:
            window = facts.window
            place = (name, "window", window.timeline, window.start, window.end)
            rows.append((*place, f"from {window.snapshot.label} {facts.times}"))
        rows += [
            (name, "open gap" if gap.open else "closed gap", gap.timeline, gap.start, gap.stop, None)
            for gap in found.gaps
        ]
    print_table(ctx, ("store", "what", ">timeline", "from", "to", "snapshot"), rows)

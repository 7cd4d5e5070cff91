"""`replicator mirror`: makes a cluster's stores equal.

Owns the options and how results look. By hand it runs in this process; the daemon starts the same verb as a child with
`--progress json` and reads its lines.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from replicator.cli.common import Context, cluster_and_daemon_policy, common_options, note, stopping
from replicator.cli.progress import progress_reporter
from replicator.cli.render import human_duration, human_size, print_lines, print_result
from replicator.errors import NotFound

if TYPE_CHECKING:
    from replicator.compose import Cluster
    from replicator.upkeep.mirror import MirrorJob, MirrorResult

#: Kinds of objects as they are counted, and as people read them.
_KINDS = {
    "keys": "key documents",
    "documents": "documents",
    "wal": "WAL segments",
    "pieces": "pieces",
    "packs": "packs",
    "snapshots": "snapshots",
}


@click.command()
@click.argument("cluster")
@click.option("--from", "sources", multiple=True, metavar="S", help="Read this store only; may be repeated.")
@click.option("--to", "targets", multiple=True, metavar="S", help="Complete this store only; may be repeated.")
@click.option("--workers", type=click.IntRange(1, 16), default=2, show_default=True, help="Objects copied at once.")
@click.option("--dry-run", is_flag=True, help="Say what would be copied and copy nothing.")
@common_options(progress=True)
def mirror(
    ctx: Context, cluster: str, sources: tuple[str, ...], targets: tuple[str, ...], workers: int, dry_run: bool
) -> int:
    """Copy to each store of CLUSTER what another has and it lacks, every object verified on both sides.

    Can be interrupted and repeated at any time. Exits with 6 when a store did not answer, with 4 when an object is
    damaged or missing, with 8 when stores hold different WAL of one segment.
    """
    from replicator.compose import compose
    from replicator.upkeep.mirror import mirror as run_mirror

    daemon, policy = cluster_and_daemon_policy(ctx, cluster)
    with stopping() as stop:
        job = mirror_job(compose(policy, daemon, interrupt=stop), sources, targets, workers=workers, dry_run=dry_run)
        with progress_reporter(ctx, "mirror") as report:
            result = run_mirror(job, report, stop)
    if ctx.json or ctx.progress == "json":
        print_result(ctx, result.as_json())
    else:
        _print(ctx, result)
    return result.exit_code


def mirror_job(
    built: Cluster, sources: tuple[str, ...], targets: tuple[str, ...], *, workers: int = 2, dry_run: bool = False
) -> MirrorJob:
    """What a mirror of a policy's stores works on; all of them where none is named. Raises NotFound."""
    from replicator.upkeep.mirror import MirrorJob

    stores = tuple(built.stores())
    for name in (*sources, *targets):
        if name not in stores:
            raise NotFound(f"{built.name} has no store {name!r}", hint=f"The policy's stores are {', '.join(stores)}.")
    return MirrorJob(
        repository=built.repository(secrets=False),
        clock=built.clock,
        state_directory=built.state_directory,
        sources=sources or stores,
        targets=targets or stores,
        dry_run=dry_run,
        workers=workers,
        steps=built.steps,
    )


def _print(ctx: Context, result: MirrorResult) -> None:
    done = "would get" if result.dry_run else "got"
    lines = [f"store {name}: {_counted(counts, done)}" for name, counts in result.stores.items()]
    if not result.dry_run:
        lines.append(f"in {human_duration(result.elapsed_s)}")
    print_lines(lines)
    for finding in result.findings:
        note(ctx, f"{finding.code}: {finding.text}")
        if finding.hint:
            note(ctx, f"hint: {finding.hint}")
    for name, error in result.silent.items():
        note(ctx, f"store {name} did not answer: {error.message}")


def _counted(counts: Mapping[str, Any], done: str) -> str:
    parts = [
        f"{counts[kind]} {_KINDS[kind].removesuffix('s') if counts[kind] == 1 else _KINDS[kind]}"
        for kind in _KINDS
        if counts.get(kind)
    ]
    return f"{done} {', '.join(parts)}, {human_size(counts.get('bytes', 0))}" if parts else "lacks nothing"

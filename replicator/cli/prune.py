"""`replicator prune`: takes from each store what its retention no longer keeps.

Owns the options and how results look. By hand it runs in this process; the daemon starts the same verb as a child with
`--progress json` and reads its lines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from replicator.cli.common import Context, cluster_and_daemon_policy, common_options, note, stopping
from replicator.cli.progress import progress_reporter
from replicator.cli.render import human_duration, human_size, print_lines, print_result
from replicator.core.moment import rfc3339

if TYPE_CHECKING:
    from replicator.upkeep.prune import PruneResult, StorePruned


@click.command()
@click.argument("cluster")
@click.option("--dry-run", is_flag=True, help="Say what would go and why the rest stays, and change nothing.")
@common_options(progress=True)
def prune(ctx: Context, cluster: str, dry_run: bool) -> int:
    """Remove from every store of CLUSTER what its [retention] no longer keeps.

    Manifests go at once, what only they needed a day later, with the next prune. Can be interrupted and repeated at any
    time. Exits with 6 when a store did not answer or refused, with 4 when something was held back that is damaged.
    """
    from replicator.compose import compose
    from replicator.jobs import prune_job
    from replicator.upkeep.prune import prune as run_prune

    daemon, policy = cluster_and_daemon_policy(ctx, cluster)
    with stopping() as stop:
        job = prune_job(compose(policy, daemon, interrupt=stop), dry_run=dry_run)
        with progress_reporter(ctx, "prune") as report:
            result = run_prune(job, report, stop)
    if ctx.json or ctx.progress == "json":
        print_result(ctx, result.as_json())
    else:
        _print(ctx, result)
    return result.exit_code


def _print(ctx: Context, result: PruneResult) -> None:
    lines: list[str] = []
    for found in result.stores.values():
        lines += found.sentences(human_size(found.counts.bytes)) if result.dry_run else _done(found)
    if not result.dry_run:
        lines.append(f"in {human_duration(result.elapsed_s)}")
    print_lines(lines)
    for finding in result.findings:
        note(ctx, f"{finding.code}: {finding.text}")
        if finding.hint:
            note(ctx, f"hint: {finding.hint}")
    for name, error in result.silent.items():
        note(ctx, f"store {name} was not pruned: {error.message}")
        if error.hint:
            note(ctx, f"hint: {error.hint}")


def _done(found: StorePruned) -> list[str]:
    counts = found.counts
    went = f", {', '.join(found.gone)} went" if found.gone else ""
    lines = [f"store {found.store}: {len(found.kept)} snapshots are kept{went}"]
    lines.append(f"store {found.store}: {counts.objects} objects removed, {human_size(counts.bytes)}")
    if counts.waiting:
        lines.append(f"store {found.store}: {counts.waiting} objects wait for their day")
    if counts.locked_until is not None:
        lines.append(
            f"store {found.store}: {counts.locked} objects are locked, the last until {rfc3339(counts.locked_until)}"
        )
    return [*lines, *(f"store {found.store}: held back: {why}" for why in found.held)]

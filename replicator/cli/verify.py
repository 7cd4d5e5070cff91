"""`replicator verify`: can it be restored? Runs the levels, keeps their records, and shows what they found.

Owns the options and how results look. By hand and by cron it runs in this process; the daemon starts the same verb as a
child with `--progress json` and reads its lines.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from replicator.cli.common import Context, cluster_and_daemon_policy, common_options, stopping
from replicator.cli.progress import progress_reporter
from replicator.cli.render import human_duration, print_lines, print_result
from replicator.errors import ReplicatorError, UsageError

if TYPE_CHECKING:
    from replicator.core.lsn import Lsn
    from replicator.policy import DaemonPolicy
    from replicator.verify.model import LevelResult, VerifyJob, VerifyResult

_LEVELS = {
    "objects": "Every object of every store: there, whole, signed, and opened where this host can.",
    "coverage": "The WAL that each snapshot needs, and the recoverable windows.",
    "drill": "A real restore into scratch, started and questioned.",
    "compare": "The restored cluster against a replica, or against a second way to restore it.",
}
#: Findings of a level that are shown to people.
_SHOWN = 100
_PATH = click.Path(path_type=Path, dir_okay=False)


def _levels(command: Any) -> Any:
    for name, text in reversed(_LEVELS.items()):
        command = click.option(f"--{name}", is_flag=True, help=text)(command)
    return command


@click.command()
@click.argument("cluster")
@_levels
@click.option("--store", metavar="S", help="Only this store.")
@click.option("--repair", is_flag=True, help="Take damaged and missing objects from another store.")
@click.option("--owner", metavar="USER", help="The user that a drill's server runs as.")
@click.option("--seed", type=int, metavar="N", help="Fixes what a drill chooses at random.")
@click.option("--time-limit", metavar="D", help='End after about this long, for example "2h".')
@click.option("--report", "report_file", type=_PATH, metavar="FILE", help="Write an HTML page about the result.")
@click.option("--textfile", type=_PATH, metavar="FILE", help="Write metrics for Prometheus' textfile collector.")
@common_options(progress=True)
def verify(ctx: Context, cluster: str, **options: Any) -> int:
    """Verify that CLUSTER can be restored: all levels, or those that are named.

    Exits with 4 when anything is wrong or a level could not run; a level asked for alone that could not run has its own
    code. With --quiet it says nothing when all is well.
    """
    from replicator.compose import compose
    from replicator.jobs import verify_job
    from replicator.policy import parse_duration
    from replicator.verify.job import verify as run_verification

    limit = parse_duration(options["time_limit"]) if options["time_limit"] is not None else None
    asked = tuple(name for name in _LEVELS if options[name])
    if options["repair"] and asked and "objects" not in asked:
        raise UsageError("--repair goes with --objects", hint="Add --objects, or name no level.")
    daemon, policy = cluster_and_daemon_policy(ctx, cluster)
    with stopping() as stop:
        job = verify_job(
            compose(policy, daemon, interrupt=stop),
            store=options["store"],
            repair=options["repair"],
            owner=options["owner"],
            seed=options["seed"],
            stream_position=partial(_stream_position, daemon, cluster),
        )
        with progress_reporter(ctx, "verify") as report:
            result = run_verification(job, asked, report, limit_s=limit)
    try:
        _write_files(job, result, options["report_file"], options["textfile"])
    except ReplicatorError as error:
        if result.ok:
            raise
        click.echo(error.message, err=True)  # what was found matters more
    if result.alone and result.failures:
        raise next(iter(result.failures.values()))
    if ctx.json or ctx.progress == "json":
        print_result(ctx, result.as_json())
    elif not ctx.quiet:
        print_lines(list(_lines(cluster, result)))
    elif not result.ok:
        click.echo(paragraph(cluster, result), err=True)
    return result.exit_code


def _stream_position(daemon: DaemonPolicy, cluster: str) -> tuple[int, Lsn] | None:
    """How far a running daemon says that the stream has come; None when none answers or says so."""
    from replicator.api.client import fetch_status
    from replicator.core.lsn import Lsn
    from replicator.policy import resolve_secret

    try:
        token = resolve_secret(daemon.api.token, what="the HTTP interface's token") if daemon.api.token else None
        found = fetch_status(daemon.api.host, daemon.api.port, token) or {}
        status = found.get("clusters", {}).get(cluster, {})
        timeline, lsn = status.get("source", {}).get("timeline"), status.get("stream", {}).get("flushed_lsn")
        return (int(timeline), Lsn.parse(lsn)) if timeline and lsn else None
    except ReplicatorError:  # a verification does without it
        return None


def _write_files(job: VerifyJob, result: VerifyResult, report: Path | None, textfile: Path | None) -> None:
    from replicator.verify.proofs import read_marks, read_proofs

    if report is None and textfile is None:
        return
    now = job.clock.now()
    proofs = read_proofs(job.repository, now)
    if textfile is not None:
        from replicator.verify.textfile import write_textfile

        write_textfile(textfile, job.cluster, result, proofs, now)
    if report is not None:
        from replicator.verify.report import write_report

        write_report(report, job.cluster, result, proofs, now, read_marks(job.repository, now))


def _lines(cluster: str, result: VerifyResult) -> Iterator[str]:
    for name, level in result.levels.items():
        yield f"{name}: {_state(level)}, {level.checked} checked in {human_duration(level.elapsed_s)}"
        for finding in level.findings[:_SHOWN]:
            yield f"  {f'{finding.affects}: ' if finding.affects else 'remark: '}{finding.text} ({finding.code})"
            if finding.hint:
                yield f"    {finding.hint}"
        if len(level.findings) > _SHOWN:
            yield f"  and {len(level.findings) - _SHOWN} more: see --json"
    for record in result.record_ids:
        yield f"record {record}"
    yield f"{cluster}: {'all is well' if result.ok else 'not well'}"


def _state(level: LevelResult) -> str:
    return "well" if level.ok else "not well"


def paragraph(cluster: str, result: VerifyResult) -> str:
    """What is wrong in a few sentences, for a mail from cron."""
    wrong = [finding for level in result.levels.values() for finding in level.findings if finding.affects is not None]
    levels = ", ".join(name for name, level in result.levels.items() if not level.ok)
    first = wrong[0]
    more = f" There are {len(wrong) - 1} more findings." if len(wrong) > 1 else ""
    hint = f" {first.hint}" if first.hint else ""
    return (
        f"The verification of {cluster} found something wrong ({levels}): {first.text}. It affects {first.affects}."
        f"{hint}{more} See `replicator record list {cluster}`."
    )

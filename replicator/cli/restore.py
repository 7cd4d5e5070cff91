"""`replicator restore`: brings a cluster back as it was at a moment.

Owns the options, where the repository comes from (a policy, or a recovery sheet and a store), and how a plan and a
result look. The work is restore's.
"""

from __future__ import annotations

from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import click

from replicator.cli.common import Context, cluster_and_daemon_policy, common_options, note, stopping
from replicator.cli.progress import progress_reporter
from replicator.cli.render import human_duration, human_size, print_json, print_lines, print_result
from replicator.errors import UsageError

if TYPE_CHECKING:
    from replicator.core.target import RecoveryTarget
    from replicator.restore.job import RestoreJob, RestoreResult
    from replicator.restore.plan import RecoveryPlan

_TARGETS = ("to_time", "to_lsn", "to_xid", "to_name", "latest", "immediate")
_ACTIONS = ("promote", "pause", "shutdown")
_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("cluster")
@click.option("--into", type=_PATH, required=True, metavar="DIR", help="The data directory, empty or not there yet.")
@click.option("--to-time", metavar="T", help="The last moment to keep, with its UTC offset.")
@click.option("--to-lsn", metavar="L", help="A position in the WAL.")
@click.option("--to-xid", metavar="X", type=click.IntRange(1), help="A transaction.")
@click.option("--to-name", metavar="N", help="A point made with pg_create_restore_point.")
@click.option("--latest", is_flag=True, help="All that was shipped.")
@click.option("--immediate", is_flag=True, help="As soon as the snapshot is consistent.")
@click.option("--exclusive", is_flag=True, help="Stop just before the target, not just after it.")
@click.option("--timeline", default="latest", show_default=True, metavar="N|latest", help="The timeline to follow.")
@click.option("--snapshot", metavar="LABEL", help="Start from this snapshot.")
@click.option("--store", metavar="S", help="Only from this store; with --sheet also a URL.")
@click.option("--delta", is_flag=True, help="DIR may hold the same cluster: fetch what differs, remove the rest.")
@click.option("--tablespace", "tablespaces", multiple=True, metavar="OID=DIR", help="Where a tablespace goes.")
@click.option("--workers", type=click.IntRange(1, 64), default=4, show_default=True, help="Threads that fetch.")
@click.option("--action", type=click.Choice(_ACTIONS), default="promote", show_default=True, help="At the target.")
@click.option("--start", is_flag=True, help="Start the server and wait for the end of recovery.")
@click.option("--port", type=click.IntRange(1, 65535), metavar="N", help="With --start; else a free one.")
@click.option("--owner", metavar="USER", help="The user that the files are given to and the server runs as.")
@click.option("--sheet", type=_PATH, metavar="FILE", help="Restore with a recovery sheet, without a policy.")
@click.option("--identity", type=_PATH, metavar="FILE", help="A recipient's private key.")
@click.option("--dry-run", is_flag=True, help="Show the plan and do nothing.")
@common_options(progress=True)
def restore(ctx: Context, cluster: str, into: Path, dry_run: bool, **options: Any) -> None:
    """Restore CLUSTER into DIR: as it was at a time, an LSN, a transaction, a named point, or as late as possible."""
    from replicator.restore.run import make_plan
    from replicator.restore.run import restore as run_restore

    target = _target(options)
    if options["port"] is not None and not options["start"]:
        raise UsageError("--port goes with --start", hint="Without --start the port stands in postgresql.conf.")
    with stopping() as stop, progress_reporter(ctx, "restore") as report:
        job = _job(ctx, cluster, into, target, options, report, stop)
        if dry_run:
            found = make_plan(job)
        else:
            result = run_restore(job)
    if dry_run:
        _print_plan(ctx, found)
    else:
        _print_result(ctx, result, job)


def _target(options: dict[str, Any]) -> RecoveryTarget:
    from replicator.core.lsn import Lsn
    from replicator.core.moment import parse_time
    from replicator.core.target import RecoveryTarget, TargetKind

    given = [name for name in _TARGETS if options[name] not in (None, False)]
    if len(given) != 1:
        names = ", ".join("--" + name.replace("_", "-") for name in (given or _TARGETS))
        raise UsageError(
            f"{len(given)} targets were given ({names})" if given else "no target was given",
            hint="Give exactly one of --to-time, --to-lsn, --to-xid, --to-name, --latest, --immediate.",
        )
    kind = TargetKind(given[0].removeprefix("to_"))
    if options["exclusive"] and kind in (TargetKind.LATEST, TargetKind.IMMEDIATE):
        raise UsageError(
            f"--exclusive makes no sense with --{kind.value}",
            hint="It goes with --to-time, --to-lsn, --to-xid and --to-name.",
        )
    return RecoveryTarget(
        kind,
        time=parse_time(options["to_time"]) if kind is TargetKind.TIME else None,
        lsn=Lsn.parse(options["to_lsn"]) if kind is TargetKind.LSN else None,
        xid=options["to_xid"],
        name=options["to_name"],
        inclusive=not options["exclusive"],
        timeline=_timeline(options["timeline"]),
    )


def _timeline(text: str) -> int | None:
    if text == "latest":
        return None
    if not text.isdigit() or int(text) < 1:
        raise UsageError(f"{text!r} is not a timeline", hint='Give its number, or "latest".')
    return int(text)


def parse_tablespaces(given: tuple[str, ...]) -> dict[int, Path]:
    """What `--tablespace OID=DIR` says, each OID once. Raises UsageError."""
    found: dict[int, Path] = {}
    for text in given:
        oid, equals, directory = text.partition("=")
        if not equals or not oid.isdigit() or not directory or int(oid) in found:
            raise UsageError(f"{text!r} is not OID=DIR", hint="Give each tablespace's OID and one directory for it.")
        found[int(oid)] = Path(directory).absolute()
    return found


def _job(
    ctx: Context,
    cluster: str,
    into: Path,
    target: RecoveryTarget,
    options: dict[str, Any],
    report: Any,
    stop: Event,
) -> RestoreJob:
    from replicator.cli.source import from_policy, from_sheet
    from replicator.restore.job import RestoreJob
    from replicator.restore.plan import PlanRequest

    if options["sheet"] is not None:
        source = from_sheet(cluster, options["sheet"], options["store"], options["identity"])
    else:
        daemon, policy = cluster_and_daemon_policy(ctx, cluster)
        source = from_policy(policy, daemon, options["store"], options["identity"], stop)
    return RestoreJob(
        repository=source.repository,
        access=source.access,
        request=PlanRequest(
            cluster, target, options["snapshot"], options["action"], can_open=source.repository.keyring.can_open
        ),
        into=into.absolute(),
        binaries=source.binaries,
        tablespaces=parse_tablespaces(options["tablespaces"]),
        workers=options["workers"],
        delta=options["delta"],
        start=options["start"],
        port=options["port"],
        owner=options["owner"],
        report=report,
        stop=stop,
    )


def _print_plan(ctx: Context, found: RecoveryPlan) -> None:
    for warning in found.warnings:
        note(ctx, f"warning: {warning}")
    if ctx.json:
        print_json(found.as_json())
    elif ctx.progress == "json":
        print_result(ctx, found.as_json())
    else:
        print_lines(_plan_lines(found))


def _plan_lines(found: RecoveryPlan) -> list[str]:
    return [
        f"target: {found.target}",
        f"snapshot {found.snapshot.label} from store {found.store}: {human_size(found.summary.bytes)}",
        f"WAL: {found.segments} segments and {found.pieces} pieces, up to {found.until}, on timeline "
        f"{' then '.join(str(timeline) for timeline in found.timelines)}",
        f"expected: {human_size(found.bytes)} in about {human_duration(found.expected_s)}",
        *(f"missing: {name}" for name in found.missing),
        *(f"reachable: {window}" for window in found.windows),
    ]


def _print_result(ctx: Context, result: RestoreResult, job: RestoreJob) -> None:
    for text in result.notes:
        note(ctx, f"note: {text}")
    if ctx.json or ctx.progress == "json":
        print_result(ctx, result.as_json())
        return
    ran = result.started
    lines = [
        f"restored {job.repository.cluster} to {result.plan.target} from snapshot {result.plan.snapshot.label} of "
        f"store {result.plan.store} in {human_duration(result.elapsed_s)}",
        f"data directory: {result.data_directory}",
    ]
    if ran is None:
        lines.append("start it with pg_ctl as its owner: it recovers to the target first")
    elif ran.pid is None:
        lines.append(f"recovery reached {ran.reached_lsn} and shut the server down")
    else:
        state = "paused" if job.request.action == "pause" else "ended"
        lines.append(f"recovery {state} at {ran.reached_lsn or 'the target'}")
        lines.append(f"last transaction: {result.reached_time or 'unknown'}")
        lines.append(f"server: port {ran.port}, process {ran.pid}")
    print_lines(lines)

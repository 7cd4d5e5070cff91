"""`replicator snapshot`: takes a snapshot, shows those that are there, and keeps or removes one.

Owns the options and how results look. By hand it runs in this process; the daemon starts the same verb as a child with
`--progress json` and reads its lines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from replicator.cli.common import Context, cluster_and_daemon_policy, common_options, confirm, note, stopping
from replicator.cli.progress import progress_reporter
from replicator.cli.render import human_duration, human_size, print_json, print_lines, print_result, print_table
from replicator.core.moment import rfc3339

if TYPE_CHECKING:
    from replicator.repository.repository import Repository
    from replicator.snapshot.job import TakeResult
    from replicator.upkeep.prune_remove import Changed

_COLUMNS = ("label", "timeline", "start", "stop", "time", "parent", ">bytes", ">added", "stores", "state")


@click.group()
def snapshot() -> None:
    """Take, list, show, pin and remove snapshots."""


@snapshot.command()
@click.argument("cluster")
@click.option("--full", is_flag=True, help="Refer to no earlier snapshot.")
@click.option("--workers", type=click.IntRange(1, 64), help="Threads that compress and encrypt; else the policy's.")
@common_options(progress=True)
def take(ctx: Context, cluster: str, full: bool, workers: int | None) -> int:
    """Take a snapshot of CLUSTER into every store of its policy.

    The cluster's stream must be running. Exits with 6 when a store lacks the snapshot, with 4 when it is damaged.
    """
    from replicator.compose import compose
    from replicator.jobs import take_job
    from replicator.snapshot.take import take as take_snapshot

    daemon, policy = cluster_and_daemon_policy(ctx, cluster)
    with stopping() as stop:
        job = take_job(compose(policy, daemon, interrupt=stop), full=full, workers=workers)
        with progress_reporter(ctx, "snapshot") as report:
            result = take_snapshot(job, report, stop)
    if ctx.json or ctx.progress == "json":
        print_result(ctx, result.as_json())
    else:
        _print_taken(ctx, cluster, result)
    return result.exit_code


@snapshot.command(name="list")
@click.argument("cluster")
@click.option("--store", "store", metavar="S", help="Only what this store holds.")
@common_options()
def list_(ctx: Context, cluster: str, store: str | None) -> int:
    """List the snapshots of CLUSTER, oldest first. Exits with 6 when a store did not answer."""
    from replicator.snapshot.view import list_rows

    listing = list_rows(_repository(ctx, cluster, store, secrets=False))
    if ctx.json:
        print_json([row.as_json() for row in listing.rows])
    else:
        print_table(ctx, _COLUMNS, [_cells(row.as_json()) for row in listing.rows])
    for name, error in listing.silent.items():
        note(ctx, f"store {name} did not answer: {error.message}")
    return 6 if listing.silent else 0


@snapshot.command()
@click.argument("cluster")
@click.argument("label")
@common_options()
def show(ctx: Context, cluster: str, label: str) -> None:
    """Show the snapshot LABEL of CLUSTER: its facts, its packs, and what each store has of it."""
    from replicator.snapshot.view import show as show_snapshot

    found = show_snapshot(_repository(ctx, cluster, None, secrets=True), label)
    if ctx.json:
        print_json(found)
    else:
        print_lines(_shown(found))


@snapshot.command()
@click.argument("cluster")
@click.argument("label")
@common_options()
def pin(ctx: Context, cluster: str, label: str) -> int:
    """Keep the snapshot LABEL of CLUSTER whatever its age, with all that it needs.

    Exits with 6 when a store did not get the note; prune keeps the snapshot there, too, while another store has it.
    """
    return _pin(ctx, cluster, label, pinned=True)


@snapshot.command()
@click.argument("cluster")
@click.argument("label")
@common_options()
def unpin(ctx: Context, cluster: str, label: str) -> int:
    """Leave the snapshot LABEL of CLUSTER to retention again."""
    return _pin(ctx, cluster, label, pinned=False)


def _pin(ctx: Context, cluster: str, label: str, *, pinned: bool) -> int:
    from replicator.compose import compose
    from replicator.upkeep.prune_remove import pin as put_pin

    daemon, policy = cluster_and_daemon_policy(ctx, cluster)
    built = compose(policy, daemon)
    changed = put_pin(built.repository(secrets=False, write=True), label, pinned=pinned, now=built.clock.now())
    _print_changed(ctx, changed, "pinned" if pinned else "unpinned")
    return changed.exit_code


@snapshot.command()
@click.argument("cluster")
@click.argument("label")
@click.option("--yes", is_flag=True, help="Do not ask.")
@common_options()
def remove(ctx: Context, cluster: str, label: str, yes: bool) -> int:
    """Remove the snapshot LABEL of CLUSTER from every store.

    What only it needed goes with the prunes that follow, a day later. Refused with 8 for a store's last good snapshot,
    one that is pinned and one in use. Exits with 6 when a store did not answer or refused.
    """
    from replicator.compose import compose
    from replicator.jobs import prune_job
    from replicator.upkeep.prune_remove import remove as remove_snapshot

    daemon, policy = cluster_and_daemon_policy(ctx, cluster)
    confirm(f"Remove snapshot {label} of {cluster} from every store?", yes=yes)
    changed = remove_snapshot(prune_job(compose(policy, daemon)), label)
    _print_changed(ctx, changed, "removed")
    return changed.exit_code


def _print_changed(ctx: Context, changed: Changed, done: str) -> None:
    if ctx.json:
        print_json(changed.as_json())
    elif changed.stores:
        print_lines([f"snapshot {changed.label} {done} in {', '.join(changed.stores)}"])
    for name, until in changed.locked.items():
        note(ctx, f"store {name} keeps it: it is locked until {rfc3339(until)}")
    for name, error in changed.silent.items():
        note(ctx, f"store {name}: {error.message}")


def _repository(ctx: Context, cluster: str, store: str | None, *, secrets: bool) -> Repository:
    from replicator.compose import compose

    daemon, policy = cluster_and_daemon_policy(ctx, cluster)
    return compose(policy, daemon).repository(secrets=secrets, only=(store,) if store else ())


def _cells(row: dict[str, Any]) -> tuple[Any, ...]:
    state = [word for word, holds in (("damaged", row["damaged"]), ("pinned", row["pinned"])) if holds]
    sizes = (human_size(row["bytes"]), human_size(row["added_bytes"]))
    place = (row["label"], row["timeline"], row["start_lsn"], row["stop_lsn"], row["time"], row["parent"])
    return (*place, *sizes, row["stores"], state or "good")


def _print_taken(ctx: Context, cluster: str, result: TakeResult) -> None:
    row = result.row
    kind = f"on {row.parent}" if row.parent else "full"
    print_lines(
        [
            f"snapshot {row.snapshot.label} of {cluster}, {kind}: {human_size(row.bytes)} read, "
            f"{human_size(row.added_bytes)} added to {', '.join(row.stores)} in {human_duration(result.elapsed_s)}"
        ]
    )
    for finding in result.findings:
        note(ctx, f"{finding.code}: {finding.text}")
        if finding.hint:
            note(ctx, f"hint: {finding.hint}")


def _shown(found: dict[str, Any]) -> list[str]:
    words = {
        "label": found["label"],
        "system id": found["system_id"],
        "timeline": found["timeline"],
        "WAL": f"{found['start_lsn']} to {found['stop_lsn']}",
        "begun": found["start_time"],
        "ended": found["time"],
        "parent": found["parent"] or "none, it is full",
        "files": found["files"],
        "size": human_size(found["bytes"]),
        "added": human_size(found["added_bytes"]),
        "packs": len(found["packs"]),
        "pinned": "yes" if found["pinned"] else "no",
        "damaged": "yes" if found["damaged"] else "no",
    }
    lines = [f"{name}: {value}" for name, value in words.items()]
    lines += [f"store {name}: {_present(state)}" for name, state in found["presence"].items()]
    facts = found["facts"] or {}
    lines += [f"tablespace {space['oid']}: {space['location']}" for space in facts.get("tablespaces", [])]
    lines += [f"finding: {text}" for text in facts.get("findings", [])]
    if not facts:
        lines.append("facts: this host holds no key that opens the manifest")
    return lines


def _present(state: dict[str, Any] | None) -> str:
    if state is None:
        return "did not answer"
    lacking = state["missing_packs"]
    packs = f"lacks {lacking} packs" if lacking else "all packs"
    return f"{'has it' if state['manifest'] else 'has no manifest'}, {packs}"

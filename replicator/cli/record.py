"""`replicator record`: what verifications checked and found, as it was signed.

Owns how records look. They are read from the stores, never changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from replicator.cli.common import Context, cluster_and_daemon_policy, common_options, note
from replicator.cli.render import human_duration, print_json, print_lines, print_table

if TYPE_CHECKING:
    from replicator.repository.repository import Repository

_COLUMNS = ("id", "time", "kind", "result", ">checked", ">findings", "proven", "kept in")


@click.group()
def record() -> None:
    """List and show the records of verifications."""


@record.command(name="list")
@click.argument("cluster")
@common_options()
def list_(ctx: Context, cluster: str) -> int:
    """List the records of CLUSTER, oldest first. Exits with 6 when a store did not answer."""
    from replicator.verify.record import list_kept

    listing = list_kept(_repository(ctx, cluster))
    rows = [kept.as_row() for kept in listing.records]
    if ctx.json:
        print_json(rows)
    else:
        print_table(ctx, _COLUMNS, [_cells(row) for row in rows])
    for name, error in listing.silent.items():
        note(ctx, f"store {name} did not answer: {error.message}")
    return 6 if listing.silent else 0


@record.command()
@click.argument("cluster")
@click.argument("record_id", required=False, metavar="[ID]")
@common_options()
def show(ctx: Context, cluster: str, record_id: str | None) -> None:
    """Show the record ID of CLUSTER, or the newest. The beginning of an id is enough where only one begins so.

    Exits with 3 when there is none, with 4 when it is not as it was signed.
    """
    from replicator.verify.record import find_kept

    kept = find_kept(_repository(ctx, cluster), record_id)
    if kept.error is not None:
        raise kept.error
    if ctx.json:
        print_json(kept.as_json())
    else:
        print_lines(_shown(kept.as_json()))


def _repository(ctx: Context, cluster: str) -> Repository:
    from replicator.compose import compose

    daemon, policy = cluster_and_daemon_policy(ctx, cluster)
    return compose(policy, daemon).repository(secrets=False, cached=False)


def _cells(row: dict[str, Any]) -> tuple[Any, ...]:
    result = "not readable" if row["time"] is None else "well" if row["ok"] else "not well"
    return (*(row[key] for key in ("id", "time", "kind")), result, row["checked"], row["findings"], row["proven"],
            row["stores"])  # fmt: skip


def _shown(found: dict[str, Any]) -> list[str]:
    lines = [
        f"record {found['id']}: {'well' if found['ok'] else 'not well'}",
        f"level {found['kind']} on {found['host']} (replicator {found['version']}), "
        f"{found['began']} to {found['time']}, {human_duration(found['elapsed_s'])}",
        f"looked at: {', '.join(found['looked_at'])}; {found['checked']} checked",
        f"proven: {', '.join(found['proven']) or 'nothing'}",
        f"kept in: {', '.join(found['stores'])}",
    ]
    if found.get("previous"):
        lines.append(f"previous: {found['previous']}")
    for finding in found["findings"]:
        place = f"{finding['affects']}: " if finding["affects"] else "remark: "
        lines.append(f"finding: {place}{finding['text']} ({finding['code']})")
    return lines

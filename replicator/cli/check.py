"""`replicator check`: can it work? Asks the doctor and shows what it finds."""

from __future__ import annotations

import socket
from functools import partial
from typing import TYPE_CHECKING

import click

from replicator.cli.common import Context, cluster_and_daemon_policy, common_options, stopping
from replicator.cli.render import print_json, print_lines

if TYPE_CHECKING:
    from replicator.compose import Cluster
    from replicator.doctor.finding import Report
    from replicator.doctor.subject import Patient
    from replicator.policy import Policy

#: A check says within seconds that a store is away.
BUDGET_S = 5.0
_PRINTED = ("sql", "pg_hba", "s3-policy")


@click.command()
@click.argument("cluster")
@click.option("--print", "printed", type=click.Choice(_PRINTED), help="Print what to write elsewhere; check nothing.")
@common_options()
def check(ctx: Context, cluster: str, printed: str | None) -> int:
    """Check whether CLUSTER can be streamed, kept and restored from here.

    Looks at the server's settings, privileges and slot, at every store, the keys, PostgreSQL's programs, directories
    and clocks. What a store honours is found out with a few throw-away objects below <cluster>/probe/, removed at the
    end; nothing else is changed. Exits with the first of 8, 4, 7, 5, 6, 9 that a finding means.
    """
    from replicator.compose import compose
    from replicator.doctor.examine import examine

    daemon, policy = cluster_and_daemon_policy(ctx, cluster)
    if printed is not None:
        return _print(ctx, policy, printed)
    with stopping() as stop:
        report = examine(patient(compose(policy, daemon, interrupt=stop, budget_s=BUDGET_S)))
    if ctx.json:
        print_json(report.as_json())
    else:
        print_lines(_lines(cluster, report, verbose=not ctx.quiet))
    return report.exit_code


def _print(ctx: Context, policy: Policy, what: str) -> int:
    from replicator.doctor import prints

    if what == "sql":
        text = prints.sql(policy)
    elif what == "pg_hba":
        text = prints.pg_hba(policy, _own_address)
    else:
        text = prints.s3_policy(policy)
    if ctx.json:
        print_json({"print": what, "text": text})
    else:
        print_lines([text])
    return 0


def _own_address(host: str) -> str | None:
    """Our address as `host` sees it, from the routes alone: nothing is sent. None when it can't be known."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, 5432, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(address)
            return str(probe.getsockname()[0])
    except OSError:
        return None


def patient(built: Cluster) -> Patient:
    """A composed cluster as the doctor sees it."""
    from replicator.doctor.subject import Patient

    return Patient(
        policy=built.policy,
        clock=built.clock,
        sql=built.sql,
        replication=built.replication_connection,
        stores=built.stores,
        repository=partial(built.repository, cached=False),
        sealed=partial(built.repository, secrets=False, cached=False),
        binaries=built.binaries,
        state_directory=lambda: built.state_directory,
        spool_directory=built.spool_directory,
        may_create_slot=built.may_create_slot,
        probe=lambda store, folder: built.base_stores[store].probe(folder),
        replica=built.snapshot_server(),
    )


def _lines(cluster: str, report: Report, *, verbose: bool) -> list[str]:
    lines = []
    for finding in report.findings:
        if finding.affects is None and not verbose:
            continue
        lines.append(f"{f'{finding.affects}: ' if finding.affects else 'remark: '}{finding.text} ({finding.code})")
        if finding.hint:
            lines.append(f"  {finding.hint}")
    wrong = sum(finding.affects is not None for finding in report.findings)
    return [*lines, f"{cluster}: all is well" if report.ok else f"{cluster}: {wrong} to mend"]

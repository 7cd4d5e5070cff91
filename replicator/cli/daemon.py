"""`replicator daemon`: streams, ships and takes snapshots until it is told to stop.

Owns the wiring of the daemon and its HTTP interface, which don't know each other.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from replicator.cli.common import Context, cluster_policies, common_options, policies_directory

if TYPE_CHECKING:
    from replicator.policy import LogPolicy


@click.command()
@click.argument("clusters", nargs=-1, metavar="[CLUSTER]…")
@common_options(logs=False)
def daemon(ctx: Context, clusters: tuple[str, ...]) -> int:
    """Run until SIGTERM or SIGINT, for the named clusters or for all that have a policy.

    A signal ships what was received first, for at most 20 seconds; a second one cuts that short.
    """
    from replicator.api.app import App
    from replicator.api.server import ApiServer
    from replicator.compose import compose
    from replicator.daemon import events
    from replicator.daemon.daemon import Daemon
    from replicator.daemon.log import configure, get_logger
    from replicator.policy import resolve_secret
    from replicator.tolerance import SystemClock

    directory = policies_directory(ctx).absolute()
    settings, policies = cluster_policies(ctx, clusters)
    configure(_log(ctx, settings.log))
    clock = SystemClock()
    composed = [compose(policy, settings, clock=clock) for policy in policies.values()]
    running = Daemon(composed, lambda cluster: snapshot_command(cluster, directory), clock)
    running.lock()
    reference = settings.api.token
    token = resolve_secret(reference, what="the HTTP interface's token") if reference is not None else None
    server = ApiServer(App(running, token), settings.api.host, settings.api.port)
    running.add_service("api", server.run)
    get_logger(__name__).info(events.API_LISTENING, address=server.address)
    try:
        return running.run()
    finally:
        server.close()


def snapshot_command(cluster: str, directory: Path) -> Sequence[str]:
    """The child that takes a snapshot."""
    verb = ("snapshot", "take", cluster, "--policies", str(directory), "--progress", "json")
    return (sys.executable, "-m", "replicator", *verb)


def _log(ctx: Context, policy: LogPolicy) -> LogPolicy:
    """The log of daemon.toml, with the verb's own wishes."""
    level = "debug" if ctx.verbose else "warning" if ctx.quiet else policy.level
    return policy.model_copy(update={"level": level, "format": "json" if ctx.json else policy.format})

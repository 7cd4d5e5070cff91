"""`replicator daemon`: streams, ships and takes snapshots until it is told to stop.

Owns the wiring of the daemon and its HTTP interface, which don't know each other.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from replicator.cli.common import Context, cluster_policies, common_options, policies_directory

if TYPE_CHECKING:
    from replicator.compose import Cluster
    from replicator.policy import DaemonPolicy, LogPolicy, Policy


@click.command()
@click.argument("clusters", nargs=-1, metavar="[CLUSTER]…")
@common_options(logs=False)
def daemon(ctx: Context, clusters: tuple[str, ...]) -> int:
    """Run until SIGTERM or SIGINT, for the named clusters or for all that have a policy.

    A signal ships what was received first, for at most 20 seconds; a second one cuts that short. SIGHUP reads the
    policies again: a file that is not valid changes nothing, a changed cluster begins anew, the others go on.
    """
    # Until the daemon listens to it, the policies have just been read anyway.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    from replicator.api.app import App
    from replicator.api.server import ApiServer
    from replicator.compose import compose
    from replicator.daemon import events
    from replicator.daemon.daemon import Daemon
    from replicator.daemon.log import configure, get_logger
    from replicator.daemon.reload import Files, Reload
    from replicator.tolerance import SystemClock

    directory = policies_directory(ctx).absolute()
    fixed = replace(ctx, policies=directory)
    settings, policies = cluster_policies(fixed, clusters)
    configure(_log(ctx, settings.log))
    clock = SystemClock()

    def build(policy: Policy, daemon: DaemonPolicy) -> Cluster:
        return compose(policy, daemon, clock=clock)

    def read() -> Files:
        again, found = cluster_policies(fixed, clusters)
        token = _token(again)

        def commit() -> None:
            configure(_log(ctx, again.log))
            app.token = token

        return Files(again, found, commit)

    composed = [build(policy, settings) for policy in policies.values()]
    reload = Reload(Files(settings, policies), read, build)
    running = Daemon(
        composed,
        lambda cluster: snapshot_command(cluster, directory),
        clock,
        verify=lambda cluster: verify_command(cluster, directory),
        mirror=lambda cluster: mirror_command(cluster, directory),
        prune=lambda cluster: prune_command(cluster, directory),
        reload=reload,
    )
    running.lock()
    app = App(running, _token(settings))
    server = ApiServer(app, settings.api.host, settings.api.port)
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


def verify_command(cluster: str, directory: Path) -> Sequence[str]:
    """The child that verifies."""
    verb = ("verify", cluster, "--policies", str(directory), "--progress", "json")
    return (sys.executable, "-m", "replicator", *verb)


def mirror_command(cluster: str, directory: Path) -> Sequence[str]:
    """The child that mirrors."""
    verb = ("mirror", cluster, "--policies", str(directory), "--progress", "json")
    return (sys.executable, "-m", "replicator", *verb)


def prune_command(cluster: str, directory: Path) -> Sequence[str]:
    """The child that prunes."""
    verb = ("prune", cluster, "--policies", str(directory), "--progress", "json")
    return (sys.executable, "-m", "replicator", *verb)


def _token(settings: DaemonPolicy) -> bytes | None:
    """The HTTP interface's token. Raises HostLacks, PolicyError."""
    from replicator.policy import resolve_secret

    reference = settings.api.token
    return resolve_secret(reference, what="the HTTP interface's token") if reference is not None else None


def _log(ctx: Context, policy: LogPolicy) -> LogPolicy:
    """The log of daemon.toml, with the verb's own wishes."""
    level = "debug" if ctx.verbose else "warning" if ctx.quiet else policy.level
    return policy.model_copy(update={"level": level, "format": "json" if ctx.json else policy.format})

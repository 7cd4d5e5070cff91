"""`replicator init`: makes or completes a cluster's repository, registers this host as a writer, and makes the slot; or
says that another cluster took the former one's place.

Owns the verb's options and how the recovery sheet reaches the operator. The work is upkeep's.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from replicator.cli.common import Context, cluster_and_daemon_policy, common_options, note, stopping
from replicator.cli.render import print_json, print_lines
from replicator.errors import AlreadyExists, Conflict, SourceUnavailable, StoreUnavailable

if TYPE_CHECKING:
    from replicator.compose import Cluster
    from replicator.upkeep.init import InitJob, InitResult


@click.command()
@click.argument("cluster")
@click.option("--sheet", type=click.Path(path_type=Path), metavar="FILE", help="Write the recovery sheet there too.")
@click.option(
    "--identity",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A recipient's private key, to register this host with a repository that exists.",
)
@click.option(
    "--accept-system",
    "accepted",
    type=click.IntRange(1, 2**64 - 1),
    metavar="ID",
    help="Follow the cluster with this system identifier from now on, in the former one's place (after pg_upgrade).",
)
@common_options()
def init(ctx: Context, cluster: str, sheet: Path | None, identity: Path | None, accepted: int | None) -> None:
    """Make CLUSTER's repository, keys and slot; repeatable.

    A store newly added gets the repository's id and keys. The first run makes the root and prints the recovery sheet.
    With --accept-system it only says that another cluster took the former one's place: the daemon streams it and takes
    a snapshot at once; what is kept of the former one stays.
    """
    from replicator.compose import compose

    daemon, policy = cluster_and_daemon_policy(ctx, cluster)
    with stopping() as stop:
        built = compose(policy, daemon, interrupt=stop)
        if accepted is not None:
            _accept(ctx, built, accepted)
            return
        result = _initialise(ctx, built, sheet, identity)
        built.pin_root(result.root)
        slot = _slot(built)
    if ctx.json:
        print_json(
            {
                "created": result.created,
                "root": result.root,
                "repository": result.repository,
                "writer": result.writer,
                "stores": dict(result.stores),
                "slot": slot,
                "sheet": sheet,
            }
        )
        return
    lines = [f"repository {result.repository} of {cluster}: {'created' if result.created else 'there already'}"]
    lines += [f"store {name}: {state}" for name, state in result.stores.items()]
    lines += [f"this host signs as writer {result.writer}", f"slot {policy.source.slot}: {slot}"]
    print_lines(lines)
    if policy.encryption.root is None:
        note(ctx, f'Add to [encryption] in {policy.path}: root = "{result.root}"')


def _initialise(ctx: Context, built: Cluster, sheet: Path | None, identity: Path | None) -> InitResult:
    from replicator.upkeep.init import initialise

    try:
        return initialise(_job(built, _deliver(ctx, sheet), identity))
    except AlreadyExists:
        raise
    except Conflict as error:
        if built.policy.encryption.root is not None or built.pinned_root is None:
            raise
        raise Conflict(
            error.message,
            hint=f"{error.hint} This host pinned that root in {built.state.pin_path}: remove it if you know why.",
        ) from error


def _accept(ctx: Context, built: Cluster, system_id: int) -> None:
    """Put the note, and make the slot on the new server. The server itself is asked first, where it answers."""
    from replicator.upkeep.accept import accept_system

    try:
        with built.replication_connection() as connection:
            found = connection.identify().system_id
    except SourceUnavailable as error:
        note(ctx, f"the source was not asked: {error.message}")
    else:
        if found != system_id:
            raise Conflict(
                f"the source is cluster {found}, not {system_id}",
                hint="Look where conninfo in [source] leads; the identifier is in `pg_controldata`.",
            )
    result = accept_system(built.repository(secrets=False, write=True), system_id, built.clock.now())
    slot = _slot(built)
    if ctx.json and not result.failed:
        print_json({"system": str(system_id), "stores": result.stores, "slot": slot})
    elif not ctx.json:
        lines = [f"store {name}: cluster {system_id} {state}" for name, state in result.stores.items()]
        print_lines([*lines, f"slot {built.policy.source.slot}: {slot}"])
    if result.failed:
        name, failure = next(iter(result.failed.items()))
        raise StoreUnavailable(
            f"store {name} does not know yet that cluster {system_id} is followed: {failure.message}",
            hint="The daemon goes on with what the other stores say; run this again when the store answers.",
        )


def _job(built: Cluster, deliver: Callable[[str], None], identity: Path | None) -> InitJob:
    from replicator.upkeep.init import InitJob
    from replicator.upkeep.sheet import SheetStore

    policy = built.policy
    return InitJob(
        cluster=policy.cluster,
        stores=built.stores(),
        sheet_stores=tuple(
            SheetStore(store.name, store.url, store.endpoint or "", store.region or "") for store in policy.stores
        ),
        mode=policy.encryption.mode,
        recipients=policy.encryption.recipients,
        secrets=built.secrets(identity=identity),
        writer_key=policy.encryption.writer_key,
        host=platform.node(),
        now=built.clock.now(),
        pending=built.state_directory / "init",
        pinned_root=built.pinned_root,
        prepare=built.prepare_stores,
        deliver=deliver,
    )


def _deliver(ctx: Context, sheet: Path | None) -> Callable[[str], None]:
    """To the file if one is named, and to standard output; with --json and no file to standard error, at once: a later
    failure must not lose it.
    """
    from replicator.upkeep.sheet import write_sheet

    def deliver(text: str) -> None:
        if sheet is not None:
            write_sheet(sheet, text)
        if not ctx.json or sheet is None:
            click.echo(text, err=ctx.json)

    return deliver


def _slot(built: Cluster) -> str:
    """Make the slot unless it is there, and remember that it is ours; without the server the daemon makes it."""
    name = built.policy.source.slot
    try:
        with built.replication_connection() as connection:
            if connection.read_slot(name) is not None:
                return "there already"
            connection.create_slot(name)
    except SourceUnavailable as error:
        built.state.record_slot(name)
        return f"the daemon will make it ({error.message})"
    built.state.record_slot(name)
    return "created"

"""`replicator policy check|explain|schema`: what the policies say, without doing any of it."""

from __future__ import annotations

from pathlib import Path

import click

from replicator.cli.common import Context, common_options, policies_directory
from replicator.cli.render import print_json, print_lines
from replicator.policy import DaemonPolicy, Policy, explain, explain_daemon, load_files, load_policies, schema

_FILES = click.argument("files", metavar="[FILE]...", nargs=-1, type=click.Path(path_type=Path))


@click.group()
def policy() -> None:
    """Check, explain and describe policies."""


@policy.command()
@_FILES
@common_options()
def check(ctx: Context, files: tuple[Path, ...]) -> None:
    """Read the policies and name every problem with its place."""
    daemon, policies = _load(ctx, files)
    found = [str(policy.path) for policy in policies.values()]
    found += [str(daemon.path)] if daemon is not None and daemon.path else []
    if ctx.json:
        print_json({"ok": True, "clusters": list(policies), "files": found})
        return
    if not ctx.quiet:
        print_lines([f"{path}: well" for path in found])


@policy.command(name="explain")
@_FILES
@common_options()
def explain_(ctx: Context, files: tuple[Path, ...]) -> None:
    """Say in sentences what the policies make happen, and what this version doesn't run yet."""
    daemon, policies = _load(ctx, files)
    told = {name: explain(policy) for name, policy in policies.items()}
    about = explain_daemon(daemon) if daemon is not None else []
    if ctx.json:
        print_json({"clusters": told, "daemon": about})
        return
    sections = [*told.items(), *([("daemon", about)] if about else [])]
    print_lines(["\n\n".join(_section(name, sentences) for name, sentences in sections)])


@policy.command(name="schema")
@_FILES
@click.option("--daemon", is_flag=True, help="Of daemon.toml instead of a cluster's policy.")
@common_options()
def schema_(_ctx: Context, files: tuple[Path, ...], daemon: bool) -> None:
    """Print the JSON Schema of a policy (or of daemon.toml, when FILE has that name)."""
    print_json(schema(daemon=daemon or any(file.name == "daemon.toml" for file in files)))


def _load(ctx: Context, files: tuple[Path, ...]) -> tuple[DaemonPolicy | None, dict[str, Policy]]:
    return load_files(files) if files else load_policies(policies_directory(ctx))


def _section(name: str, sentences: list[str]) -> str:
    return "\n".join([name, *(f"  {sentence}" for sentence in sentences)])

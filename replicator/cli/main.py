"""The entry point: finds the verb, runs it, and turns every failure into a sentence, a hint and an exit code.

Owns the table of verbs and the mapping from errors to exit codes. A verb's module is imported only when the verb is
called: `replicator wal get` is PostgreSQL's restore_command and starts once for each segment. So this module imports
click and the errors alone.

A verb returns None (0) or its exit code.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from difflib import get_close_matches
from importlib import import_module
from itertools import pairwise
from typing import Any, NoReturn

import click

from replicator import __version__
from replicator.errors import Interrupted, PolicyError, ReplicatorError, TargetUnreachable, UsageError

#: Verb → (module:command, one line of help), in the order in which a new user meets them.
VERBS = {
    "policy": ("replicator.cli.policy:policy", "Check, explain and describe policies."),
    "init": ("replicator.cli.init:init", "Make a cluster's repository, keys and slot."),
    "check": ("replicator.cli.check:check", "Can it work? Settings, privileges, slot, stores, binaries."),
    "daemon": ("replicator.cli.daemon:daemon", "Stream, ship and take snapshots until stopped."),
    "status": ("replicator.cli.status:status", "How every cluster stands."),
    "snapshot": ("replicator.cli.snapshot:snapshot", "Take, list, show, pin and remove snapshots."),
    "wal": ("replicator.cli.wal:wal", "What WAL is covered, and one file of it."),
    "replica": ("replicator.cli.replica:replica", "Make, list and remove standbys."),
    "restore": ("replicator.cli.restore:restore", "Bring a cluster back as it was at a moment."),
    "verify": ("replicator.cli.verify:verify", "Can it be restored? Prove it."),
    "record": ("replicator.cli.record:record", "What verifications checked and found."),
    "prune": ("replicator.cli.prune:prune", "Remove what retention no longer keeps."),
    "mirror": ("replicator.cli.mirror:mirror", "Make a cluster's stores equal, object by object."),
    "key": ("replicator.cli.key:key", "Who can open: list, add, remove, rotate and test keys."),
}
#: What a shell reports of a program that SIGPIPE ended; not an error of ours.
BROKEN_PIPE = 141
#: For gc.set_threshold: what is imported stays, so looking through it for garbage now and then makes a start slower by
#: a tenth, and a verb makes few cycles. The second generation, and with it the third, still come.
_COLLECT = (20_000, 10, 10)


class LazyGroup(click.Group):
    """A group that knows its verbs by name and imports one when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 click's signature
        """The verbs, in the table's order."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 the same
        """The verb's command, imported now; None when there is no such verb."""
        if cmd_name not in VERBS:
            return None
        module, _, attribute = VERBS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The verb of the first argument; an unknown one names the nearest."""
        name = args[0]
        if name not in VERBS and not name.startswith("-"):
            near = get_close_matches(name, VERBS, n=1)
            hint = f"Did you mean `replicator {near[0]}`?" if near else "Run `replicator --help` for the verbs."
            raise UsageError(f"no such verb {name!r}", hint=hint)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """The verbs with their lines of help, without importing one."""
        with formatter.section("Verbs"):
            formatter.write_dl([(name, line) for name, (_, line) in VERBS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="replicator", message="%(prog)s %(version)s")
def replicator() -> None:
    """Stream, snapshot, prove and restore PostgreSQL clusters."""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """The console script: run and exit.

    At once: taking the interpreter apart, object by object, would cost a restore a tenth of a second after its last
    word. Nothing of ours waits for that: what must be closed or joined is when the verb returns.
    """
    gc.set_threshold(*_COLLECT)
    code = run(sys.argv[1:] if argv is None else argv)
    with suppress(OSError):
        sys.stderr.flush()
    os._exit(code)


def run(argv: Sequence[str], group: click.Group = replicator) -> int:
    """Run one verb and return the exit code. No exception gets out but a SystemExit that a verb asked for."""
    arguments = list(argv)
    before = arguments[: arguments.index("--")] if "--" in arguments else arguments
    try:
        try:
            return _invoke(group, arguments)
        except BrokenPipeError:
            raise
        except BaseException as error:  # noqa: BLE001 the last handler: it reports everything
            code = _report(_translate(error), error, before)
            sys.stdout.flush()
            return code
    except BrokenPipeError:
        # Nobody reads any more. Python flushes standard output once more at its end: let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE


def _invoke(group: click.Group, arguments: list[str]) -> int:
    try:
        with group.make_context("replicator", list(arguments)) as context:
            value = group.invoke(context)
    except click.exceptions.Exit as exit_:
        value = exit_.exit_code
    sys.stdout.flush()
    return value if isinstance(value, int) else 0


def _translate(error: BaseException) -> ReplicatorError | None:
    """The error as one of ours; None for a bug."""
    if isinstance(error, ReplicatorError):
        return error
    if isinstance(error, KeyboardInterrupt | click.Abort | EOFError):
        return Interrupted("interrupted")
    if isinstance(error, click.ClickException):
        return _usage(error)
    if isinstance(error, SystemExit):
        raise error
    return None


def _usage(error: click.ClickException) -> UsageError:
    """A click error in our words: lower case, no full stop, the way to help as the hint."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    path = context.command_path if context is not None else "replicator"
    hint = f"Run `{path} --help` for how to call it."
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        return UsageError("no verb was given" if path == "replicator" else f"{path} needs more words", hint=hint)
    message = error.format_message().rstrip(".")
    return UsageError(f"{message[:1].lower()}{message[1:]}", hint=hint)


def _report(known: ReplicatorError | None, error: BaseException, arguments: Sequence[str]) -> int:
    """Say what failed: for people on standard error, with --json for programs on standard output."""
    facts = known.as_json() if known is not None else _unexpected(error)
    if known is None and "--verbose" in arguments:
        import traceback

        click.echo("".join(traceback.format_exception(error)), err=True, nl=False)
    if isinstance(known, PolicyError):
        facts["problems"] = list(known.problems)
    if isinstance(known, TargetUnreachable):
        facts["windows"] = list(known.windows)
    if _is_child(arguments):
        click.echo(json.dumps({"event": "error", "error": facts}, default=str))
    elif "--json" in arguments:
        click.echo(json.dumps({"error": facts}, indent=2, ensure_ascii=False, default=str))
    else:
        _say(known, facts)
    return int(facts["exit_code"])


def _is_child(arguments: Sequence[str]) -> bool:
    """Whether `--progress json` was asked for: the daemon reads JSON lines then."""
    return "--progress=json" in arguments or ("--progress", "json") in pairwise(arguments)


def _unexpected(error: BaseException) -> dict[str, Any]:
    words = " ".join(str(error).split())
    return {
        "type": type(error).__name__,
        "message": f"unexpected error: {type(error).__name__}{f': {words}' if words else ''}",
        "hint": "Run with --verbose for the traceback.",
        "exit_code": 1,
    }


def _say(known: ReplicatorError | None, facts: dict[str, Any]) -> None:
    lines = [f"error: {facts['message']}" if known is not None else str(facts["message"])]
    if isinstance(known, PolicyError) and len(known.problems) > 1:
        lines += [f"  {problem}" for problem in known.problems]
    if isinstance(known, TargetUnreachable):
        lines += [f"  reachable: {_window(window)}" for window in known.windows]
    if facts["hint"]:
        lines.append(f"hint: {facts['hint']}")
    click.echo("\n".join(lines), err=True)


def _window(window: dict[str, Any]) -> str:
    """One reachable window in words."""
    times = f" ({window.get('from_time') or '?'} to {window.get('to_time') or '?'})"
    place = f"timeline {window.get('timeline')}, {window.get('from_lsn')} to {window.get('to_lsn')}"
    return f"{place}{times if window.get('from_time') or window.get('to_time') else ''}"

"""What every verb shares: the options that follow it, its policies, and being asked to stop.

Owns `Context`, the answers to the common options. It imports no policy, store or server at load time.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from replicator.errors import Interrupted, UsageError

if TYPE_CHECKING:
    from replicator.policy import DaemonPolicy, Policy

_Verb = TypeVar("_Verb", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Context:
    """The common options as given. `progress` is "auto", "none", or "json" for the daemon's children."""

    policies: Path | None = None
    json: bool = False
    quiet: bool = False
    verbose: bool = False
    color: bool = True
    progress: str = "auto"


def common_options(*, progress: bool = False, logs: bool = True) -> Callable[[_Verb], Callable[..., Any]]:
    """A decorator for a verb: adds the common options, and passes a Context as its first argument.

    `progress` adds `--progress` for long verbs; `logs` False leaves logging to the verb.
    """

    def decorate(verb: _Verb) -> Callable[..., Any]:
        @functools.wraps(verb)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            ctx = Context(
                policies=kwargs.pop("policies_directory"),
                json=kwargs.pop("as_json"),
                quiet=kwargs.pop("quiet"),
                verbose=kwargs.pop("verbose"),
                color=not kwargs.pop("no_color") and not os.environ.get("NO_COLOR"),
                progress=kwargs.pop("progress") if progress else "auto",
            )
            if ctx.quiet and ctx.verbose:
                raise UsageError("--quiet and --verbose exclude each other")
            if logs:
                _configure_logs(ctx)
            return verb(ctx, *args, **kwargs)

        wrapped: Callable[..., Any] = wrapper
        for option in reversed(_options(progress)):
            wrapped = option(wrapped)
        return wrapped

    return decorate


def _options(progress: bool) -> Sequence[Callable[[Callable[..., Any]], Callable[..., Any]]]:
    options = [
        click.option(
            "--policies",
            "policies_directory",
            metavar="DIR",
            type=click.Path(path_type=Path),
            help="The directory of policies; else REPLICATOR_POLICIES, /etc/replicator, ./policies.",
        ),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON value on standard output."),
        click.option("--quiet", is_flag=True, help="Print results and errors only."),
        click.option("--verbose", is_flag=True, help="Print more, and the traceback of an unexpected error."),
        click.option("--no-color", is_flag=True, help="Print without colours; NO_COLOR does the same."),
    ]
    if progress:
        how = click.Choice(["auto", "json", "none"])
        options.append(click.option("--progress", type=how, default="auto", help="How progress is told."))
    return options


def _configure_logs(ctx: Context) -> None:
    """Our own log lines on standard error. Others' stay off: an HTTP library's would show credentials."""
    import logging

    if not logging.getLogger().handlers:  # else `logging` prints their warnings itself (lastResort)
        logging.getLogger().addHandler(logging.NullHandler())
    logger = logging.getLogger("replicator")
    logger.setLevel(logging.DEBUG if ctx.verbose else logging.ERROR if ctx.quiet else logging.WARNING)
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
        logger.addHandler(handler)
    logger.propagate = False


def policies_directory(ctx: Context) -> Path:
    """The directory that the verb reads policies from. Raises PolicyError."""
    from replicator.policy import find_policies_directory

    return find_policies_directory(ctx.policies)


def cluster_policy(ctx: Context, name: str) -> Policy:
    """The policy of one cluster. Raises UnknownCluster (naming the nearest) or PolicyError."""
    return cluster_and_daemon_policy(ctx, name)[1]


def cluster_and_daemon_policy(ctx: Context, name: str) -> tuple[DaemonPolicy, Policy]:
    """daemon.toml and the policy of one cluster; other clusters' broken files don't matter. Raises the same."""
    from replicator.policy import load_cluster

    return load_cluster(policies_directory(ctx), name)


def cluster_policies(ctx: Context, names: Sequence[str] = ()) -> tuple[DaemonPolicy, dict[str, Policy]]:
    """daemon.toml and the policies of the named clusters, all when none is named. Raises the same."""
    from replicator.policy import load_cluster, load_policies

    directory = policies_directory(ctx)
    if not names:
        return load_policies(directory)
    found = {name: load_cluster(directory, name) for name in names}
    return next(iter(found.values()))[0], {name: policy for name, (_, policy) in found.items()}


def note(ctx: Context, text: str) -> None:
    """A line for people on standard error, unless --quiet."""
    if not ctx.quiet:
        click.echo(text, err=True)


def confirm(question: str, *, yes: bool) -> None:
    """Ask on a terminal; elsewhere `--yes` is needed. Raises UsageError, or Interrupted when the answer is no."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("this needs a confirmation, and there is no terminal to ask on", hint="Add --yes.")
    if not click.confirm(question, err=True):
        raise Interrupted("not confirmed")


@contextmanager
def stopping() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set; a second signal raises Interrupted at once. Main thread only.

    The handlers only set flags: the verb looks at the event, cleans up and raises Interrupted itself.
    """
    stop = threading.Event()

    def handle(_number: int, _frame: object) -> None:
        if stop.is_set():
            raise Interrupted("interrupted twice")
        stop.set()

    former = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)

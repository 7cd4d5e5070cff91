"""How a long verb's progress looks: a bar on a terminal, sparse lines in a pipe, JSON lines for the daemon.

Owns the three renderings of core.progress.Progress. The bar and the lines go to standard error, the JSON lines to
standard output, where the daemon reads them.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

import click

from replicator.cli.common import Context
from replicator.cli.render import console, human_duration, human_size, jsonable
from replicator.core.progress import Progress

if TYPE_CHECKING:
    import rich.progress

#: A person reading a log wants a sign of life now and then; a program wants it soon, but not thousands a second.
LINES_EVERY_S = 10.0
JSON_EVERY_S = 0.5


class _View(Protocol):
    def show(self, progress: Progress, elapsed_s: float, /) -> None: ...

    def close(self) -> None: ...


class ProgressReporter:
    """A Report that is also a context manager: leaving it gives the terminal back. Any thread may call it."""

    def __init__(self, view: _View | None, every_s: float, clock: Callable[[], float]) -> None:
        self._view = view
        self._every_s = every_s
        self._clock = clock
        self._lock = threading.Lock()
        self._phase: tuple[str, str] | None = None
        self._began = self._shown = clock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._view is not None:
            self._view.close()

    def __call__(self, progress: Progress) -> None:
        """Show it, if its phase is new, it carries facts, it is complete, or it is time again."""
        if self._view is None:
            return
        with self._lock:
            now, phase = self._clock(), (progress.kind, progress.phase)
            if phase != self._phase:
                self._phase, self._began = phase, now
            elif not progress.facts and progress.done != progress.total and now - self._shown < self._every_s:
                return
            self._shown = now
            self._view.show(progress, now - self._began)


def progress_reporter(ctx: Context, kind: str, *, clock: Callable[[], float] = time.monotonic) -> ProgressReporter:
    """The reporter that fits the options and where standard error goes. Use it in a `with`.

    `kind` is the verb's name ("snapshot", "restore").
    """
    if ctx.progress == "json":
        return ProgressReporter(_JsonLines(), JSON_EVERY_S, clock)
    if ctx.quiet or ctx.progress == "none":
        return ProgressReporter(None, 0.0, clock)
    if sys.stderr.isatty():
        return ProgressReporter(_Bar(kind, ctx), 0.1, clock)
    return ProgressReporter(_Lines(), LINES_EVERY_S, clock)


class _JsonLines:
    def show(self, progress: Progress, _elapsed_s: float) -> None:
        facts = {"kind": progress.kind, "phase": progress.phase, "done": progress.done, "total": progress.total}
        line = {"event": "progress", **facts, "unit": progress.unit, "facts": jsonable(progress.facts)}
        click.echo(json.dumps(line))
        sys.stdout.flush()

    def close(self) -> None:
        sys.stdout.flush()


class _Lines:
    def show(self, progress: Progress, elapsed_s: float) -> None:
        click.echo(describe(progress, elapsed_s), err=True)

    def close(self) -> None:
        sys.stderr.flush()


class _Bar:
    """A bar with rate and time left, one row for the present phase."""

    def __init__(self, kind: str, ctx: Context) -> None:
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Rows

        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[said]}"))
        where = console(ctx, stderr=True)
        self._rows: rich.progress.Progress = Rows(*columns, console=where, transient=True, auto_refresh=False)
        self._task = self._rows.add_task(kind, total=None, said="")

    def show(self, progress: Progress, elapsed_s: float) -> None:
        if "warning" in progress.facts:  # stays when the bar has gone
            self._rows.console.print(describe(progress, elapsed_s), highlight=False, markup=False)
        changes: dict[str, Any] = {"completed": progress.done, "total": progress.total or None}
        words = f"{progress.kind}: {progress.phase}"
        self._rows.start()
        self._rows.update(self._task, description=words, said=amounts(progress, elapsed_s), refresh=True, **changes)

    def close(self) -> None:
        self._rows.stop()


def describe(progress: Progress, elapsed_s: float) -> str:
    """One line: what, how far, how fast, how long still."""
    said = amounts(progress, elapsed_s)
    warning = progress.facts.get("warning")
    return f"{progress.kind}: {progress.phase}{f', {said}' if said else ''}{f': {warning}' if warning else ''}"


def amounts(progress: Progress, elapsed_s: float) -> str:
    """How far, how fast, how long still; what isn't known is left out."""
    if not progress.done and not progress.total:
        return ""
    size = human_size if progress.unit == "bytes" else (lambda amount: f"{amount:.0f} {progress.unit}")
    parts = [f"{size(progress.done)} of {size(progress.total)}" if progress.total else size(progress.done)]
    if progress.total:
        parts[0] += f" ({100 * progress.done // progress.total} %)"
    if elapsed_s >= 1 and progress.done:
        rate = progress.done / elapsed_s
        parts.append(f"{size(rate)}/s")
        if progress.total > progress.done:
            parts.append(f"{human_duration((progress.total - progress.done) / rate)} left")
    return ", ".join(parts)

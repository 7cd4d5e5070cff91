"""How results look: JSON, tables on a terminal, tab-separated lines in a pipe, sizes and durations for people.

Owns no facts. Results go to standard output; progress and notes go to standard error.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from replicator.cli.common import Context
from replicator.core.lsn import Lsn
from replicator.core.moment import rfc3339

if TYPE_CHECKING:
    from rich.console import Console

_SIZES = ("B", "kB", "MB", "GB", "TB", "PB")


def jsonable(value: Any) -> Any:
    """The value as JSON knows it: an LSN as "0/16B3748", a time as RFC 3339 in UTC, a dataclass as an object."""
    if isinstance(value, Lsn | Path):
        return str(value)
    if isinstance(value, datetime):
        return rfc3339(value)
    if isinstance(value, Enum):
        return jsonable(value.value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: jsonable(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = [jsonable(item) for item in value]
        return sorted(items) if isinstance(value, set | frozenset) else items
    return value


def print_json(value: Any) -> None:
    """One JSON value on standard output."""
    click.echo(json.dumps(jsonable(value), indent=2, ensure_ascii=False))


def print_result(ctx: Context, value: Any) -> None:
    """A long verb's result for programs: the last JSON line of a child, or one JSON value with --json."""
    if ctx.progress == "json":
        click.echo(json.dumps({"event": "result", "result": jsonable(value)}))
    elif ctx.json:
        print_json(value)


def print_lines(lines: Sequence[str]) -> None:
    """Plain lines on standard output."""
    if lines:
        click.echo("\n".join(lines))


def print_table(ctx: Context, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table on standard output: drawn on a terminal, tab-separated with a header line in a pipe.

    A column whose name begins with ">" is aligned to the right.
    """
    cells = [[cell(value) for value in row] for row in rows]
    names = [column.removeprefix(">") for column in columns]
    if not sys.stdout.isatty():
        click.echo("\n".join("\t".join(row) for row in [names, *cells]))
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column, name in zip(columns, names, strict=True):
        table.add_column(name, justify="right" if column.startswith(">") else "left", overflow="fold")
    for row in cells:
        table.add_row(*(Text(text) for text in row))
    console(ctx).print(table)


def console(ctx: Context, *, stderr: bool = False) -> Console:
    """rich's console; without colours it writes no other style either."""
    from rich.console import Console

    return Console(color_system="auto" if ctx.color else None, no_color=not ctx.color, highlight=False, stderr=stderr)


def cell(value: Any) -> str:
    """One value as text without tabs and line ends; nothing is a dash."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(cell(item) for item in value) or "-"
    return " ".join(str(jsonable(value)).split())


def human_size(size: float) -> str:
    """About as many bytes as PostgreSQL would say it: "1.5 GB", powers of 1024."""
    amount, unit = float(size), 0
    while abs(amount) >= 1024 and unit < len(_SIZES) - 1:
        amount, unit = amount / 1024, unit + 1
    return f"{amount:.0f} {_SIZES[unit]}" if unit == 0 or abs(amount) >= 100 else f"{amount:.1f} {_SIZES[unit]}"


def human_duration(seconds: float) -> str:
    """About as long: "350 ms", "12.3 s", "4m 05s", "3h 20m", "2d 4h"."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m {rest:02d}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h {minutes:02d}m"
    return f"{hours // 24}d {hours % 24}h"

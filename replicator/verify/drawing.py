"""The drawing of one store's recoverable windows: a line for each along the LSNs, with snapshots, gaps and proofs.

Owns places and shapes. Pure; what came from a store is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from typing import Any

from replicator.core.lsn import Lsn
from replicator.core.moment import parse_time, rfc3339
from replicator.verify.proofs import Mark

_WIDTH, _ROW, _LEFT, _RIGHT = 900, 22, 90, 20
_WINDOW, _GAP, _SNAPSHOT = "#2da44e", "#cf222e", "#0969da"
_PROOFS = {"objects": "#8250df", "coverage": "#bf8700", "drill": "#1b7c83", "compare": "#bc4c00"}

Facts = Mapping[str, Any]


@dataclass(frozen=True)
class _Scale:
    low: int
    span: int

    def at(self, lsn: str | int) -> float:
        place = int(Lsn.parse(lsn)) if isinstance(lsn, str) else lsn
        return _LEFT + (place - self.low) * (_WIDTH - _LEFT - _RIGHT) / self.span


def drawing(windows: Sequence[Facts], gaps: Sequence[Facts], marks: Iterable[Mark]) -> str:
    """An SVG of at least one window, as `verify` tells windows and gaps; `marks` are this store's proofs."""
    places = [int(Lsn.parse(found[key])) for found in windows for key in ("from_lsn", "to_lsn")]
    places += [int(Lsn.parse(gap[key])) for gap in gaps for key in ("start_lsn", "stop_lsn")]
    scale = _Scale(min(places), max(1, max(places) - min(places)))
    shapes: list[str] = []
    for row, window in enumerate(windows):
        shapes += _row(scale, row * _ROW + 12, window, gaps)
    kinds: list[str] = []
    for mark in marks:
        found = _place(mark, windows)
        if found is not None:
            shapes.append(_diamond(scale.at(found[1]), found[0] * _ROW + 12, mark))
            kinds.append(mark.kind)
    height = len(windows) * _ROW + 8
    if kinds:
        shapes += _legend(height + 8, [kind for kind in _PROOFS if kind in kinds])
        height += _ROW
    return f"<svg viewBox='0 0 {_WIDTH} {height}' role='img'>{''.join(shapes)}</svg>"


def _row(scale: _Scale, y: int, window: Facts, gaps: Sequence[Facts]) -> Iterator[str]:
    start = scale.at(window["from_lsn"])
    yield f"<text x='0' y='{y + 4}'>timeline {window['timeline']}</text>"
    yield _bar(start, scale.at(window["to_lsn"]), y, _WINDOW)
    title = f"<title>snapshot {escape(str(window['snapshot']))}</title>"
    yield f"<circle cx='{start:.1f}' cy='{y}' r='6' fill='{_SNAPSHOT}'>{title}</circle>"
    for gap in gaps:
        if gap["timeline"] == window["timeline"]:
            yield _bar(scale.at(gap["start_lsn"]), scale.at(gap["stop_lsn"]), y, _GAP)


def _bar(start: float, end: float, y: int, colour: str) -> str:
    return f"<rect x='{start:.1f}' y='{y - 5}' width='{max(2.0, end - start):.1f}' height='10' fill='{colour}'/>"


def _diamond(x: float, y: int, mark: Mark) -> str:
    place = f" at {mark.lsn}" if mark.lsn is not None else ""
    title = f"<title>{escape(mark.kind)}{place}, proven {rfc3339(mark.moment)}</title>"
    points = f"{x:.1f},{y - 8} {x + 6:.1f},{y} {x:.1f},{y + 8} {x - 6:.1f},{y}"
    return f"<polygon points='{points}' fill='{_PROOFS.get(mark.kind, _WINDOW)}' stroke='#fff'>{title}</polygon>"


def _legend(y: int, kinds: Sequence[str]) -> Iterator[str]:
    for number, kind in enumerate(kinds):
        x = _LEFT + number * 110
        yield f"<polygon points='{x},{y - 8} {x + 6},{y} {x},{y + 8} {x - 6},{y}' fill='{_PROOFS[kind]}'/>"
        yield f"<text x='{x + 12}' y='{y + 4}'>{escape(kind)}</text>"


def _place(mark: Mark, windows: Sequence[Facts]) -> tuple[int, int] | None:
    """(row, LSN) of a proof: where a restore came to, or how far the windows had come at its moment."""
    if mark.lsn is not None:
        rows = [row for row, window in enumerate(windows) if _holds(window, mark)]
        return (rows[0], int(mark.lsn)) if rows else None
    return _at_time(mark.moment, windows)


def _holds(window: Facts, mark: Mark) -> bool:
    reached = mark.lsn is not None and Lsn.parse(window["from_lsn"]) <= mark.lsn <= Lsn.parse(window["to_lsn"])
    return reached and (mark.timeline is None or window["timeline"] == mark.timeline)


def _at_time(moment: datetime, windows: Sequence[Facts]) -> tuple[int, int] | None:
    """In the window that had begun last by then, as far along as its time; None before the first."""
    begun = [
        (parse_time(window["from_time"]), row)
        for row, window in enumerate(windows)
        if window["from_time"] and parse_time(window["from_time"]) <= moment
    ]
    if not begun:
        return None
    since, row = max(begun)
    low, high = int(Lsn.parse(windows[row]["from_lsn"])), int(Lsn.parse(windows[row]["to_lsn"]))
    until = parse_time(windows[row]["to_time"]) if windows[row]["to_time"] else since
    part = (moment - since) / (until - since) if until > since else 1.0
    return row, low + int((high - low) * min(1.0, part))

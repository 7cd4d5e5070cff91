"""The chart of `scripts/bench snapshot --json`: one bar for each ratio, a mark at its target. Misses are drawn like the
rest. Owns no figures.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot

#: A longer bar is cut here; its number stands beside it.
_LONGEST = 2.0
#: Of a peer's command the name is enough.
_OPTION = re.compile(r" --?\S+")
_WELL, _MISSED, _OPEN, _MARK = "#3b7a57", "#c0504d", "#9a9a9a", "#202020"


def plot(result: dict[str, Any], out: Path) -> Iterator[Path]:
    """Write `out`.svg and `out`.png; the paths written."""
    rows = [row for row in result["rows"] if row["ratio"] is not None]
    if not rows:
        raise SystemExit("no row has a ratio: nothing to draw")
    # The same result gives the same bytes.
    mpl.rcParams.update(
        {"svg.hashsalt": "replicator", "svg.fonttype": "none", "font.size": 8.5, "font.family": "sans-serif"}
    )
    figure, axes = pyplot.subplots(figsize=(10.5, 1.3 + 0.25 * len(rows)), layout="constrained")
    for place, row in enumerate(rows):
        _bar(axes, place, row)
    axes.axvline(1, color=_MARK, linewidth=0.8)
    axes.set_yticks(range(len(rows)), [_OPTION.sub("", row["work"]).replace("; ", " · ") for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, _LONGEST * 1.15)
    cores, cpu = result["machine"]["cores"], result["machine"]["cpu"]
    runs = "/".join(str(run) for run in sorted({row["runs"] for row in rows}))
    peer = result.get("settings", {}).get("peer", "").partition(":")[0]
    scale = result.get("settings", {}).get("scale", 1)
    where = f"{cores} cores ({cpu}), {runs} pairs of runs, loads at scale {scale:g}, {peer}"
    read = "ours divided by the peer's, medians: shorter is better; the dark mark is the target"
    figure.suptitle(f"{read}\n{where}", x=0.01, ha="left", fontsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for suffix in (".svg", ".png"):
        path = out.with_name(out.name + suffix)
        figure.savefig(path, dpi=130, metadata={"Date": None} if suffix == ".svg" else {"Software": None})
        yield path
    pyplot.close(figure)


def _bar(axes: Any, place: int, row: dict[str, Any]) -> None:
    color = {True: _WELL, False: _MISSED, None: _OPEN}[row["ok"]]
    shown = min(row["ratio"], _LONGEST)
    axes.barh(place, shown, height=0.62, color=color)
    axes.text(_LONGEST * 1.04, place, f"{row['ratio']:.2f}", va="center", color=color, weight="bold")
    if row["target"] is not None:
        axes.vlines(min(row["target"], _LONGEST), place - 0.42, place + 0.42, color=_MARK, linewidth=2.2)

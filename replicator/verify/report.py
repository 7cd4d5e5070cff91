"""A verification as one self-contained HTML page: findings first, then the windows drawn with snapshots, gaps and
proofs, then levels and proofs. No script, nothing loaded from elsewhere.

Owns the page. Everything that came from a store is escaped.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

from replicator.core.finding import Finding
from replicator.core.moment import rfc3339
from replicator.errors import HostLacks
from replicator.verify.drawing import drawing
from replicator.verify.model import LevelResult, VerifyResult
from replicator.verify.proofs import Mark

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:960px;margin:2em auto;padding:0 1em;color:#1b1f24;background:#fff}
h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em}table{border-collapse:collapse;width:100%}
td,th{text-align:left;padding:.25em .6em .25em 0;border-bottom:1px solid #d8dee4;vertical-align:top}
.well{color:#116329}.wrong{color:#a40e26}.hint{color:#57606a}code{font-size:.9em;overflow-wrap:anywhere}
svg{width:100%;height:auto}svg text{font:12px system-ui,sans-serif;fill:#57606a}
@media(prefers-color-scheme:dark){body{background:#0d1117;color:#e6edf3}td,th{border-color:#30363d}
.well{color:#3fb950}.wrong{color:#ff7b72}.hint,svg text{color:#8d96a0;fill:#8d96a0}}
"""


def write_report(
    path: Path,
    cluster: str,
    result: VerifyResult,
    proofs: Mapping[str, datetime | None],
    now: datetime,
    marks: Sequence[Mark] = (),
) -> None:
    """Write the page; the file is replaced whole. `marks` are the proofs to draw. Raises HostLacks."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        temporary.write_text(page(cluster, result, proofs, now, marks), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        reason = (error.strerror or "unknown reason").lower()
        raise HostLacks(f"{path} can not be written: {reason}", hint="Check the path given to --report.") from error


def page(
    cluster: str,
    result: VerifyResult,
    proofs: Mapping[str, datetime | None],
    now: datetime,
    marks: Sequence[Mark] = (),
) -> str:
    """The page's text. Pure."""
    state = '<span class="well">all is well</span>' if result.ok else '<span class="wrong">not well</span>'
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width'>",
        f"<title>Verification of {escape(cluster)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>Verification of {escape(cluster)}: {state}</h1><p>{rfc3339(now)}</p>",
        *_findings(result),
        *_windows(result.levels.get("coverage"), marks),
        *_levels(result),
        *_proofs(proofs, now),
        *(f"<p>Record <code>{escape(record)}</code></p>" for record in result.record_ids),
        "</body></html>\n",
    ]
    return "\n".join(parts)


def _findings(result: VerifyResult) -> Iterator[str]:
    found = [(name, finding) for name, level in result.levels.items() for finding in level.findings]
    wrong = [item for item in found if item[1].affects is not None]
    remarks = [item for item in found if item[1].affects is None]
    yield "<h2>Findings</h2>"
    if not wrong:
        yield "<p class='well'>Nothing is wrong.</p>"
    for title, rows in (("Wrong", wrong), ("Remarks", remarks)):
        if rows:
            yield f"<table><tr><th>{title}</th><th>affects</th></tr>"
            yield from (_finding(name, finding) for name, finding in rows)
            yield "</table>"


def _finding(level: str, finding: Finding) -> str:
    hint = f"<br><span class='hint'>{escape(finding.hint)}</span>" if finding.hint else ""
    affects = f"<span class='wrong'>{escape(finding.affects)}</span>" if finding.affects is not None else ""
    said = f"{escape(level)}: {escape(finding.text)} <code>{escape(finding.code)}</code>{hint}"
    return f"<tr><td>{said}</td><td>{affects}</td></tr>"


def _windows(level: LevelResult | None, marks: Sequence[Mark]) -> Iterator[str]:
    """For each store a drawing, and the same as a table."""
    stores: Mapping[str, Any] = level.facts.get("stores", {}) if level is not None else {}
    for name, facts in stores.items():
        yield f"<h2>Recoverable windows of store {escape(name)}</h2>"
        windows, gaps = facts["windows"], facts["gaps"]
        if not windows:
            yield "<p class='wrong'>There is none.</p>"
            continue
        yield drawing(windows, gaps, [mark for mark in marks if mark.store == name])
        yield "<table><tr><th>timeline</th><th>from</th><th>to</th><th>snapshot</th></tr>"
        for window in windows:
            until = "" if window.get("exact") else "at most "
            cells = (
                str(window["timeline"]),
                f"{window['from_lsn']}<br>{window['from_time'] or ''}",
                f"{window['to_lsn']}<br>{until}{window['to_time'] or ''}",
                window["snapshot"],
            )
            yield f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
        for gap in gaps:
            state = "open" if gap["open"] else "closed"
            places = f"<td>{gap['timeline']}</td><td>{gap['start_lsn']}</td><td>{gap['stop_lsn']}</td>"
            yield f"<tr>{places}<td>{state} gap</td></tr>"
        yield "</table>"


def _levels(result: VerifyResult) -> Iterator[str]:
    yield "<h2>Levels</h2><table><tr><th>level</th><th>result</th><th>checked</th><th>seconds</th></tr>"
    for name, level in result.levels.items():
        state = "<td class='well'>well</td>" if level.ok else "<td class='wrong'>not well</td>"
        yield f"<tr><td>{escape(name)}</td>{state}<td>{level.checked}</td><td>{level.elapsed_s:.1f}</td></tr>"
    yield "</table>"


def _proofs(proofs: Mapping[str, datetime | None], now: datetime) -> Iterator[str]:
    yield "<h2>Last proofs</h2><table>"
    for kind, moment in proofs.items():
        told = f"{rfc3339(moment)} ({(now - moment).total_seconds() / 86400:.1f} days ago)" if moment else "never"
        yield f"<tr><td>{escape(kind)}</td><td>{told}</td></tr>"
    yield "</table>"

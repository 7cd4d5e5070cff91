"""The policy's own questions to a restored server, and whether the answers pass. Pure but for the asking."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from replicator.core.finding import Finding
from replicator.core.moment import rfc3339
from replicator.errors import ReplicatorError
from replicator.policy import ProbePolicy
from replicator.policy.units import format_duration
from replicator.postgres.query import SqlConnection

PROBE_FAILED = "probe_failed"
#: A question's patience in seconds.
LIMIT_S = 600.0
#: Classes of SQLSTATE whose messages quote values: data, constraints, and what functions raise.
_OF_VALUES = ("22", "23", "P0")


def ask(
    probes: tuple[ProbePolicy, ...], connect: Callable[[str], SqlConnection], moment: datetime, affects: str
) -> tuple[Finding, ...]:
    """Ask all of them. `moment`: the one that was restored to, or now for the latest."""
    findings = []
    for probe in probes:
        try:
            with connect(probe.database) as session:
                rows = session.execute(probe.sql)
        except ReplicatorError as error:
            text = f"the probe in database {probe.database} can't be asked: {_why(error)}"
            findings.append(Finding(PROBE_FAILED, text, _hint(probe), affects))
            continue
        wrong = judge(probe, rows, moment)
        if wrong is not None:
            text = f"the probe in database {probe.database} does not pass: {wrong}"
            findings.append(Finding(PROBE_FAILED, text, _hint(probe), affects))
    return tuple(findings)


def judge(probe: ProbePolicy, rows: list[tuple[Any, ...]], moment: datetime) -> str | None:
    """Why an answer does not pass; None when it does."""
    if not rows or not rows[0]:
        return "it has no row"
    value = rows[0][0]
    if probe.newer_than is not None:
        if not isinstance(value, datetime) or value.tzinfo is None:
            return f"{_shown(value)} is not a time with its zone"
        if value < moment - timedelta(seconds=probe.newer_than):
            return f"{rfc3339(value)} is more than {format_duration(probe.newer_than)} before {rfc3339(moment)}"
        return None
    if probe.equals is not None:
        same = str(value) == probe.equals if isinstance(probe.equals, str) else _number(value) == probe.equals
        return None if same else f"{_shown(value)} is not what the policy says"
    number = _number(value)
    if number is None:
        return f"{_shown(value)} is not a number"
    return None if number >= (probe.at_least or 0) else f"{number} is less than {probe.at_least}"


def _number(value: Any) -> int | float | Decimal | None:
    return value if isinstance(value, int | float | Decimal) and not isinstance(value, bool) else None


def _shown(value: Any) -> str:
    """Numbers and times alone: a record is readable by who can read a store."""
    if isinstance(value, datetime):
        return value.isoformat()
    return "nothing" if value is None else str(value) if _number(value) is not None else "the answer"


def _why(error: ReplicatorError) -> str:
    """Without the server's words where they may hold a value."""
    state = str(error.context.get("sqlstate") or "")
    return f"the server answers with SQLSTATE {state}" if state.startswith(_OF_VALUES) else error.message


def _hint(probe: ProbePolicy) -> str:
    return f"Ask the source the same: {' '.join(probe.sql.split())[:200]}."

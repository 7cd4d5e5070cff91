"""One verification from its levels to its records. Owns their order, the lock, and what a failure means.

Overlap on one host is refused; overlap between hosts is harmless.
"""

from __future__ import annotations

import socket
from collections.abc import Collection
from typing import Any

from replicator import __version__
from replicator.core.codes import code_of
from replicator.core.finding import Finding
from replicator.core.moment import rfc3339
from replicator.core.progress import Report
from replicator.errors import Interrupted, KeysError, ReplicatorError
from replicator.repository.records import KINDS, MOST_FINDINGS, sign_record
from replicator.seal.document import MOST_BYTES
from replicator.tolerance import Deadline, only_one
from replicator.verify.history import current_system, keep_record, last_record, not_kept
from replicator.verify.levels import LEVELS, chosen_levels
from replicator.verify.model import NOT_RUN, Level, LevelResult, VerifyJob, VerifyResult
from replicator.verify.overdue import told_when_overdue

#: Findings of a record that would be too long.
_FEW = 50
#: Without a limit of its own a verification ends by this: a wait without end is a bug.
FOREVER_S = 30 * 86400.0


def verify(
    job: VerifyJob,
    asked: Collection[str],
    report: Report,
    *,
    limit_s: float | None = None,
    levels: tuple[Level, ...] = LEVELS,
) -> VerifyResult:
    """Run the levels that were asked for, all when none was, and keep a record of each that ran.

    Raises Conflict while another verification of this cluster runs on this host, Interrupted.
    """
    deadline = Deadline(job.clock, FOREVER_S if limit_s is None else limit_s)
    results: dict[str, LevelResult] = {}
    failures: dict[str, ReplicatorError] = {}
    records: list[str] = []
    with only_one(job.state_directory / "verify.lock", f"verification of {job.cluster} runs"):
        for level in chosen_levels(asked, levels):
            began = job.clock.now()
            try:
                result = level.run(job, report, deadline)
            except Interrupted:
                raise
            except ReplicatorError as error:
                failures[level.name] = error
                result = _not_run(level.name, error)
            else:
                result, record = _record(job, result, rfc3339(began))
                records += [record] if record else []
                result = told_when_overdue(job, result)
            results[level.name] = result
    ordered = {name: results[name] for name in sorted(results, key=KINDS.index)}
    return VerifyResult(ordered, failures, alone=len(asked) == 1, record_ids=tuple(records))


def _not_run(level: str, error: ReplicatorError) -> LevelResult:
    """The result of a level that could not run: one finding, whose code is the error's."""
    text = f"the level {level} could not run: {error.message}"
    code = code_of(error.type) if error.type != "ReplicatorError" else NOT_RUN
    finding = Finding(code, text, error.hint, f"the proof by {level}", store=error.context.get("store"))
    return LevelResult(level, ok=False, checked=0, elapsed_s=0.0, findings=(finding,))


def _record(job: VerifyJob, result: LevelResult, began: str) -> tuple[LevelResult, str | None]:
    """The result with remarks about its record, and the record's id; None where none could be made."""
    repository = job.repository
    system_id = current_system(repository)
    if system_id is None:
        return result, None
    previous = last_record(repository, repository.stores, result.level)
    facts = _facts(job, result, began, previous.name.id if previous is not None else None)
    try:
        name, data = sign_record(repository.keyring, system_id, result.level, facts, job.clock.now())
        if len(data) > MOST_BYTES:  # nobody would read it; what was found is worth more than what else is known
            brief = {**facts, "facts": {}, "findings": facts["findings"][:_FEW]}
            name, data = sign_record(repository.keyring, system_id, result.level, brief, job.clock.now())
    except KeysError as error:
        text = f"no record was kept: {error.message}"
        return _remarked(result, (Finding("not_recorded", text, error.hint),)), None
    failed = keep_record(repository, name, data)
    remarks = tuple(not_kept(store, error) for store, error in failed.items())
    return _remarked(result, remarks), name.id if len(failed) < len(repository.stores) else None


def _facts(job: VerifyJob, result: LevelResult, began: str, previous: str | None) -> dict[str, Any]:
    return {
        "previous": previous,
        "host": socket.gethostname(),
        "version": __version__,
        "began": began,
        "elapsed_s": round(result.elapsed_s, 3),
        "checked": result.checked,
        "ok": result.ok,
        "stores": sorted(job.chosen),
        "proven": {store: rfc3339(moment) for store, moment in sorted(result.proven.items())},
        "findings": [finding.as_json() for finding in result.findings[:MOST_FINDINGS]],
        "findings_total": len(result.findings),
        "facts": dict(result.facts),
    }


def _remarked(result: LevelResult, remarks: tuple[Finding, ...]) -> LevelResult:
    if not remarks:
        return result
    return LevelResult(
        result.level, result.ok, result.checked, result.elapsed_s, (*result.findings, *remarks), result.proven,
        result.facts,
    )  # fmt: skip

"""What `check` calls its findings, and the exit code of many. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from replicator.core.codes import code_of, exit_code_of
from replicator.core.finding import Finding
from replicator.errors import ReplicatorError

STREAM, SNAPSHOTS, RESTORES, STORES = "stream", "snapshots", "restores", "stores"
PROOFS, REPLICAS = "proofs", "replicas"

#: Codes of our own → exit code. What is not wrong, only worth knowing, has `affects` None and no exit code.
CODES = {
    "wal_level": 5,
    "max_wal_senders": 5,
    "max_replication_slots": 5,
    "full_page_writes": 5,
    "remote_apply": 5,
    "no_replication_privilege": 5,
    "slot_missing": 5,
    "slot_lost": 4,
    "slot_endangered": 5,
    "repository_absent": 6,
    "no_writer_key": 7,
    "unknown_writer": 7,
    "not_writable": 9,
    "little_room": 9,
    "clock_skew": 9,
    "read_after_write": 6,
    "ranges": 6,
    "list_after_write": 6,
    "list_order": 6,
    "multipart": 6,
    "object_lock": 6,
    "no_fsync": 6,
}


def finding_of(error: ReplicatorError, affects: str, *, store: str | None = None) -> Finding:
    """An error as a finding."""
    return Finding(code_of(error.type), error.message, error.hint, affects=affects, store=store)


@dataclass(frozen=True, slots=True)
class Report:
    """All findings."""

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether there is nothing but remarks."""
        return all(finding.affects is None for finding in self.findings)

    @property
    def exit_code(self) -> int:
        """The first of 8, 4, 7, 5, 6, 9 that applies; 0 when all is well."""
        return exit_code_of((finding.code for finding in _wrong(self.findings)), CODES)

    def as_json(self) -> dict[str, Any]:
        """`check --json`."""
        return {"ok": self.ok, "findings": [finding.as_json() for finding in self.findings]}


def _wrong(findings: Iterable[Finding]) -> Iterable[Finding]:
    return (finding for finding in findings if finding.affects is not None)

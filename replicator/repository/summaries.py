"""Summaries: what the tables of many manifests say, in one object (docs/format.md, section 10).

Owns their bodies. A manifest never changes, so what a summary says of one stays true; whether it is there, only a
listing tells. Which packs it needs is left to its own table: they may be a hundred thousand. It reads and puts nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from replicator.core.lsn import Lsn
from replicator.core.snapshot import Snapshot
from replicator.errors import IntegrityError, UsageError
from replicator.repository.layout import SummaryName, summary_name
from replicator.repository.manifests import ManifestSummary
from replicator.seal.digest import fingerprint
from replicator.seal.document import canonical, open_document, sign_as_writer
from replicator.seal.keyring import Keyring

#: Bytes of a body beyond which the next snapshot begins another summary.
_FULL = 700 * 1024


def sign_summaries(
    keyring: Keyring, system_id: int, found: Iterable[ManifestSummary]
) -> Iterator[tuple[SummaryName, bytes]]:
    """(name, content) of as many summaries as `found` (ascending by label) need. The same snapshots make the same
    bytes. Raises KeysError without a writer key.
    """
    rows: list[dict[str, Any]] = []
    size = 0
    for summary in found:
        row = _row(summary)
        length = len(canonical(row)) + 1
        if rows and size + length > _FULL:
            yield _sign(keyring, system_id, rows)
            rows, size = [], 0
        rows.append(row)
        size += length
    if rows:
        yield _sign(keyring, system_id, rows)


def _sign(keyring: Keyring, system_id: int, rows: list[dict[str, Any]]) -> tuple[SummaryName, bytes]:
    body = {"snapshots": rows}
    mark = fingerprint(keyring.repository_id, canonical(body))
    name = SummaryName(system_id, rows[0]["label"], rows[-1]["label"], mark)
    return name, sign_as_writer(keyring, "summary", summary_name(name), body)


def parse_summaries(keyring: Keyring, name: SummaryName, data: bytes) -> tuple[ManifestSummary, ...]:
    """The summaries from an object's bytes, ascending by label, all without packs. Raises IntegrityError."""
    text = summary_name(name)
    body = open_document(keyring, "summary", text, data)
    if fingerprint(keyring.repository_id, canonical(body)) != name.fingerprint:
        raise IntegrityError(f"{text}: its fingerprint is another's", object=text)
    try:
        found = tuple(_summaries(name.system_id, body["snapshots"]))
    except (KeyError, TypeError, ValueError, UsageError) as error:
        raise IntegrityError(f"{text}: a summary that makes no sense", object=text) from error
    labels = [one.snapshot.label for one in found]
    if not found or labels != sorted(set(labels)) or (labels[0], labels[-1]) != (name.first, name.last):
        raise IntegrityError(f"{text}: a summary that makes no sense", object=text)
    return found


def _row(summary: ManifestSummary) -> dict[str, Any]:
    snapshot = summary.snapshot
    return {
        "label": snapshot.label,
        "timeline": snapshot.timeline,
        "start_lsn": str(snapshot.start),
        "stop_lsn": str(snapshot.stop),
        "parent": summary.parent,
        "begun": summary.start_us,
        "stopped": summary.stop_us,
        "bytes": summary.bytes,
        "added_bytes": summary.added_bytes,
        "files": summary.files,
        "damaged": summary.damaged,
    }


def _summaries(system_id: int, rows: Any) -> Iterator[ManifestSummary]:
    for row in rows:
        start, stop = Lsn.parse(row["start_lsn"]), Lsn.parse(row["stop_lsn"])
        yield ManifestSummary(
            snapshot=Snapshot(row["label"], system_id, row["timeline"], start, stop),
            parent=row["parent"],
            start_us=int(row["begun"]),
            stop_us=int(row["stopped"]),
            bytes=int(row["bytes"]),
            added_bytes=int(row["added_bytes"]),
            files=int(row["files"]),
            damaged=bool(row["damaged"]),
            packs=(),
        )

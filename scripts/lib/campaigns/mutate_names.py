"""What the names of objects say, and where the parts of an object lie: what the mutation campaign draws from. Pure."""

from __future__ import annotations

import random
from collections.abc import Mapping

from replicator.repository.layout import (
    ROOT,
    BeginName,
    HistoryName,
    ManifestName,
    NoteName,
    PackName,
    PieceName,
    RangeName,
    RecordName,
    SummaryName,
    WalName,
    parse_key_name,
    parse_name,
    parse_recipient_name,
    parse_writer_name,
)
from replicator.seal.header import HEADER_SIZE
from replicator.seal.table import SIGNATURE_SIZE, TRAILER_SIZE, parse_trailer

SEALED = ("wal", "piece", "pack", "manifest")
KINDS = (*SEALED, "root", "key", "recipient", "writer", "history", "begin", "note", "record")
_PLACES: Mapping[type, str] = {
    WalName: "wal", PieceName: "piece", PackName: "pack", ManifestName: "manifest", HistoryName: "history",
    BeginName: "begin", NoteName: "note", RecordName: "record", RangeName: "range", SummaryName: "summary",
}  # fmt: skip


def kind_of(name: str) -> str:
    """What an object's name says it is."""
    if parse_key_name(name) is not None:
        return "key"
    if parse_recipient_name(name) is not None:
        return "recipient"
    if parse_writer_name(name) is not None:
        return "writer"
    if name == ROOT:
        return "root"
    place = parse_name(name)
    return "unknown" if place is None else _PLACES[type(place)]


def other_name(chance: random.Random, name: str) -> str:
    """Another name of the same kind and system id: one digit differs."""
    first = name.index("/") + 1  # behind the system id
    while True:
        at = chance.choice([at for at in range(first, len(name)) if name[at] in "0123456789"])
        found = name[:at] + chance.choice("0123456789") + name[at + 1 :]
        if found != name and kind_of(found) == kind_of(name):
            return found


def parts_of(name: str, data: bytes) -> dict[str, tuple[int, int]]:
    """Where the parts of an object lie: [low, high) each."""
    if kind_of(name) not in SEALED:
        line = data.index(b"\n")
        signer = data.index(b" ", line) + 1
        signature = data.index(b" ", signer) + 1
        return {
            "body": (0, line), "line end": (line, line + 1), "signer": (signer, signature),
            "signature": (signature, len(data) - 1), "last character": (len(data) - 2, len(data)),
        }  # fmt: skip
    table_size, head_size = parse_trailer(data[-TRAILER_SIZE:], name)
    table = len(data) - TRAILER_SIZE - SIGNATURE_SIZE - table_size
    return {
        "header": (0, HEADER_SIZE), "sealed key": (HEADER_SIZE, head_size), "frames": (head_size, table),
        "table": (table, table + table_size), "signature": (table + table_size, len(data) - TRAILER_SIZE),
        "trailer": (len(data) - TRAILER_SIZE, len(data)),
    }  # fmt: skip

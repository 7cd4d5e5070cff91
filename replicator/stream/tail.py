"""Is what the source sends what the stores already hold? Asked once, where the stream goes on after a lost spool.

Owns that comparison, by the fingerprints in the names of signed pieces: no key is needed, and nothing is fetched. Where
the spool is there it compares byte for byte itself.
"""

from __future__ import annotations

from replicator.errors import WalConflict
from replicator.repository.wal import WalPart, fingerprint_part
from replicator.spool import Spool
from replicator.stream.assembler import Write
from replicator.stream.board import Board


def check_tail(board: Board, spool: Spool, write: Write) -> None:
    """Compare the segment so far, in the spool and in `write` (not yet there), with the stores' pieces of it.

    Raises WalConflict: this source wrote something else, though it is of the same system identifier and timeline.
    """
    segment, fresh = write.segment, b"".join(write.views)

    def read(offset: int, length: int) -> bytes:
        start = segment.start + offset
        spooled = max(0, min(length, write.start - start))
        data = spool.read(segment, offset, spooled) if spooled else b""
        begin = start + spooled - write.start
        return data + fresh[begin : begin + length - spooled]

    for _, holdings in board.ready():
        for piece in list(holdings.pieces.get(segment.name, {}).values()):
            part = WalPart(spool.system_id, segment, piece.start, piece.end, 0, 0, complete=False)
            if piece.end > write.end or fingerprint_part(board.repository.keyring, part, read) == piece.fingerprint:
                continue
            raise WalConflict(
                f"the source sends other bytes from {piece.start} to {piece.end} of timeline {segment.timeline} than "
                "the stores hold",
                hint="Two servers wrote this timeline. Stream from the one whose WAL is here.",
                lsn=str(piece.start), timeline=segment.timeline, segment=segment.name,
            )  # fmt: skip

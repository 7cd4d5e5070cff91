"""The checksums of relation pages (PostgreSQL source, storage/checksum_impl.h), many pages at once. Pure.

PostgreSQL's own function runs 32 FNV-1a sums side by side through a page. Here each of the 64 rows of 32 words is one
numpy operation over all pages of a buffer, which releases the interpreter lock. Little-endian, as every platform that
PostgreSQL is packaged for.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint32]

_SUMS = 32
_PRIME = np.uint32(16777619)
_ROW_BYTES = _SUMS * 4
#: As PostgreSQL begins its sums.
_BEGIN: Words = np.array(
    [
        0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C,
        0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB,
        0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4,
        0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E, 0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756,
    ],
    dtype=np.uint32,
)  # fmt: skip


def suspects(data: bytes | memoryview, blocks: Sequence[tuple[int, int]], page: int, before: int) -> list[int]:
    """Which pages of `data` (whole pages of `page` bytes), counted from 0, have a wrong checksum.

    `blocks`: runs of (number of the first page within its relation, how many), in order. A page that is new (its upper
    end is zero) has no checksum; one whose LSN is not below `before` is written again by the WAL and counts as right.
    """
    words = np.frombuffer(data, dtype="<u4").reshape(-1, page // _ROW_BYTES, _SUMS)
    head = words[:, 0, :4]
    upper = head[:, 3] >> np.uint32(16)
    lsn = (head[:, 0].astype(np.uint64) << np.uint64(32)) | head[:, 1]
    told = head[:, 2] & np.uint32(0xFFFF)
    numbers = _numbers(np.array(blocks, dtype=np.uint32))
    wrong = (told != _checksums(words, numbers)) & (upper != 0) & (lsn < np.uint64(before))
    found: list[int] = np.flatnonzero(wrong).tolist()
    return found


def _numbers(runs: Words) -> Words:
    """The numbers of all pages, from rows of (first, how many)."""
    firsts, counts = runs[:, 0], runs[:, 1]
    before = np.cumsum(counts, dtype=np.uint32) - counts
    return np.repeat(firsts - before, counts) + np.arange(counts.sum(), dtype=np.uint32)  # modulo 2**32


def _checksums(words: Words, numbers: Words) -> Words:
    """The checksum of each page; its own place in the page counts as zero."""
    sums = np.tile(_BEGIN, (len(words), 1))
    mixed = np.empty_like(sums)
    for row in range(words.shape[1]):
        np.bitwise_xor(sums, words[:, row, :], out=mixed)
        if row == 0:
            mixed[:, 2] = sums[:, 2] ^ (words[:, 0, 2] & np.uint32(0xFFFF0000))
        np.right_shift(mixed, 17, out=sums)
        np.multiply(mixed, _PRIME, out=mixed)
        np.bitwise_xor(sums, mixed, out=sums)
    for _ in range(2):  # two rounds of zeros
        np.right_shift(sums, 17, out=mixed)
        np.multiply(sums, _PRIME, out=sums)
        np.bitwise_xor(sums, mixed, out=sums)
    mixed_down: Words = np.bitwise_xor.reduce(sums, axis=1) ^ numbers
    return mixed_down % np.uint32(65535) + np.uint32(1)

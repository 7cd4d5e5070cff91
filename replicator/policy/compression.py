"""The key `compression`: "zstd:3", "zstd" or "none"."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from replicator.errors import UsageError
from replicator.policy.written import Written, text

_ZSTD = re.compile(r"zstd(?::([0-9]{1,2}))?\Z")


@dataclass(frozen=True, slots=True)
class Compression:
    """The algorithm, and zstd's level from 1 to 22 (0 with none)."""

    algorithm: Literal["zstd", "none"]
    level: int

    def __str__(self) -> str:
        return "none" if self.algorithm == "none" else f"zstd:{self.level}"


def parse_compression(value: Any) -> Compression:
    """Read the key. Raises UsageError."""
    if text(value) == "none":
        return Compression("none", 0)
    match = _ZSTD.match(value)
    level = int(match[1] or 3) if match else 0
    if not 1 <= level <= 22:
        raise UsageError(
            f"{value!r} is not a compression", hint='Write "zstd:LEVEL" with a level of 1 to 22, or "none".'
        )
    return Compression("zstd", level)


COMPRESSION = Written(parse_compression, {"type": "string", "format": "zstd:LEVEL or none"}, (Compression,))

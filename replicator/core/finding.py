"""A finding: one thing that a check or a long verb saw and the operator must know. Pure; judges nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Finding:
    """Members as in `verify --json`. `code` is a stable word, `hint` a full sentence or empty; `affects` names what
    does not work, and None makes it a remark.
    """

    code: str
    text: str
    hint: str = ""
    affects: str | None = None
    object: str | None = field(default=None, kw_only=True)
    store: str | None = field(default=None, kw_only=True)

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)

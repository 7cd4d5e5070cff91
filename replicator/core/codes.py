"""Codes of problems and findings: stable words, and the exit code that a set of them means. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from replicator.errors import ReplicatorError

#: `status` and `check` exit with the first of these that any problem means.
EXIT_ORDER = (8, 4, 7, 5, 6, 9)


def code_of(error_type: str) -> str:
    """The code of an error class: `StoreDenied` is `store_denied`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", error_type).lower()


def _error_codes(kind: type[ReplicatorError]) -> dict[str, int]:
    found = {code_of(kind.__name__): kind.exit_code}
    for sub in kind.__subclasses__():
        found |= _error_codes(sub)
    return found


def exit_code_of(codes: Iterable[str], own: Mapping[str, int] = MappingProxyType({})) -> int:
    """The exit code that problems of these codes mean, `own` naming those that are no error's; 0 for none."""
    known = {**_error_codes(ReplicatorError), **own}
    meant = [known.get(code, 1) for code in codes]
    return next((code for code in EXIT_ORDER if code in meant), max(meant, default=0))

"""Names of objects: what may become a path or a key. Checked on every write and read, and on every listing. Pure."""

from __future__ import annotations

import logging
import re

from replicator.errors import UsageError

_log = logging.getLogger(__name__)

#: A part begins with no dot: that excludes "." and "..", and leaves hidden names to temporary files.
_PART = r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}"
_NAME = re.compile(rf"{_PART}(?:/{_PART})*\Z")
_PREFIX = re.compile(rf"(?:{_PART}/)*(?:{_PART})?\Z")
_LONGEST = 1000


def valid_name(name: str) -> bool:
    """Whether `name` is relative, slash-separated parts of letters, digits, dot, underscore and hyphen."""
    return len(name) <= _LONGEST and _NAME.match(name) is not None


def validate_name(name: str) -> str:
    """The name itself. Raises UsageError when it could leave the store or be read in two ways."""
    if not valid_name(name):
        raise UsageError(f"{name[:100]!a} is not an object's name")
    return name


def validate_prefix(prefix: str) -> str:
    """The prefix itself: the beginning of a name, or empty. Raises UsageError."""
    if len(prefix) > _LONGEST or _PREFIX.match(prefix) is None:
        raise UsageError(f"{prefix[:100]!a} is not the beginning of an object's name")
    return prefix


class OddNames:
    """Notes names that a listing holds and that are none of ours. One warning per store, never a path."""

    def __init__(self, store: str) -> None:
        self._store = store
        self.seen = 0

    def skip(self, name: str) -> bool:
        """Whether to leave `name` out; says so once."""
        if valid_name(name):
            return False
        if not self.seen:
            _log.warning("store %s holds names that are not ours and leaves them out: %a", self._store, name[:100])
        self.seen += 1
        return True

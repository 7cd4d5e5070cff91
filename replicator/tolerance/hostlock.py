"""One piece of work at a time on a host: a lock on a file, which the system lets go of when its process ends.

Owns what a lock that is taken means. Never waits, never removes the file, and knows nothing of other hosts.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from replicator.errors import Conflict, HostLacks


@contextmanager
def only_one(path: Path, what: str, *, hint: str = "Wait until it has ended.") -> Iterator[None]:
    """Be the only one on this host that holds the lock `path`, whose directory exists. `what` says who and does
    what, as in "another daemon runs frk on this host". Raises Conflict, with `hint`, while another works; HostLacks.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise HostLacks(
            f"{path} can not be opened: {(error.strerror or 'unknown reason').lower()}",
            hint="Run everything of replicator on this host as one user, who owns that directory and all in it.",
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict(f"another {what} on this host", hint=hint) from error
        except OSError as error:
            raise HostLacks(f"{path} can not be locked: {(error.strerror or 'unknown reason').lower()}") from error
        yield
    finally:
        os.close(descriptor)

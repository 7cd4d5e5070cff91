"""The daemon, built to end as a crash would: `python -m tests.doomed POLICIES STEP COUNT` kills itself with SIGKILL
when the named step is reached for the COUNTth time. Nothing in the product knows of it: the step callable enters by
compose.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from threading import Lock

from replicator.api.app import App
from replicator.api.server import ApiServer
from replicator.cli.daemon import snapshot_command
from replicator.compose import compose
from replicator.daemon.daemon import Daemon
from replicator.daemon.log import configure
from replicator.policy import load_policies
from replicator.tolerance import SystemClock

#: The steps of the stream, each with a "before" and an "after".
STEPS = ("receive", "write", "fsync", "acknowledge", "seal", "put", "remove")


class Doom:
    """A step callable that kills this process."""

    def __init__(self, step: str, count: int) -> None:
        self._step, self._left, self._lock = step, count, Lock()

    def __call__(self, step: str) -> None:
        """Reached a step."""
        with self._lock:
            self._left -= step == self._step
            if self._left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)


def main() -> int:
    """As the verb does, with a step callable."""
    directory, step, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    settings, policies = load_policies(directory)
    configure(settings.log)
    clock, doom = SystemClock(), Doom(step, count)
    composed = [compose(policy, settings, clock=clock, steps=doom) for policy in policies.values()]
    daemon = Daemon(composed, lambda cluster: snapshot_command(cluster, directory), clock)
    daemon.lock()
    server = ApiServer(App(daemon, None), settings.api.host, settings.api.port)
    daemon.add_service("api", server.run)
    try:
        return daemon.run()
    finally:
        server.close()


if __name__ == "__main__":
    sys.exit(main())

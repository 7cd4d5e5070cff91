"""What a log must say of a stream: every change of state, and every problem when it begins and when it ends.

Owns the comparison of two moments. Numbers inside a sentence may change without being told again.
"""

from __future__ import annotations

import re

from replicator.daemon import events
from replicator.daemon.log import Logger
from replicator.status.gather import STREAMING
from replicator.stream import StreamStatistics

_NUMBER = re.compile(r"[0-9A-F]*\d[0-9A-F]*")
#: States of a beginning: nothing is known yet, nothing is wrong.
_EARLY = ("starting", "connecting")


class Narrator:
    """One per cluster; `tell` it the statistics again and again."""

    def __init__(self, log: Logger) -> None:
        self._log = log
        self._state = _EARLY[0]
        self._stores: dict[str, str] = {}
        self._problems: dict[str, str] = {}

    def tell(self, now: StreamStatistics) -> None:
        """Log what differs from the last time."""
        if now.state != self._state and now.state not in _EARLY:
            say = self._log.info if now.state == STREAMING else self._log.warning
            say(events.STREAM_STATE, state=now.state, host=now.host, timeline=now.timeline)
            self._state = now.state
        for name, store in now.stores.items():
            if store.state != self._stores.get(name, _EARLY[0]):
                say = self._log.info if store.state == "ok" else self._log.warning
                say(events.STORE_STATE, store=name, state=store.state)
                self._stores[name] = store.state
        self._tell_problems(now)

    def _tell_problems(self, now: StreamStatistics) -> None:
        found = {_NUMBER.sub("#", problem.text): problem for problem in now.problems}
        for key, problem in found.items():
            if key not in self._problems:
                self._log.warning(events.PROBLEM, text=problem.text, hint=problem.hint)
        for key in self._problems.keys() - found.keys():
            self._log.info(events.PROBLEM_ENDED, text=self._problems[key])
        self._problems = {key: problem.text for key, problem in found.items()}

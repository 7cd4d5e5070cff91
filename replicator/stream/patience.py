"""How long a session puts up with a silent source, and lets a source that shuts down wait. Pure: the times are given.

Both limits come from what one request may take. A primary that shuts down lets its walsender go only once everything
sent was confirmed as flushed, and asks again the moment it is answered. Where a store must have the bytes first, and
hangs, or where the spool has no room, that would never end: the connection is then closed. Nothing is confirmed by
that, and the slot keeps the WAL.
"""

from __future__ import annotations

from typing import Final

#: In times of one request's patience: ask for a sign of life; give the connection up.
_ASK, _DEAD = 2 / 3, 2.0
#: So many questions, each this soon (s) after our answer, are those of a source that shuts down. A live one asks again
#: after half of its wal_sender_timeout.
_QUESTIONS: Final = 5
_SOON: Final = 0.4


class Patience:
    """`request_s`: seconds that one request may take. `now` is the session's monotonic clock everywhere."""

    def __init__(self, request_s: float, now: float) -> None:
        self.limit = _DEAD * request_s
        self._request = request_s
        self._heard_at = self._asked_at = now
        self._answered_at = float("-inf")
        self._questions = 0
        self._insists_since = now
        self._closing_since: float | None = None

    def heard(self, now: float, *, wal: bool, question: bool) -> None:
        """Something came: WAL, a question for our positions while some are not confirmed, or neither."""
        self._heard_at = self._asked_at = now
        self._closing_since = None
        if wal or (question and now - self._answered_at > _SOON):
            self._questions = 0
        elif question:
            self._questions += 1
            if self._questions == _QUESTIONS:
                self._insists_since = now

    def not_listening(self, now: float, *, closing: bool = False) -> None:
        """Nothing was read: silence does not count. `closing`: the source lets nobody in, so it waits for us."""
        self._heard_at = now
        if not closing:
            self._closing_since = None
        elif self._closing_since is None:
            self._closing_since = now

    def answered(self, now: float, *, asked: bool, moved: bool) -> None:
        """Our positions went out; `asked`: for a sign of life as well; `moved`: they were news."""
        self._answered_at = now
        if asked:
            self._asked_at = now
        if moved:
            self._questions = 0

    def asks(self, now: float) -> bool:
        """Whether it is time to ask for a sign of life."""
        return now - self._asked_at > _ASK * self._request

    def is_silent(self, now: float) -> bool:
        """Whether the source counts as dead."""
        return now - self._heard_at > self.limit

    @property
    def insists(self) -> bool:
        """Whether the source shuts down and waits for us: it need not hear the same answer again at once."""
        return self._questions >= _QUESTIONS

    def is_exhausted(self, now: float) -> bool:
        """Whether it has waited for as long as a request may take."""
        since = self._insists_since if self.insists else self._closing_since
        return since is not None and now - since > self._request

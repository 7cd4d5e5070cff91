"""The schedule, over APScheduler: when a run is due, a callable is called that only enqueues.

Owns everything of APScheduler. No job store: the schedule is the policy's, the last run is in the repository. Its own
cron reading is not used (it counts Monday as 0, and joins two restricted day fields by "and"): the policy's is the
trigger.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger

from replicator.policy import Schedule


class PolicyTrigger(BaseTrigger):  # type: ignore[misc]  # the library is untyped
    """Fires when the policy's schedule says."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        """The first time after the previous one, or after now when there was none."""
        return self.schedule.next_after(previous_fire_time or now)


class Scheduler:
    """Calls what is added when it is due. `kinds` have an executor each, so that none starves another."""

    def __init__(self, kinds: tuple[str, ...] = ("snapshot", "verify")) -> None:
        self._scheduler = BackgroundScheduler(
            timezone=UTC,
            executors={"default": ThreadPoolExecutor(1)} | {kind: ThreadPoolExecutor(1) for kind in kinds},
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
            daemon=True,
        )

    def add(self, kind: str, cluster: str, schedule: Schedule, enqueue: Callable[[], None]) -> None:
        """Call `enqueue` at every time of `schedule`. A late one is made up once."""
        self._scheduler.add_job(
            enqueue, PolicyTrigger(schedule), id=f"{kind}/{cluster}", executor=kind, replace_existing=True
        )

    def remove(self, kind: str, cluster: str) -> None:
        """Forget what was added; harmless when nothing was."""
        with suppress(JobLookupError):
            self._scheduler.remove_job(f"{kind}/{cluster}")

    def start(self) -> None:
        """Begin."""
        self._scheduler.start()

    def stop(self) -> None:
        """End its threads. Harmless before `start` and again."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=True)


def missed(schedule: Schedule, newest: datetime | None, now: datetime) -> bool:
    """Whether a run was missed: a time of the schedule lies after the newest snapshot's beginning and has passed.

    With no snapshot at all the first one is due at once.
    """
    return newest is None or schedule.next_after(newest) <= now

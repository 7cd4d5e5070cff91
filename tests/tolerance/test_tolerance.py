"""Retry, breaker, bulkhead and deadline, by a clock of the test's own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from replicator.errors import (
    DeadlineExceeded,
    IntegrityError,
    Interrupted,
    ObjectAbsent,
    ReplicatorError,
    SourceUnavailable,
    StoreDenied,
    StoreUnavailable,
)
from replicator.tolerance import Breaker, BreakerState, Bulkhead, Deadline, Retry, SystemClock
from tests.clock import FakeClock


def failing(*errors: ReplicatorError) -> Callable[[], str]:
    """A callable that raises each error once and then succeeds."""
    left: Iterator[ReplicatorError] = iter(errors)

    def call() -> str:
        for error in left:
            raise error
        return "done"

    return call


class TestRetry:
    """Exponential backoff within a budget."""

    def test_unavailable_is_tried_again(self) -> None:
        """A store that comes back is waited for, and each retry is counted."""
        retry = Retry(FakeClock(), 60)
        assert retry.call(failing(StoreUnavailable("a"), StoreUnavailable("b")), what="it") == "done"
        assert retry.statistics().retries == 2
        assert retry.statistics().given_up == 0

    @pytest.mark.parametrize("error", [IntegrityError("x"), ObjectAbsent("x"), StoreDenied("x")])
    def test_final_errors_are_not(self, error: ReplicatorError) -> None:
        """Integrity errors, absence and refusal go through at the first try."""
        clock = FakeClock()
        with pytest.raises(type(error)):
            Retry(clock, 60).call(failing(error), what="it")
        assert clock.waits == []

    def test_a_bug_is_not(self) -> None:
        """An error that is none of ours is never retried."""
        clock = FakeClock()
        with pytest.raises(ZeroDivisionError):
            Retry(clock, 60).call(lambda: 1 // 0, what="it")
        assert clock.waits == []

    def test_waits_grow_and_end(self) -> None:
        """Waits double from first to most, and no wait passes the budget."""
        clock = FakeClock()
        retry = Retry(clock, 30, first=0.1, most=5.0)
        with pytest.raises(StoreUnavailable):
            retry.call(failing(*[StoreUnavailable("x")] * 100), what="it")
        assert clock.monotonic() <= 30
        assert clock.monotonic() > 20
        assert clock.waits[0] <= 0.2
        assert max(clock.waits) <= 5.0
        assert clock.waits[2] > clock.waits[0]
        assert retry.statistics().given_up == 1

    def test_no_budget_is_one_try(self) -> None:
        """A budget of 0 s means one try."""
        clock = FakeClock()
        with pytest.raises(StoreUnavailable):
            Retry(clock, 0).call(failing(StoreUnavailable("x")), what="it")
        assert clock.waits == []

    def test_stop_ends_the_waiting(self) -> None:
        """A stop asked for while waiting ends it with Interrupted."""
        stop = threading.Event()
        stop.set()
        with pytest.raises(Interrupted):
            Retry(SystemClock(), 60, stop=stop).call(failing(StoreUnavailable("x")), what="it")

    def test_waits_as_told(self) -> None:
        """An error that says when to come again is not tried before."""
        clock = FakeClock()
        Retry(clock, 60).call(failing(StoreUnavailable("x", retry_after=12.0)), what="it")
        assert clock.waits == [12.0]

    def test_gives_up_at_once_when_told_too_late(self) -> None:
        """When the time to come again lies beyond the budget nothing is waited for."""
        clock = FakeClock()
        with pytest.raises(StoreUnavailable):
            Retry(clock, 10).call(failing(StoreUnavailable("x", retry_after=12.0)), what="it")
        assert clock.waits == []

    def test_failures_are_reported(self) -> None:
        """on_failure sees each error that is retried."""
        seen: list[str] = []
        Retry(FakeClock(), 60).call(
            failing(StoreUnavailable("a")), what="it", on_failure=lambda error: seen.append(error.message)
        )
        assert seen == ["a"]


class TestBreaker:
    """Closed, open, half-open."""

    def trip(self, breaker: Breaker, times: int, error: ReplicatorError | None = None) -> None:
        """Let so many calls fail."""
        for _ in range(times):
            with pytest.raises(ReplicatorError):
                breaker.call(failing(error or StoreUnavailable("x")))

    def test_opens_after_failures(self) -> None:
        """After the given failures in a row calls fail at once, are not made, and say when to come again."""
        clock = FakeClock()
        breaker = Breaker("store a", 3, 30, clock)
        self.trip(breaker, 3)
        clock.pass_(10)
        with pytest.raises(StoreUnavailable) as raised:
            breaker.call(lambda: pytest.fail("called"))
        assert raised.value.retryable
        assert raised.value.context["retry_after"] == 20
        assert breaker.statistics().opened == 1

    def test_success_resets(self) -> None:
        """Failures count only in a row."""
        breaker = Breaker("store a", 3, 30, FakeClock())
        self.trip(breaker, 2)
        breaker.call(failing())
        self.trip(breaker, 2)
        assert breaker.state is BreakerState.CLOSED

    @pytest.mark.parametrize("error", [ObjectAbsent("x"), StoreDenied("x"), IntegrityError("x")])
    def test_an_answer_is_no_failure(self, error: ReplicatorError) -> None:
        """A part that answers, whatever it says, is alive."""
        breaker = Breaker("store a", 2, 30, FakeClock())
        self.trip(breaker, 5, error)
        assert breaker.state is BreakerState.CLOSED

    def test_closes_after_one_success(self) -> None:
        """After the reset time one call goes through and closes it."""
        clock = FakeClock()
        breaker = Breaker("store a", 1, 30, clock)
        self.trip(breaker, 1)
        clock.pass_(30)
        assert breaker.call(failing()) == "done"
        assert breaker.state is BreakerState.CLOSED

    def test_opens_again(self) -> None:
        """A failed try opens it for another reset time."""
        clock = FakeClock()
        breaker = Breaker("store a", 5, 30, clock)
        self.trip(breaker, 5)
        clock.pass_(30)
        self.trip(breaker, 1, SourceUnavailable("x"))
        assert breaker.state is BreakerState.OPEN
        clock.pass_(29)
        with pytest.raises(StoreUnavailable):
            breaker.call(lambda: pytest.fail("called"))

    def test_one_try_at_a_time(self) -> None:
        """While the deciding call is under way no other is made."""
        clock = FakeClock()
        breaker = Breaker("store a", 1, 30, clock)
        self.trip(breaker, 1)
        clock.pass_(30)

        def probe() -> str:
            assert breaker.state is BreakerState.HALF_OPEN
            with pytest.raises(StoreUnavailable):
                breaker.call(lambda: pytest.fail("called"))
            return "done"

        assert breaker.call(probe) == "done"

    def test_calls_run_side_by_side(self) -> None:
        """A slow call holds up no other: the breaker's lock is not held while a call runs."""
        breaker = Breaker("store a", 1, 30, SystemClock())
        meet = threading.Barrier(2, timeout=60)
        threads = [threading.Thread(target=breaker.call, args=(meet.wait,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not meet.broken

    def test_an_interrupted_try_decides_nothing(self) -> None:
        """Being stopped says nothing about the part."""
        clock = FakeClock()
        breaker = Breaker("store a", 1, 30, clock)
        self.trip(breaker, 1)
        clock.pass_(30)
        self.trip(breaker, 1, Interrupted("stop"))
        assert breaker.statistics().state is BreakerState.HALF_OPEN
        clock.pass_(30)
        breaker.call(failing())
        assert breaker.state is BreakerState.CLOSED

    def test_an_old_answer_decides_nothing(self) -> None:
        """A call from before the opening neither closes nor opens."""
        clock = FakeClock()
        breaker = Breaker("store a", 1, 30, clock)

        def slow() -> None:
            self.trip(breaker, 1)

        breaker.call(slow)
        assert breaker.state is BreakerState.OPEN


class TestBulkhead:
    """Bounded concurrency."""

    def test_refuses_beyond_its_places(self) -> None:
        """A call that finds no place within the wait fails as unavailable, which may be retried."""
        bulkhead = Bulkhead("store a", 1, wait_s=0.01)

        def inside() -> None:
            assert bulkhead.statistics().busy == 1
            with pytest.raises(StoreUnavailable) as raised:
                bulkhead.call(lambda: pytest.fail("called"))
            assert raised.value.retryable

        bulkhead.call(inside)
        found = bulkhead.statistics()
        assert (found.most, found.busy, found.waiting, found.refused) == (1, 0, 0, 1)

    def test_a_failed_call_leaves_its_place(self) -> None:
        """An error frees the place."""
        bulkhead = Bulkhead("store a", 1, wait_s=0.01)
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match="x"):
                bulkhead.call(failing(StoreUnavailable("x")))


class TestDeadline:
    """A point in time."""

    def test_counts_down_and_ends(self) -> None:
        """The remaining time shrinks to 0, and then check raises."""
        clock = FakeClock()
        deadline = Deadline(clock, 5)
        clock.pass_(4)
        deadline.check("the wait")
        assert deadline.remaining() == 1
        clock.pass_(4)
        assert deadline.remaining() == 0
        with pytest.raises(DeadlineExceeded):
            deadline.check("the wait")

"""How long a silent source is put up with, and how long one that shuts down waits for us."""

from __future__ import annotations

from replicator.stream.patience import Patience


def test_silence() -> None:
    """A source that says nothing is asked after two thirds of a request's time and given up after twice of it."""
    patience = Patience(30.0, 0.0)
    assert not patience.asks(19.9)
    assert patience.asks(20.1)
    patience.answered(20.1, asked=True, moved=False)
    assert not patience.asks(21.0)
    assert not patience.is_silent(60.0)
    assert patience.is_silent(60.1)
    patience.heard(60.1, wal=False, question=False)
    assert not patience.is_silent(120.0)


def test_who_does_not_listen_hears_no_silence() -> None:
    """While the spool is full nothing is read, and that says nothing of the source."""
    patience = Patience(1.0, 0.0)
    patience.not_listening(100.0)
    assert not patience.is_silent(101.0)


def test_a_source_that_closes_while_nothing_is_read() -> None:
    """A full spool and a source that lets nobody in: let go after one request's time, unless something was read."""
    patience = Patience(1.0, 0.0)
    patience.not_listening(10.0, closing=True)
    assert not patience.is_exhausted(10.9)
    assert patience.is_exhausted(11.1)
    patience.heard(11.1, wal=True, question=False)
    assert not patience.is_exhausted(20.0)
    patience.not_listening(20.0, closing=True)
    patience.not_listening(20.5)
    assert not patience.is_exhausted(30.0)


def question(patience: Patience, now: float) -> None:
    """The source asks, and is answered without news."""
    patience.heard(now, wal=False, question=True)
    if not patience.insists:
        patience.answered(now + 0.001, asked=False, moved=False)


def test_a_source_that_shuts_down_insists() -> None:
    """The same question again and again, each the moment it was answered: let go after one request's time."""
    patience = Patience(30.0, 0.0)
    patience.answered(0.0, asked=False, moved=False)
    for number in range(5):
        assert not patience.insists
        question(patience, 0.1 + number / 10)
    assert patience.insists
    assert not patience.is_exhausted(30.4)
    assert patience.is_exhausted(30.6)


def test_a_live_source_does_not() -> None:
    """Questions after half of wal_sender_timeout, WAL in between, or news from us: not a shutdown."""
    patience = Patience(30.0, 0.0)
    for number in range(20):
        question(patience, number * 0.5)
    assert not patience.insists
    for number in range(20):
        question(patience, 20 + number * 0.01)
        patience.heard(20 + number * 0.01, wal=True, question=False)
    assert not patience.insists
    for number in range(20):
        question(patience, 30 + number * 0.01)
        patience.answered(30 + number * 0.01, asked=False, moved=True)
    assert not patience.insists

"""Sizes and durations read and write exactly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import UsageError
from replicator.policy.units import format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0B", 0),
        ("512B", 512),
        ("1kB", 1024),
        ("1MB", 2**20),
        ("10GB", 10 * 2**30),
        ("2TB", 2**41),
        ("1.5GB", 3 * 2**29),
        (" 16 MB ", 2**24),
    ],
)
def test_size_is_read_as_postgresql_reads_it(text: str, size: int) -> None:
    """Units are PostgreSQL's, powers of 1024, with optional space and fraction."""
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "10", "10gb", "10GiB", "10KB", "GB", "-1GB", "1e3MB", "0.3B", "1 G B", "off", "١MB "]
)
def test_other_sizes_are_refused_with_a_hint(text: str) -> None:
    """What has no known unit, a sign, or a part of a byte is no size."""
    with pytest.raises(UsageError) as refused:
        parse_size(text)
    assert "kB, MB" in refused.value.hint


@pytest.mark.parametrize(
    ("text", "seconds"), [("0s", 0.0), ("250ms", 0.25), ("1s", 1.0), ("2m", 120.0), ("3h", 10800.0), ("14d", 1209600.0)]
)
def test_duration_is_read_in_seconds(text: str, seconds: float) -> None:
    """Every unit becomes seconds."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "5min", "5sec", "5M", "1w", "0.1ms", "-1s", "off"])
def test_other_durations_are_refused_with_a_hint(text: str) -> None:
    """Minutes are m; what isn't known is not guessed."""
    with pytest.raises(UsageError) as refused:
        parse_duration(text)
    assert "ms, s, m, h, d" in refused.value.hint


@given(st.integers(0, 2**50))
def test_sizes_survive_the_round_trip(size: int) -> None:
    """What is written is what is read."""
    assert parse_size(format_size(size)) == size


@given(st.integers(0, 10**12))
def test_durations_survive_the_round_trip(milliseconds: int) -> None:
    """What is written is what is read."""
    assert parse_duration(format_duration(milliseconds / 1000)) == milliseconds / 1000


def test_the_shortest_exact_notation_is_written() -> None:
    """A person recognises what the policy said."""
    assert [format_size(size) for size in (0, 1000, 2**20, 10 * 2**30)] == ["0B", "1000B", "1MB", "10GB"]
    assert [format_duration(seconds) for seconds in (0, 0.25, 120, 90, 86400)] == ["0ms", "250ms", "2m", "90s", "1d"]

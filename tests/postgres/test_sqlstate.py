"""From SQLSTATE to our errors."""

import pytest

from replicator.errors import (
    AlreadyExists,
    ProtocolViolation,
    SlotBusy,
    SourceRefused,
    SourceUnavailable,
    WalRemoved,
)
from replicator.postgres.sqlstate import error_of


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("58P01", WalRemoved),
        ("55006", SlotBusy),
        ("42704", SourceRefused),
        ("42501", SourceRefused),
        ("28P01", SourceRefused),
        ("28000", SourceRefused),
        ("42710", AlreadyExists),
        ("08P01", ProtocolViolation),
        ("08006", SourceUnavailable),
        ("57P01", SourceUnavailable),
        ("57P03", SourceUnavailable),
        ("53300", SourceUnavailable),
        ("XX000", SourceUnavailable),
        (None, SourceUnavailable),
    ],
)
def test_the_code_decides(code: str | None, kind: type[Exception]) -> None:
    """Exactly that class, and the code in the context."""
    error = error_of(code, "Something.", doing="streaming", wal=True)
    assert type(error) is kind
    assert error.context["sqlstate"] == code
    assert str(error) == "streaming: Something"


def test_a_missing_file_is_a_gap_only_where_wal_was_asked_for() -> None:
    """58P01 of anything else is no gap."""
    assert type(error_of("58P01", "x", doing="d")) is SourceUnavailable

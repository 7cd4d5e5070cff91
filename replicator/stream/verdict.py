"""What a store's error means for its shipper: the state in status, and how long to leave the store alone. Pure."""

from __future__ import annotations

from replicator.errors import (
    Conflict,
    DeadlineExceeded,
    HostLacks,
    ObjectAbsent,
    ReplicatorError,
    StoreUnavailable,
    UntrustedRepository,
)

#: Seconds: after what passes by itself, and after what an operator must mend.
AWAY, REFUSED = 1.0, 10.0


def verdict(error: ReplicatorError) -> tuple[str, float]:
    """State and seconds to wait before the next try."""
    match error:
        case StoreUnavailable() if not error.retryable:
            return "refused", REFUSED
        case StoreUnavailable() | DeadlineExceeded() | ObjectAbsent() | HostLacks():
            return "away", max(AWAY, min(REFUSED, float(error.context.get("retry_after", 0.0))))
        case UntrustedRepository() | Conflict():
            return "untrusted", REFUSED
        case _:
            return "damaged", REFUSED

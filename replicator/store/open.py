"""From a policy's store to one that can be used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Protocol

from replicator.store.locks import Lock
from replicator.store.protocol import Driver
from replicator.store.resilient import ResilientStore
from replicator.tolerance import Clock, SystemClock

if TYPE_CHECKING:
    from replicator.policy import SecretRef, StorePolicy, TolerancePolicy


class Resolve(Protocol):
    """Fetches a secret's value; `what` names it in errors."""

    def __call__(self, ref: SecretRef, *, what: str) -> bytes:
        """The value."""
        ...


def open_store(
    policy: StorePolicy,
    tolerance: TolerancePolicy,
    resolve: Resolve,
    *,
    clock: Clock | None = None,
    stop: Event | None = None,
    budget_s: float | None = None,
    most: int = 8,
    locked: Callable[[str], bool] | None = None,
) -> ResilientStore:
    """The store of a policy, with its retries, breaker and bulkhead. Makes no request yet.

    `stop` ends waits between tries; `budget_s` replaces the policy's budget (a status that must not wait); `most` is
    the number of requests at once. `locked` says which objects the policy's object_lock holds; None: it only reads.
    """
    time = clock if clock is not None else SystemClock()
    days = policy.object_lock
    lock = Lock(days, locked, time.now) if days is not None and locked is not None else None
    return ResilientStore(
        _driver(policy, tolerance, resolve, most, lock),
        clock=time,
        budget_s=tolerance.retry_budget if budget_s is None else budget_s,
        breaker_failures=tolerance.breaker_failures,
        breaker_reset_s=tolerance.breaker_reset,
        most=most,
        wait_s=tolerance.request_timeout,
        stop=stop,
    )


def _driver(policy: StorePolicy, tolerance: TolerancePolicy, resolve: Resolve, most: int, lock: Lock | None) -> Driver:
    # Imported when used: boto3 takes 0.3 s, and a restore_command from a directory is run for each segment.
    if policy.scheme == "file":
        from replicator.store.directory import DirectoryStore  # noqa: PLC0415

        return DirectoryStore(policy.name, Path(policy.directory))
    from replicator.store.s3_store import S3Store  # noqa: PLC0415

    keys = [
        resolve(ref, what=f"{key} of store {policy.name}").decode() if ref is not None else None
        for key, ref in (("access_key", policy.access_key), ("secret_key", policy.secret_key))
    ]
    return S3Store(
        policy.name,
        policy.bucket,
        policy.prefix,
        endpoint=policy.endpoint,
        region=policy.region,
        access_key=keys[0],
        secret_key=keys[1],
        ca=policy.ca,
        connect_timeout=tolerance.connect_timeout,
        read_timeout=tolerance.request_timeout,
        most=most,
        lock=lock,
    )

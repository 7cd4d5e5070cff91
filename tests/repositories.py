"""Repositories for tests: made by `init` in directory stores, with real keys and this process as a writer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from replicator.repository.repository import Repository, Secrets, open_repository
from replicator.seal.signature import SEALING, key_text, new_x25519, x25519_public
from replicator.store import Prefixed, ResilientStore, Store
from replicator.store.directory import DirectoryStore
from replicator.tolerance import SystemClock
from replicator.upkeep.init import InitJob, initialise
from replicator.upkeep.secrets import load_writer_key

Wrap = Callable[[Store], Store]


def make_repository(
    base: Path,
    *,
    names: tuple[str, ...] = ("local",),
    wrap: Wrap = lambda store: store,
    cluster: str = "frk",
    mode: str = "aes-256-gcm",
) -> Repository:
    """A repository under `base`, made on the first call, completed on later ones; it can open and write. `wrap` goes
    around each driver, below retries.
    """
    drivers = {name: DirectoryStore(name, base / "stores" / name) for name in names}
    identity = _identity(base / "identity")
    job = InitJob(
        cluster=cluster,
        stores={name: Prefixed(driver, f"{cluster}/") for name, driver in drivers.items()},
        sheet_stores=(),
        mode=mode,
        recipients=(key_text(SEALING, x25519_public(identity)),),
        secrets=Secrets(identities=(identity,)),
        writer_key=base / "writer.key",
        host="test",
        now=datetime.now(UTC),
        pending=base / "pending",
        pinned_root=None,
        prepare=partial(_prepare, drivers.values()),
        deliver=lambda _: None,
    )
    initialise(job)
    secrets = Secrets(identities=(identity,), writer=load_writer_key(base / "writer.key"))
    stores = {name: Prefixed(resilient(wrap(driver)), f"{cluster}/") for name, driver in drivers.items()}
    return open_repository(cluster, stores, secrets)


def resilient(store: Store, *, budget_s: float = 0.2) -> Store:
    """`store` with short retries and a breaker that is tried again soon."""
    return ResilientStore(
        store,  # type: ignore[arg-type]
        clock=SystemClock(),
        budget_s=budget_s,
        breaker_failures=5,
        breaker_reset_s=0.2,
    )


def _prepare(drivers: Iterable[DirectoryStore]) -> None:
    for driver in drivers:
        driver.prepare()


def _identity(path: Path) -> bytes:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(new_x25519())
    return path.read_bytes()

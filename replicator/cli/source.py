"""Where a restore's repository comes from: a policy, or a recovery sheet and a store."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from replicator.errors import UntrustedRepository, UsageError

if TYPE_CHECKING:
    from replicator.policy import DaemonPolicy, Policy, StorePolicy
    from replicator.postgres.binaries import Binaries
    from replicator.repository.repository import Repository, Secrets
    from replicator.restore.access import StoreAccess
    from replicator.upkeep.sheet import Sheet


@dataclass(frozen=True)
class Source:
    """An open repository, how each of its stores is reached, and where PostgreSQL's programs are."""

    repository: Repository
    access: Mapping[str, StoreAccess]
    binaries: Callable[[int], Binaries]


def from_policy(policy: Policy, daemon: DaemonPolicy, store: str | None, identity: Path | None, stop: Event) -> Source:
    """The repository of a policy. Raises UsageError, NotFound, StoreUnavailable, KeysError."""
    from replicator.compose import compose
    from replicator.restore.access import StoreAccess

    if store is not None and "://" in store:
        raise UsageError(
            "--store takes a URL only with --sheet",
            hint=f"The policy's stores are {', '.join(found.name for found in policy.stores)}.",
        )
    built = compose(policy, daemon, interrupt=stop)
    only = (store,) if store is not None else ()
    repository = built.repository(secrets=built.secrets(identity=identity), only=only, cached=False)
    access = {
        found.name: StoreAccess.resolved(found, policy.tolerance)
        for found in policy.stores
        if found.name in repository.stores
    }
    return Source(repository, access, built.binaries)


def from_sheet(cluster: str, path: Path, store: str | None, identity: Path | None) -> Source:
    """The repository of a recovery sheet: it pins the root and opens. Raises UsageError, KeysError and the stores'."""
    from replicator.policy import TolerancePolicy
    from replicator.postgres.binaries import find_binaries
    from replicator.repository.repository import open_repository
    from replicator.restore.access import StoreAccess
    from replicator.upkeep.sheet import read_sheet

    sheet = read_sheet(path)
    if sheet.cluster != cluster:
        raise UsageError(f"the sheet {path} is of {sheet.cluster}, not {cluster}", hint="Give that cluster's sheet.")
    access = {found.name: StoreAccess.resolved(found, TolerancePolicy()) for found in _stores(sheet, store)}
    stores = {name: one.open(cluster) for name, one in access.items()}
    secrets = _identity(identity) if identity is not None else sheet.secrets()
    repository = open_repository(cluster, stores, secrets, pinned_root=sheet.root)
    if repository.id.hex() != sheet.repository:
        raise UntrustedRepository(
            f"the store holds repository {repository.id.hex()}, the sheet is of {sheet.repository}",
            hint="Give the sheet of this repository, or the URL of the sheet's.",
        )
    return Source(repository, access, find_binaries)


def _identity(path: Path) -> Secrets:
    from replicator.policy import SecretRef, resolve_secret
    from replicator.repository.repository import Secrets
    from replicator.seal.signature import SEALING_SECRET, parse_key

    text = resolve_secret(SecretRef(file=path.absolute()), what="the identity").decode("ascii", "replace")
    return Secrets(identities=(parse_key(SEALING_SECRET, text),))


def _stores(sheet: Sheet, asked: str | None) -> list[StorePolicy]:
    """The sheet's stores, one of them by name, or one by its URL; credentials from the usual AWS environment."""
    if asked is not None and "://" in asked:
        known = next((found for found in sheet.stores if found.url == asked), None)
        return [_store(known.name, asked, known.endpoint, known.region) if known else _store("url", asked, "", "")]
    chosen = [found for found in sheet.stores if asked in (None, found.name)]
    if not chosen:
        names = ", ".join(found.name for found in sheet.stores) or "none"
        raise UsageError(f"the sheet has no store {asked!r}", hint=f"It has {names}; a URL is well too.")
    return [_store(found.name, found.url, found.endpoint, found.region) for found in chosen]


def _store(name: str, url: str, endpoint: str, region: str) -> StorePolicy:
    from pydantic import ValidationError

    from replicator.policy import StorePolicy

    told = endpoint or (os.environ.get("AWS_ENDPOINT_URL", "") if url.startswith("s3://") else "")
    extra = {key: value for key, value in (("endpoint", told), ("region", region)) if value}
    try:
        return StorePolicy.model_validate({"name": name, "url": url, **extra})
    except ValidationError as error:
        raise UsageError(f"{url!r} is not the URL of a store", hint="Write file:///path or s3://bucket.") from error

"""A cluster's repository: its identity, keys and stores, opened and believed only as far as the root vouches.

Owns the opening from one of several stores, and that a store holds this very repository. It puts nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from replicator.errors import (
    IntegrityError,
    NotFound,
    ObjectAbsent,
    StoreUnavailable,
    UntrustedRepository,
    WrongSecret,
)
from replicator.repository.documents import (
    CIPHERS,
    CachedDocuments,
    Documents,
    GivenDocuments,
    StoreDocuments,
    read_root,
)
from replicator.repository.keys import Secrets, load_keyring, unlock
from replicator.repository.removals import REMOVED
from replicator.seal.keyring import Keyring
from replicator.seal.signature import SIGNING, key_text
from replicator.store.protocol import Store

__all__ = [
    "CIPHERS", "CachedDocuments", "Documents", "Repository", "Secrets", "StoreDocuments", "check_store", "load_keyring",
    "open_repository", "read_root", "unlock",
]  # fmt: skip


@dataclass(frozen=True)
class Repository:
    """One cluster's repository. `stores` are rooted at the repository (`<root>/<cluster>/`) and already resilient."""

    cluster: str
    keyring: Keyring
    stores: Mapping[str, Store]

    @property
    def id(self) -> bytes:
        """The repository id, 16 bytes."""
        return self.keyring.repository_id

    def store(self, name: str) -> Store:
        """One of its stores. Raises NotFound that names them."""
        if name not in self.stores:
            raise NotFound(f"{self.cluster} has no store {name!r}", hint=f"Its stores are {', '.join(self.stores)}.")
        return self.stores[name]

    def only(self, names: tuple[str, ...]) -> Repository:
        """The same with some of its stores."""
        return replace(self, stores={name: self.store(name) for name in names})


def open_repository(
    cluster: str, stores: Mapping[str, Store], secrets: Secrets, *, pinned_root: str | None = None,
    cache: CachedDocuments | None = None, known: Documents | None = None,
) -> Repository:  # fmt: skip
    """The repository, from the first store that holds it and in which `secrets` open every key, else from the first in
    which they open any; from `cache` when none answers. Removals that are `known` count, those in `cache` too.

    Raises NotFound when every store answered and none holds it, StoreUnavailable when that cannot be known,
    UntrustedRepository, WrongSecret, IntegrityError.
    """
    failed: StoreUnavailable | IntegrityError | None = None
    closed: WrongSecret | None = None
    replaced: UntrustedRepository | None = None
    partly: Keyring | None = None
    seen = {name: data for source in (known, cache) if source is not None for name, data in _removals(source).items()}
    for store in stores.values():
        source = StoreDocuments(store)
        try:
            keyring, kept = load_keyring(source, cluster, pinned_root, known=GivenDocuments(seen))
            if cache is not None:
                cache.keep(kept)
            seen |= _removals(GivenDocuments(kept))
            unlocked = unlock(keyring, source, secrets)
        except ObjectAbsent:
            continue
        except WrongSecret as error:  # who was added while this store was away is in the others
            closed = closed or error
        except UntrustedRepository as error:  # replaced: another store may hold the one that is trusted
            replaced = replaced or error
        except (StoreUnavailable, IntegrityError) as error:
            failed = failed or error
        else:
            if unlocked.root_key is None or unlocked.public.keys() <= unlocked.private.keys():
                return Repository(cluster, unlocked.with_writer(secrets.writer), stores)
            partly = partly or unlocked
    if partly is not None:
        return Repository(cluster, partly.with_writer(secrets.writer), stores)
    if closed is not None:
        raise closed
    if replaced is not None:
        raise replaced
    if cache is not None:
        # The copies on this host have no wrapped secrets: with them alone it can seal and verify, not open.
        try:
            keyring, _ = load_keyring(cache, cluster, pinned_root)
            return Repository(cluster, keyring.with_writer(secrets.writer), stores)
        except ObjectAbsent:
            pass
        except IntegrityError as error:
            failed = failed or error
    if failed is not None:
        raise failed
    raise NotFound(
        f"the repository of {cluster} is in none of its stores", hint=f"Make it with `replicator init {cluster}`."
    )


def _removals(source: Documents) -> dict[str, bytes]:
    """What a source says is removed; whether the root signed it is looked at later."""
    return {name: source.read(name) for name in source.names(REMOVED)}


def check_store(repository: Repository, name: str) -> bool:
    """Whether a store holds this very repository: False when it holds none. Raises UntrustedRepository for another."""
    try:
        root = key_text(SIGNING, repository.keyring.root)
        found = read_root(StoreDocuments(repository.store(name)), root)
    except ObjectAbsent:
        return False
    if found.body["root"] != root or found.repository != repository.id.hex():
        raise UntrustedRepository(
            f"store {name} holds another repository (root {found.body['root']})",
            hint=f"Expected {root}; correct the store's URL, or empty it after making sure whose it is.",
            store=name,
        )
    return True

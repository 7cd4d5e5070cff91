"""A cluster's repository: its identity, keys and stores, opened and believed only as far as the root vouches.

Owns the opening from one of several stores, and that a store holds this very repository. It puts nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from replicator.errors import IntegrityError, NotFound, ObjectAbsent, StoreUnavailable, UntrustedRepository
from replicator.repository.documents import CIPHERS, CachedDocuments, Documents, StoreDocuments, read_root
from replicator.repository.keys import Secrets, load_keyring, unlock
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
    cache: CachedDocuments | None = None,
) -> Repository:  # fmt: skip
    """The repository, from the first store that holds it; from `cache` when none answers.

    Raises NotFound when every store answered and none holds it, StoreUnavailable when that cannot be known,
    UntrustedRepository, WrongSecret, IntegrityError.
    """
    failed: StoreUnavailable | IntegrityError | None = None
    sources: list[Documents] = [StoreDocuments(store) for store in stores.values()]
    if cache is not None:
        sources.append(cache)
    for source in sources:
        try:
            keyring, kept = load_keyring(source, cluster, pinned_root, known=cache)
            # The copies on this host have no wrapped secrets: with them alone it can seal and verify, not open.
            unlocked = keyring if source is cache else unlock(keyring, source, secrets)
        except ObjectAbsent:
            continue
        except (StoreUnavailable, IntegrityError) as error:
            failed = failed or error
            continue
        if cache is not None and source is not cache:
            cache.keep(kept)
        return Repository(cluster, unlocked.with_writer(secrets.writer), stores)
    if failed is not None:
        raise failed
    raise NotFound(
        f"the repository of {cluster} is in none of its stores", hint=f"Make it with `replicator init {cluster}`."
    )


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

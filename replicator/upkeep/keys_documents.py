"""The root's documents in all stores of a repository: what each store holds of them, and making the stores equal.

Owns the order in which they are put: a key's wrapped secrets, then its public half (from then on writers seal to it),
then writers, and removals last: a store gets what stays before it hears of what goes. What any store says is removed is
put into none, so the last comes too late for nothing. Nothing is rewritten; a document that is there is left as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from replicator.errors import (
    AlreadyExists,
    IntegrityError,
    ObjectAbsent,
    ReplicatorError,
    StoreMisconfigured,
    StoreUnavailable,
)
from replicator.repository.documents import Documents, StoreDocuments, read_believed
from replicator.repository.layout import (
    KEYS,
    ROOT,
    WRITERS,
    parse_key_name,
    parse_recipient_name,
    parse_writer_name,
)
from replicator.repository.removals import (
    REMOVED,
    key_subject,
    parse_removal_name,
    recipient_subject,
    writer_subject,
)
from replicator.repository.repository import Repository, check_store
from replicator.seal.keyring import Keyring
from replicator.store.protocol import Store

_PREFIXES = (REMOVED, KEYS, WRITERS)


@dataclass(frozen=True)
class RootDocuments:
    """What the stores that answered hold. `documents`: every document that the root signed, once; `held`: the names in
    each store; `silent`: the stores that did not answer, or not as this repository, with the reason.
    """

    documents: Mapping[str, bytes]
    held: Mapping[str, frozenset[str]]
    silent: Mapping[str, ReplicatorError] = field(default_factory=dict)

    @property
    def removed(self) -> frozenset[str]:
        """What any store says is removed."""
        return frozenset(subject for name in self.documents if (subject := parse_removal_name(name)) is not None)

    def counting(self) -> dict[str, bytes]:
        """The documents that count, in the order in which they are put."""
        removed = self.removed
        names = sorted((name for name in self.documents if not subjects_of(name) & removed), key=_rank)
        return {name: self.documents[name] for name in names}

    def lacking(self, store: str) -> list[str]:
        """What counts and a store does not hold, in the order in which it is put."""
        return [name for name in self.counting() if name not in self.held[store]]


def kind_of(name: str) -> str | None:
    """The kind of one of the root's documents by its name; None for any other name."""
    if name == ROOT:
        return "repository"
    if parse_removal_name(name) is not None:
        return "removal"
    if parse_key_name(name) is not None:
        return "key"
    if parse_recipient_name(name) is not None:
        return "recipient"
    return "writer" if parse_writer_name(name) is not None else None


def subjects_of(name: str) -> frozenset[str]:
    """Which removals make a document count no more."""
    key_id, recipient, writer_id = parse_key_name(name), parse_recipient_name(name), parse_writer_name(name)
    if recipient is not None:
        return frozenset((key_subject(recipient[0]), recipient_subject(recipient[1])))
    if key_id is not None:
        return frozenset((key_subject(key_id),))
    return frozenset((writer_subject(writer_id),)) if writer_id is not None else frozenset()


def _rank(name: str) -> tuple[int, str]:
    order = ("repository", "recipient", "key", "writer", "removal")
    return order.index(kind_of(name) or "repository"), name


def in_order(names: Iterable[str]) -> list[str]:
    """Names in the order in which documents are put."""
    return sorted(names, key=_rank)


def root_names(source: Documents) -> set[str]:
    """The names of the root's documents that a source has, whether they count or not."""
    names = {name for prefix in (*_PREFIXES, ROOT) for name in source.names(prefix)}
    return {name for name in names if kind_of(name) is not None}


def read_documents(repository: Repository) -> RootDocuments:
    """What every store holds of the root's documents. A store that does not answer, or is none of this repository, is
    silent. Raises UntrustedRepository when one holds another repository.
    """
    found: dict[str, bytes] = {}
    held: dict[str, frozenset[str]] = {}
    silent: dict[str, ReplicatorError] = {}
    for name, store in repository.stores.items():
        try:
            if not check_store(repository, name):
                raise StoreMisconfigured(
                    f"store {name} holds no repository", hint=f"Run `replicator init {repository.cluster}`."
                )
            held[name] = _read(repository.keyring, store, found)
        except (StoreUnavailable, IntegrityError) as error:
            silent[name] = error
    return RootDocuments(found, held, silent)


def _read(keyring: Keyring, store: Store, found: dict[str, bytes]) -> frozenset[str]:
    """The names that a store holds; adds to `found` what was not read before and is signed by the root."""
    source = StoreDocuments(store)
    names = root_names(source)
    for name in sorted(names - set(found)):
        try:
            data = read_believed(keyring, kind_of(name) or "", name, source)
        except ObjectAbsent:  # it was removed meanwhile
            names.discard(name)
            continue
        if data is not None:
            found[name] = data
    return frozenset(names)


def put_documents(store: Store, documents: Mapping[str, bytes]) -> int:
    """Put documents in the order that promises need; how many were not there. Raises StoreUnavailable and its kinds."""
    put = 0
    for name in in_order(documents):
        try:
            store.put(name, documents[name])
            put += 1
        except AlreadyExists:  # signed by the root all the same: whoever was first
            continue
    return put

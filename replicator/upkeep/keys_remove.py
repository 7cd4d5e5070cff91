"""Taking a recipient, a writer or an old repository key away, for good.

Owns what may go: never the last that opens a key, never what something in a store still needs. Every store gets what
it lacked of the rest, then the removal signed by the root; only then the documents that it names are deleted. So each
store opens at every moment, and an interruption leaves nothing that comes back; repeating it does what is left.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from replicator.errors import Conflict, NotFound, StoreDenied, StoreUnavailable, UsageError
from replicator.repository.keys import unwrap
from replicator.repository.layout import parse_recipient_name
from replicator.repository.removals import (
    key_subject,
    recipient_subject,
    removal_name,
    sign_removal,
    writer_subject,
)
from replicator.seal.digest import short_id
from replicator.seal.document import UnverifiedDocument
from replicator.seal.header import Cipher
from replicator.seal.signature import SEALING, parse_key
from replicator.store.protocol import Store
from replicator.upkeep.keys import SHEET_LABEL, KeysJob, KeysResult, Opened, family_of, open_documents
from replicator.upkeep.keys_documents import put_documents, subjects_of
from replicator.upkeep.keys_uses import first_use

_RECIPIENT = re.compile(r"(?:x25519|passphrase)-[0-9a-f]{16}\Z")
_ID = re.compile(r"[0-9a-f]{16}\Z")


@dataclass(frozen=True)
class Wish:
    """What is to go. `without_sheet`: the last recovery sheet too. `discard_signed`: a writer although objects that it
    signed are there; they count no more.
    """

    what: str
    without_sheet: bool = False
    discard_signed: bool = False


def remove(job: KeysJob, wish: Wish) -> KeysResult:
    """Remove a recipient (its id, or its public half), a writer or a repository key (their ids), in every store.

    Raises NotFound for what no store knows, Conflict when it is still needed, KeysError when nothing given opens.
    """
    opened = open_documents(job)
    subjects = _subjects(opened, wish.what)
    new = [subject for subject in subjects if subject not in opened.documents.removed]
    if new:
        _check(job, opened, frozenset(subjects), wish)
    root, repository_id = opened.root, opened.keyring.repository_id
    removals = {
        removal_name(subject): opened.documents.documents.get(removal_name(subject))
        or sign_removal(root, repository_id, subject, job.now)
        for subject in subjects
    }
    return _everywhere(job, opened, frozenset(subjects), removals)


def _subjects(opened: Opened, what: str) -> list[str]:
    """The removals that the wish means. A passphrase has a recipient under each key: all of them."""
    known = {subject for name in opened.documents.documents for subject in subjects_of(name)}
    known |= opened.documents.removed
    if what.startswith(f"{SEALING}:"):
        what = f"x25519-{short_id(parse_key(SEALING, what)).hex()}"
    if _RECIPIENT.match(what):
        wanted = [recipient_subject(what)]
        if wanted[0] in known:
            return sorted({*wanted, *map(recipient_subject, _family(opened, what))})
    elif _ID.match(what):
        wanted = [writer_subject(bytes.fromhex(what)), key_subject(bytes.fromhex(what))]
        if found := [subject for subject in wanted if subject in known]:
            return found[:1]
    else:
        raise UsageError(
            f"{what!r} is no id of a recipient, a writer or a key", hint="`replicator key list` shows them."
        )
    raise NotFound(f"the repository knows no {what}", hint="`replicator key list` shows what it knows.")


def _family(opened: Opened, what: str) -> list[str]:
    """The recipients that are one with `what`: by the documents of those too whose removal an interruption left."""
    held = opened.documents.documents
    places = ((parse_recipient_name(name), data, name) for name, data in held.items())
    found = [
        (place[1], family_of(place[1], UnverifiedDocument(data, name).body)) for place, data, name in places if place
    ]
    families = {what, *(family for recipient, family in found if recipient == what)}
    return [recipient for recipient, family in found if family in families]


def _check(job: KeysJob, opened: Opened, subjects: frozenset[str], wish: Wish) -> None:
    kind = next(iter(subjects)).partition("/")[0]
    if kind == "recipients":
        _check_recipients(job, opened, subjects, wish)
        return
    for error in opened.documents.silent.values():  # whether it is needed there can't be known
        raise error
    wanted = bytes.fromhex(wish.what)
    if kind == "keys":
        if wanted == opened.keyring.current:
            raise Conflict("it is the key that is sealed to now", hint="Make a new one first: `replicator key rotate`.")
        _check_unused(job, key_id=wanted)
    elif not wish.discard_signed:
        _check_unused(job, writer_id=wanted)


def _check_recipients(job: KeysJob, opened: Opened, subjects: frozenset[str], wish: Wish) -> None:
    """What stays must open every key, and that is proven with what was given."""
    staying = [
        (name, *place) for name, place in opened.recipients().items() if not subjects_of(name) & subjects
    ]  # fmt: skip
    for key_id in opened.key_ids if opened.keyring.cipher is not Cipher.NONE else ():
        left = [name for name, key, _, _ in staying if key == key_id]
        if not left:
            raise Conflict(
                f"it is the last recipient of the repository key {key_id.hex()}",
                hint="Add another one first: `replicator key add`.",
            )
        if not any(unwrap(opened.keyring, name, opened.counting[name], job.secrets) for name in left):
            raise Conflict(
                f"nothing given opens the repository key {key_id.hex()} once it is gone",
                hint="Give the secret of one that stays (--identity, --sheet, a passphrase): it is tried first.",
            )
    sheets = {key for _, key, _, body in staying if body.get("label") == SHEET_LABEL}
    going = (body for name, (_, _, body) in opened.recipients().items() if subjects_of(name) & subjects)
    if any(body.get("label") == SHEET_LABEL for body in going) and not sheets and not wish.without_sheet:
        raise Conflict(
            "it is the recipient of the recovery sheet",
            hint="Make a new sheet first (`replicator key add --new-sheet FILE`), or say --without-sheet.",
        )


def _check_unused(job: KeysJob, *, writer_id: bytes | None = None, key_id: bytes | None = None) -> None:
    for store in job.repository.stores.values():
        name = first_use(store, writer_id=writer_id, key_id=key_id)
        if name is None:
            continue
        if key_id is not None:
            raise Conflict(
                f"store {store.name} holds objects sealed to it, for example {name}",
                hint="It can go once nothing that is sealed to it is kept.",
            )
        raise Conflict(
            f"store {store.name} holds objects that it signed, for example {name}",
            hint="They would count no more. It can go once none is kept; of a stranger's key say --discard-signed.",
        )


def _everywhere(job: KeysJob, opened: Opened, subjects: frozenset[str], removals: dict[str, bytes]) -> KeysResult:
    """The removals in every store first, then the documents go."""
    errors = dict(opened.documents.silent)
    stores = dict.fromkeys(errors, "away")
    changed: set[str] = set()
    for name in opened.documents.held:
        missing = {known: opened.counting[known] for known in opened.documents.lacking(name)}
        missing = {known: data for known, data in missing.items() if not subjects_of(known) & subjects}
        try:
            if put_documents(job.repository.store(name), {**missing, **removals}):
                changed.add(name)
        except StoreUnavailable as error:
            stores[name], errors[name] = "away", error
    for name, held in opened.documents.held.items():
        if name in errors:
            continue
        gone = sorted(known for known in held if subjects_of(known) & (subjects | opened.documents.removed))
        try:
            _delete(job.repository.store(name), gone)
            stores[name] = "removed" if gone or name in changed else "unchanged"
        except StoreUnavailable as error:
            stores[name] = "kept" if isinstance(error, StoreDenied) else "away"
            errors[name] = error
    ids = tuple(sorted(subject.partition("/")[2] for subject in subjects))
    return KeysResult(ids, {name: stores[name] for name in job.repository.stores}, errors)


def _delete(store: Store, names: Iterable[str]) -> None:
    for name in names:
        store.delete(name)


__all__ = ["Wish", "remove"]

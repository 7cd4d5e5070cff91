"""The keys: may this host write, can it open, and is the root pinned where an attacker can't change it?"""

from __future__ import annotations

from collections.abc import Iterator

from replicator.core.finding import Finding
from replicator.doctor.finding import RESTORES, STORES, STREAM, finding_of
from replicator.doctor.subject import Patient
from replicator.errors import KeysError, NotFound, ReplicatorError, StoreUnavailable
from replicator.repository.repository import Repository
from replicator.seal.signature import SIGNING, key_text


def check_keys(patient: Patient) -> Iterator[Finding]:
    """Findings about keys and the root."""
    try:
        repository = patient.sealed()
    except (NotFound, StoreUnavailable):
        return  # the stores' subject says it
    except ReplicatorError as error:
        yield finding_of(error, STREAM if isinstance(error, KeysError) else STORES)
        return
    yield from _writer(patient, repository)
    yield from _opening(patient)
    encryption = patient.policy.encryption
    if encryption.root is None:
        root = key_text(SIGNING, repository.keyring.root)
        yield Finding(
            "root_not_in_policy",
            f"the policy names no root; this host trusts the first one it saw, {root}",
            f'Compare it with the recovery sheet and add root = "{root}" to [encryption].',
        )


def _writer(patient: Patient, repository: Repository) -> Iterator[Finding]:
    hint = f"Run `replicator init {patient.name}` on this host with a recipient's secret."
    if repository.keyring.writer is None:
        text = f"there is no writer key at {patient.policy.encryption.writer_key}"
        yield Finding("no_writer_key", text, hint, STREAM)
    elif not repository.keyring.can_write:
        text = "the repository does not know this host's writer key, or its root did not sign it"
        yield Finding("unknown_writer", text, hint, STREAM)


def _opening(patient: Patient) -> Iterator[Finding]:
    encryption = patient.policy.encryption
    if encryption.mode != "none" and encryption.passphrase is None and encryption.identity is None:
        yield Finding(
            "can_not_open",
            "this host holds no key that opens the repository: it writes, but it can't restore",
            "That is well on a host that only backs up; restores need a passphrase, an identity or the sheet.",
        )
        return
    try:
        patient.repository()
    except KeysError as error:
        yield finding_of(error, RESTORES)
    except ReplicatorError as error:
        yield finding_of(error, STORES)

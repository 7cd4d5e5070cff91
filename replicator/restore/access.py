"""How a store is reached from a policy or a sheet, and from a recovery directory where neither is at hand.

Owns the written form of that access, with the secrets resolved: it lies in the recovery directory, 0600. Never logs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from replicator.errors import IntegrityError
from replicator.policy import SecretRef, StorePolicy, TolerancePolicy, resolve_secret
from replicator.repository.repository import Repository
from replicator.seal.header import Cipher
from replicator.seal.keyring import Keyring
from replicator.store import Prefixed, Store, open_store

_KEYS = ("access_key", "secret_key")
_PLAIN = ("name", "url", "endpoint", "region")
_TIMES = ("connect_timeout", "request_timeout", "retry_budget", "breaker_failures", "breaker_reset")


@dataclass(frozen=True)
class StoreAccess:
    """One store, its credentials, and our patience with it."""

    policy: StorePolicy
    tolerance: TolerancePolicy
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def resolved(cls, policy: StorePolicy, tolerance: TolerancePolicy) -> StoreAccess:
        """From a policy, its secrets fetched now. Raises PolicyError, HostLacks."""
        secrets: dict[str, str] = {}
        for key in _KEYS:
            reference = getattr(policy, key)
            if reference is not None:
                secrets[key] = resolve_secret(reference, what=f"{key} of store {policy.name}").decode()
        return cls(policy, tolerance, secrets)

    def open(self, cluster: str) -> Store:
        """The store, rooted at the cluster's repository. Makes no request yet."""
        references = {key: SecretRef(env=key) for key in self.secrets}
        policy = self.policy.model_copy(update={**dict.fromkeys(_KEYS), **references})
        return Prefixed(open_store(policy, self.tolerance, self._resolve), f"{cluster}/")

    def _resolve(self, ref: SecretRef, *, what: str) -> bytes:  # noqa: ARG002 the protocol's name
        return self.secrets[ref.env or ""].encode()

    def to_json(self) -> dict[str, Any]:
        """The written form, secrets included."""
        policy = {name: getattr(self.policy, name) for name in _PLAIN}
        return {
            "policy": {**policy, "ca": str(self.policy.ca) if self.policy.ca else None},
            "tolerance": {name: getattr(self.tolerance, name) for name in _TIMES},
            "secrets": dict(self.secrets),
        }

    @classmethod
    def of_json(cls, value: dict[str, Any]) -> StoreAccess:
        """The reverse. Raises IntegrityError."""
        try:
            given = {key: found for key, found in value["policy"].items() if found is not None}
            times: dict[str, Any] = {name: f"{round(found * 1000)}ms" for name, found in value["tolerance"].items()}
            times["breaker_failures"] = value["tolerance"]["breaker_failures"]
            return cls(StorePolicy(**given), TolerancePolicy(**times), dict(value["secrets"]))
        except (KeyError, TypeError, ValueError) as error:
            raise IntegrityError("the recovery directory's store access makes no sense") from error


def keyring_to_json(keyring: Keyring) -> dict[str, Any]:
    """A keyring that opens, written down: private halves included, root and writer never."""
    return {
        "repository": keyring.repository_id.hex(),
        "cipher": int(keyring.cipher),
        "root": keyring.root.hex(),
        "current": keyring.current.hex(),
        **{
            name: {key.hex(): found.hex() for key, found in getattr(keyring, name).items()}
            for name in ("public", "writers", "private")
        },
    }


def keyring_of_json(value: dict[str, Any]) -> Keyring:
    """The reverse. Raises IntegrityError."""
    try:
        halves: dict[str, Any] = {
            name: {bytes.fromhex(key): bytes.fromhex(found) for key, found in value[name].items()}
            for name in ("public", "writers", "private")
        }
        return Keyring(
            bytes.fromhex(value["repository"]),
            Cipher(value["cipher"]),
            bytes.fromhex(value["root"]),
            bytes.fromhex(value["current"]),
            **halves,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError("the recovery directory's keys make no sense") from error


def repository_of(cluster: str, keyring: Keyring, access: StoreAccess) -> Repository:
    """The repository over that one store, opened with keys at hand: no document is read."""
    return Repository(cluster, keyring, {access.policy.name: access.open(cluster)})

"""What concerns several keys of one policy, or several policies at once.

Owns those rules. The first kind looks at the raw TOML, so that it speaks up beside the problems of single keys and
never waits for them to be mended. Wrong types are passed over: the model names those.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from replicator.policy.addresses import split_listen
from replicator.policy.daemon_model import DaemonPolicy
from replicator.policy.model import Policy
from replicator.policy.problems import Place, Problem

_ONLY_S3 = ("endpoint", "region", "access_key", "secret_key", "ca", "object_lock")


def cross_problems(data: Mapping[str, Any]) -> list[Problem]:
    """The problems of one policy's raw TOML that no single key has."""
    return [*_encryption(_table(data, "encryption")), *_stores(data), *_replicas(data), *_probes(data)]


def _encryption(encryption: Mapping[str, Any] | None) -> Iterable[Problem]:
    if encryption is None:
        return
    if encryption.get("mode") != "none" and not encryption.get("passphrase") and not encryption.get("recipients"):
        yield Problem(
            ("encryption",),
            'nobody could open the repository. Write passphrase or recipients, or mode = "none" to do without',
        )


def _stores(data: Mapping[str, Any]) -> Iterable[Problem]:
    if data.get("store") == []:
        yield Problem(("store",), "needs at least one table. Write [[store]]")
    yield from _repeated(data, "store", "name", "is the name of two stores")
    yield from _repeated(data, "store", "url", "is the place of two stores: two copies in one place are one copy")
    for index, store in _tables(data, "store"):
        place: Place = ("store", index)
        if str(store.get("url", "")).startswith("file:"):
            for key in _ONLY_S3:
                if key in store and store[key] != "off":
                    yield Problem((*place, key), "has no meaning for a file:// store. Take it out")
        for one, other in (("access_key", "secret_key"), ("secret_key", "access_key")):
            if one in store and other not in store:
                yield Problem((*place, one), f"needs {other} beside it")


def _probes(data: Mapping[str, Any]) -> Iterable[Problem]:
    for index, probe in _tables(_table(data, "verify") or {}, "probe"):
        given = [key for key in ("equals", "at_least", "newer_than") if key in probe]
        if len(given) > 1:
            yield Problem(("verify", "probe", index), f"{' and '.join(given)} are both given. Keep one of them")


def _replicas(data: Mapping[str, Any]) -> Iterable[Problem]:
    yield from _repeated(data, "replica", "name", "is the name of two replicas")
    names = [replica.get("name") for _, replica in _tables(data, "replica")]
    read_from = (_table(data, "snapshot") or {}).get("read_from", "primary")
    if isinstance(read_from, str) and read_from != "primary" and read_from not in names:
        yield Problem(("snapshot", "read_from"), f'{read_from!r} is neither "primary" nor the name of a replica')
    if any(one.get("name") == read_from and one.get("kind") == "logical" for _, one in _tables(data, "replica")):
        yield Problem(("snapshot", "read_from"), f"{read_from!r} is a logical replica, which holds other files")
    if data.get("relay") is None:
        for index, replica in _tables(data, "replica"):
            if replica.get("follow", "relay") == "relay" and replica.get("kind", "physical") == "physical":
                yield Problem(("replica", index), 'follows the relay, and there is none. Write [relay] or "primary"')


def _repeated(data: Mapping[str, Any], table: str, key: str, text: str) -> Iterable[Problem]:
    seen: set[str] = set()
    for index, row in _tables(data, table):
        value = row.get(key)
        if isinstance(value, str):
            if value.rstrip("/") in seen:
                yield Problem((table, index, key), f"{value!r} {text}")
            seen.add(value.rstrip("/"))


def _table(data: Mapping[str, Any], key: str) -> Mapping[str, Any] | None:
    value = data.get(key)
    return value if isinstance(value, dict) else None


def _tables(data: Mapping[str, Any], key: str) -> list[tuple[int, Mapping[str, Any]]]:
    rows = data.get(key)
    return [(i, row) for i, row in enumerate(rows) if isinstance(row, dict)] if isinstance(rows, list) else []


def shared_problems(policies: Iterable[Policy], daemon: DaemonPolicy | None = None) -> tuple[str, ...]:
    """What two policies must not share, as ready sentences: a cluster's name, a slot of one server, a port."""
    found: list[str] = []
    seen: dict[tuple[str, ...], Policy] = {}
    for policy in policies:
        claims: dict[tuple[str, ...], str] = {
            ("cluster", policy.cluster): f"cluster: {policy.cluster!r} is also the cluster of",
            ("slot", policy.source.slot, *sorted(policy.source.conninfo.split())): (
                f"source.slot: {policy.source.slot!r} on the same server is also the slot of"
            ),
        }
        if policy.relay:
            host, port = split_listen(policy.relay.listen)
            claims["listen", host, str(port)] = f"relay.listen: {policy.relay.listen!r} is also the address of"
            if daemon and split_listen(daemon.api.listen) == (host, port):
                found.append(f"{policy.path}: relay.listen: {policy.relay.listen!r} is also daemon.toml's api.listen")
        for claim, text in claims.items():
            other = seen.setdefault(claim, policy)
            if other is not policy:
                found.append(f"{policy.path}: {text} {other.path}")
                break  # whoever shares the name shares the rest
    return tuple(found)

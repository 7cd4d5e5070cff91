"""A policy's conninfo as single servers to try, each with its libpq parameters.

Owns our defaults (keepalives, timeouts). The password enters here as a parameter, never on a command line. No I/O.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from replicator.errors import UsageError

#: A dead peer is noticed within about 25 s, also while nothing is sent (trap 11).
_DEFAULTS = {
    "keepalives": "1",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
    "client_encoding": "UTF8",
}


@dataclass(frozen=True, slots=True)
class Target:
    """One server. `wants_primary` is false only where conninfo itself asks for another kind of server."""

    label: str
    wants_primary: bool
    parameters: dict[str, str] = field(repr=False)


def targets_of(
    conninfo: str, password: bytes | None, *, application_name: str, replication: str | None = None
) -> tuple[Target, ...]:
    """The servers that `conninfo` names, in its order.

    `replication` is "true", "database" or None for plain SQL. Raises UsageError when conninfo cannot be read.
    """
    given = _parsed(conninfo)
    common = {**_DEFAULTS, "fallback_application_name": application_name, **given}
    attributes = common.pop("target_session_attrs", "primary")
    if password is not None:
        common["password"] = password.decode("utf-8", "surrogateescape")
    if replication is not None:
        common["replication"] = replication
    if replication == "true":
        common["dbname"] = "replication"  # as pg_receivewal says it: what .pgpass lines for replication match
    wants_primary = attributes in ("primary", "read-write")
    return tuple(Target(label, wants_primary, {**common, **place}) for label, place in _places(given))


def application_name_of(conninfo: str, fallback: str) -> str:
    """The name that the server will know us by. Raises UsageError when conninfo cannot be read."""
    return _parsed(conninfo).get("application_name") or fallback


def keywords_of(conninfo: str) -> dict[str, str]:
    """What conninfo says, by libpq's keywords. Raises UsageError when it cannot be read."""
    return _parsed(conninfo)


def beside(conninfo: str, host: str, port: int, *, database: str | None = None) -> str:
    """The same user and settings towards another server, a standby too, or another database. Raises UsageError."""
    given = {**_parsed(conninfo), **({"dbname": database} if database is not None else {})}
    for key in ("hostaddr", "service", "target_session_attrs"):
        given.pop(key, None)
    return make_conninfo("", **{**given, "host": host, "port": str(port), "target_session_attrs": "any"})


def _parsed(conninfo: str) -> dict[str, str]:
    try:
        return {key: str(value) for key, value in conninfo_to_dict(conninfo).items() if value is not None}
    except psycopg.Error:
        # The parser's message may quote a part of the string, and that may be a password.
        raise UsageError(
            "the source's conninfo cannot be read",
            hint="Write it as host=db1 port=5432 user=replicator dbname=postgres.",
        ) from None


def _places(given: dict[str, str]) -> list[tuple[str, dict[str, str]]]:
    lists = {key: given[key].split(",") for key in ("host", "hostaddr", "port") if given.get(key)}
    count = max((len(lists[key]) for key in ("host", "hostaddr") if key in lists), default=1)
    for key, values in lists.items():
        if len(values) == 1 and key == "port":
            lists[key] = values * count
        elif len(values) != count:
            raise UsageError(f"the source's conninfo names {count} hosts and {len(values)} values of {key}")
    places = []
    for index in range(count):
        place = {key: values[index] for key, values in lists.items()}
        host = place.get("host") or place.get("hostaddr") or "local socket"
        places.append((f"{host}:{place['port']}" if place.get("port") else host, place))
    return places

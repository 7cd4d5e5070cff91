"""The kinds of values that a policy's keys share: sizes, durations, numbers, names, paths, keys, secrets.

One parser and one JSON schema each. They look at text only, never at the world.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeGuard

from replicator.errors import UsageError
from replicator.policy.cron import Schedule
from replicator.policy.secrets import SecretRef, parse_secret
from replicator.policy.units import format_duration, format_size, parse_duration, parse_size
from replicator.policy.written import OFF, Written, text, type_name

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}\Z")
_SLOT = re.compile(r"[a-z0-9_]{1,63}\Z")
_KEY = re.compile(r"[A-Za-z0-9_-]{43}\Z")


def size(least: str, most: str) -> Written:
    """Bytes within bounds, both allowed."""
    bounds = (parse_size(least), parse_size(most))
    return Written(_quantity(parse_size, format_size, bounds, "10GB"), _described("size", f"{least} to {most}"), (int,))


def duration(least: str, most: str) -> Written:
    """Seconds within bounds, both allowed."""
    bounds = (parse_duration(least), parse_duration(most))
    return Written(
        _quantity(parse_duration, format_duration, bounds, "30s"),
        _described("duration", f"{least} to {most}"),
        (int, float),
    )


def is_name(value: object) -> TypeGuard[str]:
    """Whether a value may name a cluster, a store or a replica."""
    return isinstance(value, str) and _NAME.match(value) is not None


def integer(least: int, most: int) -> Written:
    """A TOML integer within bounds, both allowed."""

    def parse(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise UsageError(f"must be an integer, not {type_name(value)}")
        if not least <= value <= most:
            raise UsageError(f"{value} is not from {least} to {most}")
        return value

    return Written(parse, {"type": "integer", "minimum": least, "maximum": most})


def matching(pattern: re.Pattern[str], noun: str, hint: str) -> Written:
    """A string of a pattern."""

    def parse(value: Any) -> str:
        if not pattern.match(text(value)):
            raise UsageError(f"{value!r} is not {noun}", hint=hint)
        return str(value)

    return Written(parse, {"type": "string", "format": noun.split(" ", 1)[1]})


def public_key(scheme: str) -> Written:
    """`<scheme>:` and 32 bytes in base64url without padding."""

    def parse(value: Any) -> str:
        head, _, tail = text(value).partition(":")
        # Encoded again, because the last letter has two bits that a careless decoder lets differ.
        if (
            head != scheme
            or not _KEY.match(tail)
            or urlsafe_b64encode(urlsafe_b64decode(f"{tail}="))[:-1] != tail.encode()
        ):
            raise UsageError(
                f"is not a public key of the form {scheme}:…",
                hint=f"Write {scheme}: and the 43 characters that `replicator init` or the key's maker printed.",
            )
        return str(value)

    return Written(parse, {"type": "string", "format": f"{scheme}:… public key"})


def _quantity(
    parse: Callable[[str], float], show: Callable[[Any], str], bounds: tuple[float, float], example: str
) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        if not isinstance(value, str):
            raise UsageError(
                f"must be a string with a unit, not {type_name(value)}", hint=f'Write it like "{example}".'
            )
        if value == OFF:
            raise UsageError("can not be off", hint=f'Write it like "{example}".')
        amount = parse(value)
        if not bounds[0] <= amount <= bounds[1]:
            raise UsageError(f"{value!r} is not from {show(bounds[0])} to {show(bounds[1])}")
        return amount

    return read


def _described(form: str, bounds: str) -> dict[str, Any]:
    return {"type": "string", "format": form, "x-range": bounds}


def _value(value: Any) -> int | str:
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise UsageError(f"must be an integer or a string, not {type_name(value)}")


def _absolute(value: Any) -> Path:
    path = Path(text(value))
    if not path.is_absolute():
        raise UsageError(f"{value!r} is not an absolute path", hint="Write the path from / on.")
    return path


def _schedule(value: Any) -> str:
    return Schedule.parse(text(value)).text


def _key_list(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise UsageError(f"must be an array of strings, not {type_name(value)}", hint='Write it like ["x25519:…"].')
    keys = tuple(str(X25519.parse(key)) for key in value)
    if len(set(keys)) != len(keys):
        raise UsageError("names one recipient twice")
    return keys


def _secret_file(value: Any) -> Path:
    ref = parse_secret(value)
    if ref.file is None:
        raise UsageError("must be a file: init writes it", hint='Write { file = "/path" }.')
    return ref.file


STRING = Written(text, {"type": "string"})
VALUE = Written(_value, {"type": ["integer", "string"], "format": "integer or string"}, (int,))
PATH = Written(_absolute, {"type": "string", "format": "absolute path"}, (Path,))
NAME = matching(_NAME, "a name", "Begin with a small letter and use small letters, digits, '_' and '-'.")
SLOT = matching(_SLOT, "a slot name", "Use at most 63 small letters, digits and '_', as PostgreSQL asks for.")
CRON = Written(_schedule, {"type": "string", "format": "cron of five fields"})
X25519 = public_key("x25519")
ED25519 = public_key("ed25519")
RECIPIENTS = Written(
    _key_list, {"type": "array", "items": X25519.schema, "format": "list of x25519:… public keys"}, (tuple,)
)
SECRET_FORMS: dict[str, Any] = {
    "env": {"type": "string"},
    "file": {"type": "string"},
    "command": {"type": "array", "items": {"type": "string"}, "minItems": 1},
}
SECRET = Written(
    parse_secret,
    {
        "type": "object",
        "format": "secret by reference",
        "properties": SECRET_FORMS,
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": 1,
    },
    (SecretRef,),
)
SECRET_FILE = Written(
    _secret_file,
    {
        "type": "object",
        "format": "{ file = … }",
        "properties": {"file": {"type": "string"}},
        "required": ["file"],
        "additionalProperties": False,
    },
    (Path,),
)

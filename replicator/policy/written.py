"""How a value is written in TOML: the bridge from our parsers to pydantic.

Owns `Written`. A parser takes the raw TOML value and raises UsageError; it looks at text only, never at the world.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from replicator.errors import UsageError

OFF = "off"
_TYPES = {bool: "a boolean", int: "an integer", float: "a number", str: "a string", list: "an array", dict: "a table"}


@dataclass(frozen=True)
class Written:
    """A pydantic annotation: `parse` turns the raw TOML value into ours, `schema` describes the raw one.

    Code that builds a model by hand may give a value that is already ours (of one of the types `ours`); a file may not:
    there 30 is not a duration.
    """

    parse: Callable[[Any], object]
    schema: dict[str, Any] = field(default_factory=dict, hash=False)
    ours: tuple[type, ...] = ()

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(self._validate)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return dict(self.schema)

    def _validate(self, value: Any, info: ValidationInfo) -> object:
        if not info.context and isinstance(value, self.ours) and not isinstance(value, bool | str):
            return value
        try:
            return self.parse(value)
        except UsageError as error:
            text = f"{error.message}. {error.hint}" if error.hint else error.message
            raise PydanticCustomError("policy", "{text}", {"text": text}) from error


def or_off(written: Written) -> Written:
    """The same, but the word "off" is allowed too and becomes None. Zero stays a number, absent stays a default."""
    schema = {"anyOf": [{"const": OFF}, written.schema], "format": f'{written.schema.get("format", "value")} or "off"'}
    ours = (*written.ours, type(None))
    return Written(lambda value: None if value == OFF else written.parse(value), schema, ours)


def type_name(value: Any) -> str:
    """A TOML value's type in words, for a sentence."""
    return _TYPES.get(type(value), f"a {type(value).__name__}")


def text(value: Any) -> str:
    """The value if it is a string that says something. Raises UsageError."""
    if not isinstance(value, str):
        raise UsageError(f"must be a string, not {type_name(value)}")
    if not value or "\0" in value:
        raise UsageError("must not be empty" if not value else "must not hold a zero byte")
    return value

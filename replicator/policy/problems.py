"""Problems of a policy file: what is wrong, at which key, on which line.

Owns the sentences for pydantic's errors, the guess at what an unknown key was meant to be, and the line of a key.
Values never appear here: those that may be quoted are quoted by the parser that refuses them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

Place = tuple[str | int, ...]
_HEADER = re.compile(r"\s*(\[\[?)\s*([\w\s.\"'-]+?)\s*\]")
_KEY = re.compile(r"\s*([\w.\"'-]+)\s*=")


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem: the key it is about (pydantic's location) and a sentence without a full stop."""

    place: Place
    text: str


def from_validation(error: ValidationError, model: type[BaseModel]) -> list[Problem]:
    """Every problem that pydantic found, in our words."""
    found = error.errors(include_url=False, include_context=True, include_input=False)
    return [Problem(item["loc"], _sentence(item["type"], item["loc"], item, model)) for item in found]


def render(problems: Iterable[Problem], path: str, text: str, data: Mapping[str, Any]) -> tuple[str, ...]:
    """`path:line: table.key: sentence` for each, in the file's order, each once."""
    lines = lines_of(text)
    rows = {(_line(problem.place, lines), problem.text, _name(problem.place, data)): None for problem in problems}
    ordered = sorted(rows, key=lambda row: row[0] or 0)
    return tuple(f"{path}{f':{line}' if line else ''}: {name}: {sentence}" for line, sentence, name in ordered)


def lines_of(text: str) -> dict[Place, int]:
    """The line of every table header and key that stands at a line's start. A guide for people: a multi-line string
    may fool it, and a key inside an inline table has its parent's line.
    """
    lines: dict[Place, int] = {}
    counts: dict[Place, int] = {}
    table: Place = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            table = ()
            parts = _split(header[2])
            for part in parts[:-1]:
                table = _within((*table, part), counts)
            table = (*table, parts[-1])
            if header[1] == "[[":
                lines.setdefault(table, number)
                counts[table] = counts.get(table, -1) + 1
                table = _within(table, counts)
            lines.setdefault(table, number)
        elif key := _KEY.match(line):
            place = table
            for part in _split(key[1]):
                place = (*place, part)
                lines.setdefault(place, number)
    return lines


def _within(table: Place, counts: Mapping[Place, int]) -> Place:
    return (*table, counts[table]) if table in counts else table


def _split(dotted: str) -> list[str]:
    return [part.strip().strip("\"'") for part in dotted.split(".")]


def _line(place: Place, lines: Mapping[Place, int]) -> int | None:
    return next((lines[place[:end]] for end in range(len(place), 0, -1) if place[:end] in lines), None)


def _name(place: Place, data: Mapping[str, Any]) -> str:
    """`store[offsite].url`; a table without a usable name is counted from 1."""
    name, value = "", data
    for step in place:
        try:
            value = value[step]  # type: ignore[index]
        except (KeyError, IndexError, TypeError):
            value = {}
        if isinstance(step, int):
            label = value.get("name") if isinstance(value, dict) else None
            name += f"[{label if isinstance(label, str) else step + 1}]"
        else:
            name += f".{step}" if name else step
    return name or "policy"


def _sentence(kind: str, place: Place, item: Mapping[str, Any], model: type[BaseModel]) -> str:
    context = item.get("ctx", {})
    if kind == "policy":
        return str(context["text"])
    if kind == "missing":
        return "is missing. " + _described(place, model)
    if kind == "extra_forbidden":
        return "is not a key of a policy" + _suggestion(place, model)
    if kind == "literal_error":
        return f"must be {context['expected']}".replace("'", '"')
    if kind == "tuple_type":
        return f"must be an array of tables. Write [[{'.'.join(str(step) for step in place)}]]"
    if kind in {"model_type", "model_attributes_type", "dict_type"}:
        return "must be a table"
    return str(item["msg"])[:1].lower() + str(item["msg"])[1:]


def _described(place: Place, model: type[BaseModel]) -> str:
    keys = keys_of(_table(place[:-1], model))
    description = keys.get(str(place[-1]), "")
    return f"It says: {description}" if description else "Write it"


def _suggestion(place: Place, model: type[BaseModel]) -> str:
    """The nearest key of the same table, else the table that has exactly this key, else all keys of the table."""
    unknown, here = str(place[-1]), keys_of(_table(place[:-1], model))
    if near := get_close_matches(unknown, here, n=1):
        return f"; did you mean {near[0]!r}?"
    if elsewhere := [name for name, table in tables_of(model) if unknown in keys_of(table) and name]:
        return f"; it belongs under [{elsewhere[0]}]"
    return f"; known here: {', '.join(here)}"


def keys_of(model: type[BaseModel] | None) -> dict[str, str]:
    """The TOML keys of a table, with their descriptions."""
    fields = model.model_fields.items() if model else ()
    return {field.alias or name: field.description or "" for name, field in fields}


def tables_of(model: type[BaseModel], prefix: str = "") -> list[tuple[str, type[BaseModel]]]:
    """Every table of a model with its dotted TOML name, the root first with an empty one."""
    found = [(prefix, model)]
    for name, field in model.model_fields.items():
        inner = inner_table(field.annotation)
        if inner is not None:
            found += tables_of(inner, f"{prefix}.{field.alias or name}".lstrip("."))
    return found


def inner_table(annotation: Any) -> type[BaseModel] | None:
    """The table that an annotation holds: itself, optional, or in an array."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in {Union, UnionType, tuple}:
        return next((inner for part in get_args(annotation) if (inner := inner_table(part))), None)
    return None


def _table(place: Place, model: type[BaseModel]) -> type[BaseModel] | None:
    current: type[BaseModel] | None = model
    for step in place:
        if isinstance(step, int) or current is None:
            continue
        fields = {field.alias or name: field for name, field in current.model_fields.items()}
        current = inner_table(fields[step].annotation) if step in fields else None
    return current

"""The schema of policies, as JSON Schema for tools and as a table for people.

Everything comes from the models: a key is described once, where it is declared. docs/policy.md is `reference()`.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from replicator.policy.daemon_model import DaemonPolicy
from replicator.policy.model import Policy
from replicator.policy.problems import inner_table, tables_of

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_HEAD = """\
# Policies

One TOML file for each cluster, and `daemon.toml` beside them. This page is made from the models in `replicator/policy`
(`replicator.policy.reference()`); a test keeps it current.

- Sizes as in postgresql.conf: a number and one of B, kB, MB, GB, TB, powers of 1024.
- Durations: a number and one of ms, s, m, h, d.
- `"off"` is written where a thing can be off. It is not 0, and not the same as an absent key, which has the default.
- A secret by reference is `{ env = "NAME" }`, `{ file = "/path" }` or `{ command = ["program", "argument"] }`. A secret
  itself is refused. A secret's file must not be open to others (mode 600); a command has ten seconds and no terminal.
- Policies that others than root or their owner may write are refused.
- They are looked for in `--policies`, else `REPLICATOR_POLICIES`, `/etc/replicator`, `./policies`.
"""


def schema(*, daemon: bool = False) -> dict[str, Any]:
    """JSON Schema (2020-12) of a cluster's policy, or of daemon.toml."""
    model: type[BaseModel] = DaemonPolicy if daemon else Policy
    return {"$schema": _DIALECT, **_without_null(model.model_json_schema(by_alias=True))}


def _without_null(node: Any) -> Any:
    """The schema without null, which TOML doesn't have: an absent key is absent."""
    if isinstance(node, list):
        return [_without_null(item) for item in node if item != {"type": "null"}]
    if not isinstance(node, dict):
        return node
    kept = {key: _without_null(item) for key, item in node.items() if not (key == "default" and item is None)}
    only = kept.get("anyOf")
    if isinstance(only, list) and len(only) == 1:
        kept = {**only[0], **{key: item for key, item in kept.items() if key != "anyOf"}}
    return kept


def reference() -> str:
    """Every key of every table in Markdown: notation, default, meaning."""
    parts = [_HEAD, "## A cluster's policy", *_tables(Policy), "## daemon.toml", *_tables(DaemonPolicy)]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def _tables(model: type[BaseModel]) -> list[str]:
    return [_table(name, table, model) for name, table in tables_of(model) if _rows(table)]


def _table(name: str, table: type[BaseModel], root: type[BaseModel]) -> str:
    head = f"### {_header(name, root)}\n\n" if name else ""
    words = " ".join((table.__doc__ or "").split())
    rows = "\n".join(_rows(table))
    return f"{head}{words}\n\n| key | written as | default | meaning |\n|---|---|---|---|\n{rows}\n"


def _header(name: str, root: type[BaseModel]) -> str:
    parent = dict(tables_of(root))[name.rpartition(".")[0]]
    last = name.rpartition(".")[2]
    field = next(field for key, field in parent.model_fields.items() if (field.alias or key) == last)
    array = str(field.annotation).startswith("tuple")
    return f"`[[{name}]]`, any number of times" if array else f"`[{name}]`"


def _rows(table: type[BaseModel]) -> list[str]:
    properties = table.model_json_schema(by_alias=True)["properties"]
    nested = {field.alias or key for key, field in table.model_fields.items() if inner_table(field.annotation)}
    required = {field.alias or key for key, field in table.model_fields.items() if field.is_required()}
    return [
        f"| `{key}` | {_notation(facts)} | {_default(facts, key in required)} | {facts['description']} |".replace(
            "|  |", "| |"
        )
        for key, facts in properties.items()
        if key not in nested
    ]


def _notation(facts: dict[str, Any]) -> str:
    inner: dict[str, Any] = next(
        (part for part in facts.get("anyOf", ()) if part.get("type") not in {None, "null"}), {}
    )
    known = {**inner, **facts}
    if "enum" in known:
        return " or ".join(f'`"{value}"`' for value in known["enum"])
    span = known.get("x-range") or (f"{known['minimum']} to {known['maximum']}" if "minimum" in known else "")
    words = known.get("format") or known.get("type", "value")
    return f"{words}, {span}" if span else str(words)


def _default(facts: dict[str, Any], required: bool) -> str:
    if required:
        return "required"
    if "x-default" in facts:
        return str(facts["x-default"])
    value = facts.get("default")
    if value is None or value == []:
        return "absent"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value}`"

"""The schema and docs/policy.md say what the models read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from replicator.policy import DaemonPolicy, Policy, reference, schema
from replicator.policy.problems import tables_of

DOCS = Path(__file__).resolve().parents[2] / "docs" / "policy.md"
MAKE = "python -c \"from replicator.policy import reference; print(reference(), end='')\" > docs/policy.md"


def test_the_docs_are_current() -> None:
    """docs/policy.md is made from the models and not by hand."""
    assert DOCS.read_text() == reference(), f"run: {MAKE}"


@pytest.mark.parametrize("model", [Policy, DaemonPolicy])
def test_every_key_is_described(model: type[Policy | DaemonPolicy]) -> None:
    """A key without a description would be a riddle in errors, schema and docs."""
    for name, table in tables_of(model):
        assert table.__doc__, name
        for key, field in table.model_fields.items():
            assert field.description, f"{name}.{key}"


def _nodes(node: Any) -> Iterator[Any]:
    yield node
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for child in children:
        yield from _nodes(child)


@pytest.mark.parametrize("daemon", [False, True])
def test_the_schema_is_json_without_null(daemon: bool) -> None:
    """TOML has no null: an absent key is absent. Unknown keys are refused by the schema too."""
    made = schema(daemon=daemon)
    json.dumps(made)
    assert None not in [node for node in _nodes(made) if not isinstance(node, dict | list)]
    assert {"type": "null"} not in list(_nodes(made))
    assert made["additionalProperties"] is False


def test_the_schema_has_the_tomls_names() -> None:
    """Arrays of tables have their TOML names, and defaults their TOML notation."""
    made = schema()
    assert {"store", "replica", "cluster"} <= set(made["properties"])
    assert made["required"] == ["cluster", "source", "store", "encryption"]
    assert made["$defs"]["StreamPolicy"]["properties"]["spool_limit"]["default"] == "10GB"

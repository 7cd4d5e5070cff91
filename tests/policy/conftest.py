"""A smallest policy, and policies written to a directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

MINIMAL = """\
cluster = "frk"
[source]
conninfo = "host=db1 user=replicator"
[[store]]
name = "local"
url = "file:///var/lib/replicator/repository"
[encryption]
passphrase = { env = "PHRASE" }
"""


@pytest.fixture
def minimal() -> str:
    """The smallest policy that is well."""
    return MINIMAL


@pytest.fixture
def policies(tmp_path: Path) -> Callable[..., Path]:
    """Write files into a private directory; keyword names become file stems."""

    def write(**texts: str) -> Path:
        directory = tmp_path / "policies"
        directory.mkdir(mode=0o755, exist_ok=True)
        for stem, text in texts.items():
            path = directory / f"{stem}.toml"
            path.write_text(text)
            path.chmod(0o644)
        return directory

    return write

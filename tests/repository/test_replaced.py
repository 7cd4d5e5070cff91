"""A store whose repository was replaced by another: the pinned root decides, whatever the order of the stores."""

from __future__ import annotations

from pathlib import Path

import pytest

from replicator.errors import UntrustedRepository
from replicator.repository.repository import Secrets, open_repository
from replicator.seal.signature import SIGNING, key_text
from tests.repositories import make_repository


@pytest.mark.parametrize("replaced", ["local", "offsite"])
def test_the_store_that_was_replaced_hides_no_other(tmp_path: Path, replaced: str) -> None:
    """The repository opens from the store that holds the pinned root; the other one alone is refused."""
    repository = make_repository(tmp_path / "ours", names=("local", "offsite"))
    make_repository(tmp_path / "theirs", names=("local",))
    theirs = tmp_path / "theirs/stores/local/frk/replicator.json"
    (tmp_path / "ours/stores" / replaced / "frk/replicator.json").unlink()
    (tmp_path / "ours/stores" / replaced / "frk/replicator.json").write_bytes(theirs.read_bytes())
    root = key_text(SIGNING, repository.keyring.root)
    opened = open_repository("frk", repository.stores, Secrets(), pinned_root=root)
    assert opened.id == repository.id
    with pytest.raises(UntrustedRepository):
        open_repository("frk", repository.only((replaced,)).stores, Secrets(), pinned_root=root)

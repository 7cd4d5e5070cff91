"""The contract against an S3 server that somebody else runs: REPLICATOR_TEST_S3_ENDPOINT, _BUCKET, _ACCESS_KEY and
_SECRET_KEY name it, _REGION and _CA where it needs them. Without an endpoint there is nothing here to run.

Everything is put below a folder of its own, removed at the end.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator.store import Prefixed, Store
from replicator.store.s3_store import S3Store
from tests.store.test_contract import RacingContract, folder, resilient

_GIVEN = "REPLICATOR_TEST_S3_"


def given(what: str) -> str | None:
    """A variable's value."""
    return os.environ.get(_GIVEN + what)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[S3Store]:
    """A new folder of the bucket."""
    ca = given("CA")
    store = S3Store(
        "given",
        os.environ[_GIVEN + "BUCKET"],
        f"replicator-contract-{secrets.token_hex(8)}",
        endpoint=given("ENDPOINT"),
        region=given("REGION"),
        access_key=given("ACCESS_KEY"),
        secret_key=given("SECRET_KEY"),
        ca=Path(ca) if ca else None,
    )
    store.prepare()
    yield store
    for info in store.list(""):
        store.delete(info.name)


if given("ENDPOINT"):

    @pytest.mark.s3
    class TestGivenEndpoint(RacingContract):
        """The driver over the server."""

        @pytest.fixture
        def store(self, endpoint: S3Store) -> Store:
            """A fresh folder."""
            return folder(endpoint)

    @pytest.mark.s3
    class TestResilientGivenEndpoint(RacingContract):
        """The wrapper over the server."""

        @pytest.fixture
        def store(self, endpoint: S3Store) -> Prefixed:
            """A fresh folder, wrapped."""
            return Prefixed(resilient(endpoint), f"wrapped-{secrets.token_hex(4)}/")

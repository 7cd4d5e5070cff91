"""libpq's messages in our form."""

from __future__ import annotations

import pytest

from replicator.postgres.words import libpq_words


@pytest.mark.parametrize(
    ("said", "ours"),
    [
        (
            'connection to server at "127.0.0.1", port 5433 failed: Connection refused\n'
            "\tIs the server running on that host and accepting TCP/IP connections?\n",
            "connection refused",
        ),
        (
            "server closed the connection unexpectedly\n\tThis probably means the server terminated abnormally\n"
            "\tbefore or while processing the request.\n",
            "server closed the connection unexpectedly",
        ),
        ('could not translate host name "db" to address', 'could not translate host name "db" to address'),
        ('connection to server at "db" failed: FATAL:  server is down', "FATAL: server is down"),
        ("\tonly advice", "only advice"),
        ("", ""),
    ],
)  # fmt: skip
def test_libpq_words(said: str, ours: str) -> None:
    """One line, without the advice and the address, and with an ordinary first word in lower case."""
    assert libpq_words(said) == ours

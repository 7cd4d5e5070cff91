"""What a base backup would leave out without a word: a snapshot without it could not be restored, so none is taken."""

from __future__ import annotations

from replicator.errors import SourceRefused
from replicator.postgres.query import SqlConnection


def refuse_left_out(sql: SqlConnection) -> None:
    """PostgreSQL 15 is the first with tablespaces inside the data directory (allow_in_place_tablespaces), and leaves
    them out of its base backups; 16 does not. Raises SourceRefused.
    """
    if not 150000 <= sql.server_version < 160000:
        return
    names = sql.in_place_tablespaces()
    if names:
        raise SourceRefused(
            f"PostgreSQL 15 leaves tablespaces inside the data directory out of base backups: {', '.join(names)}",
            hint="Move what is in them to another tablespace and drop them, or upgrade to PostgreSQL 16 or later.",
        )

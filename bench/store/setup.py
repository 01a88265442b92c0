"""A new database: its tables, and what a server's owner has to create before."""

from __future__ import annotations

from bench.errors import StoreError, one_line
from bench.store.schema import connect, parse_url, shown


def prepare(url: str) -> str:
    """Make the tables of a database, or bring them up to date; returns one line that says so.

    `StoreError` where that cannot be; of a PostgreSQL server with the statements that its owner gives.
    """
    parsed = parse_url(url)
    try:
        opened = connect(parsed, create=True)
    except StoreError as error:
        if parsed.get_backend_name() != "postgresql" or "extra 'postgres'" in str(error):
            raise
        user, name = _quoted(parsed.username or "bench"), _quoted(parsed.database or "bench")
        raise StoreError(
            f"{one_line(error)} If they are missing, the server's owner creates the user and the database in psql: "
            f"CREATE ROLE {user} LOGIN PASSWORD '...'; CREATE DATABASE {name} OWNER {user};"
        ) from None
    assert opened is not None
    opened.engine.dispose()
    return f"{shown(parsed)}: its tables are there, of this version."


def _quoted(name: str) -> str:
    """A name as SQL takes it."""
    return '"' + name.replace('"', '""') + '"'

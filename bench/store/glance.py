"""Looks at a database without changing it: creates no file, and does not migrate an old schema."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, select
from sqlalchemy.exc import DBAPIError

from bench.store.leases import Holder
from bench.store.schema import engine_of, file_of, newest, parse_url, revision, shown, unusable
from bench.store.tables import RunRow


@dataclass(frozen=True)
class Glance:
    """What a database is and holds.

    place   its URL, without a password
    file    of SQLite; None for a server
    schema  the revision of its tables; None where there is no database, or an empty one
    newest  the revision that this program upgrades it to
    runs    the number of runs by status
    played  keys of runs that a live process holds
    left    keys of RUNNING runs that no live process holds
    """

    place: str
    file: Path | None
    schema: str | None
    newest: str
    runs: dict[str, int]
    played: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


def glance_at(url: str) -> Glance:
    """Look at the database behind a URL or a path; `StoreError` if it is not ours or cannot be reached."""
    parsed = parse_url(url)
    file = file_of(parsed)
    if file is not None and not file.exists():
        return Glance(shown(parsed), file, None, newest(), {})
    engine = engine_of(parsed)
    try:
        with engine.connect() as connection:
            if file is not None:
                connection.exec_driver_sql("PRAGMA query_only = ON")
            schema = revision(connection, parsed)
            runs, played, left = ({}, (), ()) if schema is None else _runs(connection)
    except DBAPIError as error:
        raise unusable(parsed, error) from None
    finally:
        engine.dispose()
    return Glance(shown(parsed), file, schema, newest(), runs, played, left)


def _runs(connection: Connection) -> tuple[dict[str, int], tuple[str, ...], tuple[str, ...]]:
    """Runs by status, and the keys of the RUNNING ones: held, and not held. Only columns that every revision has."""
    lease = (RunRow.host, RunRow.pid, RunRow.process_start)
    runs = connection.execute(select(RunRow.key, RunRow.status, RunRow.heartbeat, *lease).order_by(RunRow.created))
    counts: Counter[str] = Counter()
    played: list[str] = []
    left: list[str] = []
    for key, status, heartbeat, host, pid, process_start in runs:
        counts[status] += 1
        if status == "RUNNING":
            (played if Holder(host, pid, process_start).alive(heartbeat) else left).append(key)
    return dict(counts), tuple(played), tuple(left)

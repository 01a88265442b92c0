"""Saves what is whole of a damaged SQLite file: each run that can be read with all its rows, into a new database."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from bench.errors import BenchError, StoreError, one_line
from bench.planning.spec import RunSpec
from bench.store import runs
from bench.store.schema import connect, engine_of, file_of, newest, parse_url, revision, shown
from bench.store.tables import Table

TABLES = Table.metadata.tables
#: the tables with rows of one run
OF_RUN = ("games", "images", "examples")


@dataclass(frozen=True)
class Rescued:
    """Keys of the runs that were saved, and of those that were not, each with the reason."""

    saved: list[str]
    lost: dict[str, str]


def damage_in(url: str) -> str:
    """What SQLite finds wrong with the pages of a file, in one line; "" for nothing, and for a server."""
    if file_of(parse_url(url)) is None:
        return ""
    engine = engine_of(parse_url(url))
    try:
        with engine.connect() as connection:
            found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalars().all()
    except DBAPIError as error:
        return one_line(error.orig or error)
    finally:
        engine.dispose()
    return "" if found == ["ok"] else " ".join(str(found[0]).split())


def rescue(url: str, to: str) -> Rescued:
    """Copy all runs that are whole from a damaged file into a new one, which is made.

    A run is whole where it has ended, and each of its rows and images is there: others are played again.
    """
    source, target = parse_url(url), parse_url(to)
    file, new = file_of(source), file_of(target)
    if file is None or new is None or not file.exists():
        raise StoreError("Only what is in a SQLite file can be saved into another; name both by their paths.")
    if new.exists():
        raise StoreError(f"{new} is there already; give --save the path of a new file.")
    engine = engine_of(source)
    try:
        with engine.connect() as old:
            if (current := revision(old, source)) != newest():
                raise StoreError(f"{shown(source)} has the schema {current}; only {newest()} can be saved from.")
            return _copied_into(target, old)
    except DBAPIError as error:
        raise StoreError(
            f"Nothing of {shown(source)} can be saved: {one_line(error.orig or error)}; take an older copy."
        ) from None
    finally:
        engine.dispose()


def _copied_into(target: URL, old: Connection) -> Rescued:
    opened = connect(target, create=True)
    assert opened is not None
    rescued = Rescued([], {})
    with opened.engine.connect() as into:
        for key in _keys(old):
            if reason := _copied(old, into, key):
                rescued.lost[key] = reason
            else:
                rescued.saved.append(key)
        for row in _readable(old, select(TABLES["audits"])):
            into.execute(insert(TABLES["audits"]), [dict(row._mapping)])
        into.commit()
    opened.engine.dispose()
    return rescued


def _keys(old: Connection) -> list[str]:
    """The keys of all runs that some page still names: that of the run, of an index, or of one of its rows."""
    keys: dict[str, None] = {}
    for statement in (
        "SELECT key FROM runs",
        "SELECT key FROM runs ORDER BY key",
        "SELECT run FROM games",
        "SELECT run FROM images",
        "SELECT DISTINCT run FROM examples",
    ):
        keys.update(dict.fromkeys(row[0] for row in _readable(old, statement) if isinstance(row[0], str)))
    return list(keys)


def _readable(old: Connection, statement: Any) -> Iterator[Any]:
    """The rows that come before a page that cannot be read."""
    try:
        yield from old.exec_driver_sql(statement) if isinstance(statement, str) else old.execute(statement)
    except DBAPIError:
        return


def _copied(old: Connection, into: Connection, key: str) -> str:
    """Copy a run with all its rows; why not, and then nothing of it is copied."""
    try:
        record = runs.find(Session(old), key)
        if record is None:
            return "the run itself cannot be read"
        if record.status == "RUNNING":
            return "it was not finished"
        held = {name: old.execute(select(TABLES[name]).where(TABLES[name].c.run == key)).all() for name in OF_RUN}
        _check_whole(record, held)
        held = {"runs": old.execute(select(TABLES["runs"]).where(TABLES["runs"].c.key == key)).all(), **held}
        held["suite_runs"] = [row for row in _readable(old, select(TABLES["suite_runs"])) if row.run == key]
        for name, rows in held.items():
            if rows:
                into.execute(insert(TABLES[name]), [dict(row._mapping) for row in rows])
    except (DBAPIError, BenchError, ValueError, TypeError, LookupError) as error:  # whatever stands on a broken page
        into.rollback()
        return one_line((isinstance(error, DBAPIError) and error.orig) or error)
    into.commit()
    return ""


def _check_whole(record: runs.RunRecord, held: Mapping[str, Sequence[Any]]) -> None:
    """`StoreError` where a finished run lacks rows or images."""
    if record.status != "DONE":
        return
    from bench.planning.rules import rows_of  # imports torch, which a command that only reads rows does without

    due = rows_of(RunSpec.from_dict(record.spec))
    images = sum(row.count for row in held["images"])
    if len(held["examples"]) != due or images != due:
        raise StoreError(f"{len(held['examples'])} of its {due} rows are there, with {images} images")

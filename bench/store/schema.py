"""Opening a database: its file or server, whether it is one of this program's, and the upgrade of its schema."""

from __future__ import annotations

import errno
import json
import logging
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, create_engine, event, inspect
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from bench.errors import DiskError, StoreError, one_line

MIGRATIONS = Path(__file__).with_name("migrations")
#: how PostgreSQL says that its disk is full
DISK_FULL = "53100"
#: the statement that makes other processes wait until this one's upgrade is committed; any number serves
_LOCKS = {"sqlite": "BEGIN IMMEDIATE", "postgresql": "SELECT pg_advisory_xact_lock(2320176)"}


def parse_url(text: str) -> URL:
    """A database URL; a plain path means a SQLite file."""
    if "\0" in text:
        raise StoreError(f"{text!r:.80} holds a null character; give --db a path or a URL such as sqlite:///bench.db.")
    try:
        return make_url(text if "://" in text else f"sqlite:///{text}")
    except (ArgumentError, ValueError):
        raise StoreError(
            f"{text!r} is no database URL; give --db a path or a URL such as sqlite:///bench.db."
        ) from None


def file_of(url: URL) -> Path | None:
    """The file of a SQLite URL, or None for a server."""
    if url.get_backend_name() != "sqlite":
        return None
    if not url.database or url.database == ":memory:":
        raise StoreError("A database in memory would be lost with its results; give --db a file or a server.")
    if url.database.startswith("file:") or "uri" in url.query:
        raise StoreError(
            f"{shown(url)} is a URI of SQLite's own, which may name no file; give --db the path of a file."
        )
    return Path(url.database)


@dataclass(frozen=True)
class Opened:
    """An open database. frozen: its file, where it is read as one that nobody writes meanwhile; else None."""

    engine: Engine
    frozen: Frozen | None = None


@dataclass(frozen=True)
class Frozen:
    """A SQLite file in a folder in which this process cannot write, so that SQLite can put neither log nor lock there.

    It is read as it is. What somebody else writes meanwhile would be read by halves: `check` refuses that.
    """

    file: Path
    stamp: tuple[int, int]

    @staticmethod
    def of(file: Path) -> Frozen:
        stat = file.stat()
        return Frozen(file, (stat.st_size, stat.st_mtime_ns))

    def check(self) -> None:
        """Raise `StoreError` where the file is another than when it was opened."""
        if Frozen.of(self.file) != self:
            raise StoreError(f"{self.file} was written by another process while it was read; give the command again.")


def connect(url: URL, create: bool) -> Opened | None:
    """The database with an up-to-date schema. None where it does not exist and `create` is False."""
    file = file_of(url)
    if create or file is None or not file.exists():
        engine = _connect(url, create)
        return None if engine is None else Opened(engine)
    try:
        engine, frozen = _connect(url, create), None
    except _NotWritable:
        if _log_of(file) is not None:
            raise
        frozen = Frozen.of(file)
        engine = _connect(url, create, frozen)
    return None if engine is None else Opened(engine, frozen)


def _log_of(file: Path) -> Path | None:
    """What SQLite left beside the file and reads with it: a log that is not in the file yet, a change to be undone."""
    logs = (file.with_name(file.name + ending) for ending in ("-wal", "-journal"))
    return next((log for log in logs if log.exists()), None)


def _connect(url: URL, create: bool, frozen: Frozen | None = None) -> Engine | None:
    file = file_of(url)
    made: list[Path] = []
    if file is not None and not file.exists():
        if not create:
            return None
        made = [folder for folder in (file.parent, *file.parent.parents) if not folder.exists()]
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"The folder of the database {file} cannot be made: {error.strerror}.") from None
    engine = engine_of(url if frozen is None else _immutable(url, frozen.file))
    try:
        with engine.connect() as connection:
            current = revision(connection, url)
            if current is None and not create:
                engine.dispose()
                return None
            if frozen is not None and current != newest():
                raise StoreError(
                    f"{shown(url)} has the schema {current} of an older version, and cannot be upgraded where it "
                    f"cannot be written. Give --db a copy of it in a folder of your own."
                )
            if create and file is not None:  # after `revision`: the file of another program must not be changed
                connection.rollback()
                connection.exec_driver_sql("PRAGMA journal_mode = WAL")
                connection.rollback()
            _upgrade(connection)  # also for a reader: an older schema lacks columns that it selects
    except DBAPIError as error:
        engine.dispose()
        for folder in made:
            with suppress(OSError):  # it holds something by now
                folder.rmdir()
        raise unusable(url, error) from None
    except CommandError as error:  # alembic's: no revision that it knows, or several
        engine.dispose()
        raise StoreError(
            f"{shown(url)} does not say which schema it has: {one_line(error)}. Give --db another database, or "
            f"correct its table alembic_version."
        ) from None
    return engine


class Unreadable(dict[str, Any]):
    """Stands for a text in the database that is no JSON; empty. Who reads the column decides what that means."""


def read_json(text: str | bytes) -> Any:
    """The value of a column of JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # it may be nested for ever
        return Unreadable()


def read_all(texts: Sequence[str | None]) -> list[Any]:
    """The values of many texts of JSON, as `read_json` gives them; None stays. As one text they are read in a third."""
    given = [text for text in texts if text is not None]
    whole = read_json(f"[{','.join(given)}]")
    if isinstance(whole, Unreadable) or len(whole) != len(given):  # some text is none: which?
        whole = [read_json(text) for text in given]
    values = iter(whole)
    return [None if text is None else next(values) for text in texts]


class _NotWritable(StoreError):
    """A SQLite file, or its folder, cannot be written by this user."""


def unusable(url: URL, error: DBAPIError) -> StoreError | DiskError:
    """The driver's error in one line: the file is no database, it is locked, the server cannot be reached."""
    said, code = one_line(error.orig or error), getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL or getattr(error.orig, "sqlstate", "") == DISK_FULL:
        return DiskError(errno.ENOSPC, said, shown(url))
    if code == sqlite3.SQLITE_BUSY:
        return StoreError(
            f"{shown(url)} is held by another process ({said}); give the command again once that is done."
        )
    file = file_of(url)
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN) and file is not None:
        log = _log_of(file)
        todo = "Give --db a database in a folder of your own"
        if log is not None:
            todo += f"; to read this one, copy {file.name} and {log.name}, which belongs to it, into such a folder"
        return _NotWritable(f"{shown(url)} cannot be written here: {said}. {todo}.")
    return StoreError(
        f"{shown(url)} cannot be used as a database: {said}. Give --db another database, or repair this one: bench "
        f"doctor says how."
    )


def engine_of(url: URL) -> Engine:
    """An engine that has connected to nothing yet; `StoreError` where its driver is not installed."""
    try:
        server = url.get_backend_name() != "sqlite"  # its connections are looked at before they are used again
        engine = create_engine(url, json_deserializer=read_json, pool_pre_ping=server)
        engine.dialect.create_connect_args(url)  # reads what stands in the URL, and connects to nothing
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        raise StoreError(
            f"No driver for {shown(url)} is installed ({one_line(error)}); see the extra 'postgres'."
        ) from None
    except (ArgumentError, ValueError, TypeError) as error:
        raise StoreError(f"{shown(url)} has a part that cannot be read: {one_line(error)}; correct --db.") from None
    if url.get_backend_name() == "sqlite":
        event.listen(engine, "connect", _sqlite_settings)
    return engine


def _immutable(url: URL, file: Path) -> URL:
    """The URL under which SQLite reads a file as one that nobody writes: it makes no other beside it."""
    query = {**url.query, "mode": "ro", "immutable": "1", "uri": "true"}
    return url.set(database=file.absolute().as_uri(), query=query)


#: milliseconds for which a statement waits for another process that writes a SQLite file; and one that need not be
PATIENT_MS, HASTY_MS = 60_000, 200


@contextmanager
def hasty(connection: Connection) -> Iterator[None]:
    """Within, a SQLite file that another process writes is waited for a moment only."""
    if connection.dialect.name != "sqlite":
        yield
        return
    connection.exec_driver_sql(f"PRAGMA busy_timeout = {HASTY_MS}")
    try:
        yield
    finally:
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {PATIENT_MS}")


def _sqlite_settings(connection: object, record: object) -> None:
    cursor = connection.cursor()  # type: ignore[attr-defined]
    cursor.execute(f"PRAGMA busy_timeout = {PATIENT_MS}")
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def revision(connection: Connection, url: URL) -> str | None:
    """The revision of its schema; None where it is empty.

    `StoreError` for the database of another program, and for one of a newer version of this program.
    """
    tables = set(inspect(connection).get_table_names())  # first: another process may make them and their revision now
    current = MigrationContext.configure(connection).get_current_revision()
    if current is None and tables:
        raise StoreError(
            f"{shown(url)} is the database of another program (it has the table {sorted(tables)[0]!r}); "
            f"give --db another database."
        )
    known = {script.revision for script in _scripts().walk_revisions()}
    if current is not None and current not in known:
        raise StoreError(
            f"{shown(url)} was made by a newer version of this program (schema {current}); "
            f"update the program, or give --db another database."
        )
    return current


def newest() -> str:
    """The revision that this program upgrades a schema to."""
    return str(_scripts().get_current_head())


def _upgrade(connection: Connection) -> None:
    """Upgrade the schema to the newest revision. One process does it at a time; the next finds it done."""
    if MigrationContext.configure(connection).get_current_revision() == newest():
        return
    connection.rollback()
    connection.exec_driver_sql(_LOCKS.get(connection.dialect.name, "SELECT 1"))
    if MigrationContext.configure(connection).get_current_revision() != newest():
        command.upgrade(_config(connection), "head")
    connection.commit()


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _config(connection: Connection | None = None) -> Config:
    logging.getLogger("alembic").setLevel(logging.WARNING)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    return config


def shown(url: URL) -> str:
    """A URL without its password."""
    return url.render_as_string(hide_password=True)

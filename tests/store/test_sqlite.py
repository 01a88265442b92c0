"""What only a SQLite file can have: a path, a write-ahead log, locks, and other files in its place."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from bench.errors import StoreError
from bench.store import Claim, Store
from tests.store.test_store import claim, key


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store.open(str(tmp_path / "bench.db"))
    assert store is not None
    return store


def test_files_that_are_no_database_of_ours_are_left_alone(tmp_path: Path) -> None:
    text_file = tmp_path / "notes.txt"
    text_file.write_text("not a database, just some notes that are long enough to be read as a header" * 20)
    foreign = tmp_path / "foreign.db"
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE cats (name TEXT)")
    newer = tmp_path / "newer.db"
    Store.open(str(newer)).close()  # type: ignore[union-attr]
    with sqlite3.connect(newer) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    for path, message in ((text_file, "not a database"), (foreign, "'cats'"), (newer, "newer version.*9999")):
        before = path.read_bytes()
        with pytest.raises(StoreError, match=message):
            Store.open(str(path))
        assert path.read_bytes() == before
    with pytest.raises(StoreError, match="folder"):
        Store.open(str(text_file / "x.db"))


def test_a_file_is_made_in_a_new_folder_but_not_by_a_reader(tmp_path: Path) -> None:
    path = tmp_path / "new" / "bench.db"
    assert Store.open(str(path), create=False) is None and not path.parent.exists()
    assert Store.open(str(path)) is not None and path.is_file()


def test_a_reader_goes_on_while_another_process_writes(store: Store, tmp_path: Path) -> None:
    """The write-ahead log: the reader sees the last commit."""
    claim(store)
    with sqlite3.connect(tmp_path / "bench.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE runs SET status = 'DONE'")
        assert store.find(key()).status == "RUNNING"  # type: ignore[union-attr]
        connection.rollback()


def test_a_lock_that_is_kept_too_long_is_told_in_one_line(store: Store, tmp_path: Path) -> None:
    with store._engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout = 10")
    assert claim(store) is Claim.MINE
    with sqlite3.connect(tmp_path / "bench.db") as connection:
        connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="database is locked"):
            store.finish(key(), "DONE")
        assert store.heartbeat([key()]) is False
        connection.rollback()
    assert store.heartbeat([key()]) is True

"""The store: leases, one holder at a time, and databases that are not ours."""

from __future__ import annotations

import math
import sqlite3
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import create_engine, inspect, text

from bench.errors import StoreError, UnknownName
from bench.rows import Meter, Resume
from bench.store import Claim, LeaseLost, Store
from bench.store.schema import connect, parse_url
from bench.store.tables import Table
from tests.conftest import spec_of
from tests.test_metrics import ROW

PROVENANCE: dict[str, Any] = {"environment": {"torch": "1", "device": "cpu"}}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = Store.open(str(tmp_path / "bench.db"))
    assert found is not None
    return found


def claim(store: Store, rerun: str = "missing", provenance: dict[str, Any] = PROVENANCE) -> Claim:
    return store.claim(spec_of("regular", "clean"), None, provenance, rerun)


def key() -> str:
    return spec_of("regular", "clean").key


def rows(start: int, count: int, game: int = 0) -> list[Any]:
    return [replace(ROW, game=game, position=i, index=i) for i in range(start, start + count)]


def pretend(store: Store, **values: object) -> None:
    with store._engine.begin() as connection:
        for column, value in values.items():
            connection.execute(text(f"UPDATE runs SET {column} = :v"), {"v": value})


def test_a_run_is_claimed_once_and_finished_once(store: Store, tmp_path: Path) -> None:
    assert claim(store) is Claim.MINE
    other = Store.open(str(tmp_path / "bench.db"))
    assert other is not None and claim(other) is Claim.HELD  # this process is alive
    store.commit(key(), rows(0, 3), "f" * 64, Resume(3, 3, "a"), Meter(1.0, 2.0), 4.0)
    store.end_game(key(), 0, Meter(0.5, 0.5), 1.0)
    store.finish(key(), "DONE")
    assert claim(store) is Claim.FINISHED and store.find(key()).status == "DONE"  # type: ignore[union-attr]
    (game,) = store.games(key())
    assert (game.attack_s, game.defense_s, game.wall_s, game.done, game.rows) == (1.5, 2.5, 5.0, True, 3)
    with pytest.raises(LeaseLost):
        store.commit(key(), rows(3, 1), "f" * 64, Resume(4, 4, "a"), Meter(), 0.0)


def test_a_dead_holder_is_followed_at_once_on_this_host_and_after_a_minute_on_another(store: Store) -> None:
    claim(store)
    pretend(store, pid=2**22 + 1)
    assert claim(store) is Claim.MINE
    zombie = subprocess.Popen(["true"])
    while psutil.Process(zombie.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    pretend(store, pid=zombie.pid, process_start=psutil.Process(zombie.pid).create_time())
    assert claim(store) is Claim.MINE
    zombie.wait()
    pretend(store, process_start=1.0)  # the number of a dead process, given to a new one
    assert claim(store) is Claim.MINE
    pretend(store, host="elsewhere", heartbeat=time.time() - 30)
    assert claim(store) is Claim.HELD
    pretend(store, heartbeat=time.time() - 61)
    assert claim(store) is Claim.MINE


def test_who_lost_the_lease_writes_nothing_more(store: Store) -> None:
    claim(store)
    pretend(store, pid=1)
    for write in (
        lambda: store.commit(key(), rows(0, 1), "f" * 64, Resume(1, 1, ""), Meter(), 0.0),
        lambda: store.end_game(key(), 0, Meter(), 0.0),
        lambda: store.finish(key(), "DONE"),
    ):
        with pytest.raises(LeaseLost):
            write()
    assert store.rows(key()) == [] and store.games(key()) == []


def test_a_chunk_replaces_what_stands_after_its_start(store: Store) -> None:
    claim(store)
    for chunk, resume in (
        (rows(0, 3), Resume(3, 3, "a")),
        (rows(3, 3), Resume(6, 6, "b")),
        (rows(0, 2), Resume(2, 2, "c")),
    ):
        store.commit(key(), chunk, "f" * 64, resume, Meter(), 0.0)
    assert [row.position for row in store.rows(key())] == [0, 1]
    assert store.games(key())[0].resume == Resume(2, 2, "c")
    assert store.image_files(key()) == [(0, 0, 2, "f" * 64)]


def test_rerun_all_starts_again_and_failed_takes_only_the_failed(store: Store) -> None:
    claim(store)
    store.commit(key(), rows(0, 2), "f" * 64, Resume(2, 2, ""), Meter(), 0.0)
    store.finish(key(), "FAILED", "why", "trace")
    assert claim(store) is Claim.FINISHED
    assert claim(store, "failed") is Claim.MINE and store.rows(key()) == []
    store.finish(key(), "DONE")
    assert claim(store, "failed") is Claim.FINISHED and claim(store, "all") is Claim.MINE


def test_rows_of_another_environment_are_not_mixed(store: Store) -> None:
    claim(store)
    store.release(key())
    other = {"environment": {"torch": "2", "device": "cpu"}}
    assert claim(store, provenance=other) is Claim.MINE  # nothing was written yet: the run is the new one's
    store.commit(key(), rows(0, 2), "f" * 64, Resume(2, 2, ""), Meter(), 0.0)
    store.release(key())
    for refuse in (lambda: claim(store), lambda: store.check_resumable(key(), PROVENANCE)):
        with pytest.raises(StoreError, match=r"torch 2 then, 1 now.*--rerun all"):
            refuse()
    store.check_resumable(key(), other)
    assert claim(store, "all") is Claim.MINE
    assert store.find(key()).provenance == PROVENANCE  # type: ignore[union-attr]


def test_a_number_that_is_none_survives(store: Store) -> None:
    claim(store)
    row = replace(ROW, distances={**ROW.distances, "linf": math.nan})
    store.commit(key(), [row], "f" * 64, Resume(1, 1, ""), Meter(), 0.0)
    (row,) = store.rows(key())
    assert math.isnan(row.distances.pop("linf")) and row.distances == {"l2": 0.2, "l0": 1.0}


def test_a_run_is_named_by_a_unique_prefix(store: Store) -> None:
    claim(store)
    assert store.resolve(key()[:6]).key == key()
    with pytest.raises(UnknownName):
        store.resolve("0000000000")
    for wrong in ("abc", "zzzz", "%", "' OR 1=1"):
        with pytest.raises(StoreError, match="is no run"):
            store.resolve(wrong)


def test_the_tables_are_those_of_the_migrations(tmp_path: Path) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    engine = connect(parse_url(str(tmp_path / "x.db")), create=True)
    assert engine is not None
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Table.metadata) == []


def test_a_database_of_an_older_version_is_brought_up_to_date_with_its_rows(tmp_path: Path) -> None:
    """Also by a command that only reads."""
    from alembic import command

    from bench.store import schema

    path = tmp_path / "old.db"
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        command.upgrade(schema._config(connection), "0001")
        values = {
            "runs": {"key": "ab12", "status": "DONE", "spec": "{}", "defense": "d", "provenance": "{}", "pid": 0},
            "examples": {"run": "ab12", "game": 0, "position": 0, "index": 7, "label": 1, "answer": 1},
            "games": {"run": "ab12", "game": 0, "rows": 1, "served": 1, "digest": "", "done": 1, "flags": "{}"},
        }
        for table, known in values.items():
            columns = {c["name"]: c for c in inspect(connection).get_columns(table)}
            row = {name: 0 if "CHAR" not in str(c["type"]) else "" for name, c in columns.items() if not c["nullable"]}
            row.update(known)
            names = ", ".join(f'"{name}"' for name in row)
            places = ", ".join(f":{name}" for name in row)
            connection.execute(text(f"INSERT INTO {table} ({names}) VALUES ({places})"), row)
        connection.commit()
    engine.dispose()
    store = Store.open(str(path), create=False)
    assert store is not None
    (row,), (game,) = store.rows("ab12"), store.games("ab12")
    assert row.index == 7 and row.neighbours is None and game.background_delays is None
    store.add_to_suite("tiny", ["ab12", "cd34"])
    store.add_to_suite("tiny", ["ab12"])
    assert [record.key for record in store.suite_runs("tiny")] == ["ab12"]  # the other has not begun
    assert store.suite_runs("other") == []


def test_two_processes_may_note_the_same_suite(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    stores = [Store.open(str(tmp_path / "both.db")) for _ in range(4)]
    keys = [f"{i:064x}" for i in range(300)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda store: store.add_to_suite("tiny", keys), stores))
    with create_engine(f"sqlite:///{tmp_path / 'both.db'}").connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM suite_runs")).scalar() == 300


def test_databases_that_are_not_ours_are_refused_and_left_alone(tmp_path: Path) -> None:
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
    assert Store.open(str(tmp_path / "none.db"), create=False) is None and not (tmp_path / "none.db").exists()
    with pytest.raises(StoreError, match="in memory"):
        Store.open("sqlite://")
    with pytest.raises(StoreError, match="no database URL"):
        Store.open("://")
    with pytest.raises(StoreError, match="postgres"):
        Store.open("postgresql+psycopg://localhost/x")
    with pytest.raises(StoreError, match="folder"):
        Store.open(str(text_file / "x.db"))


def test_two_processes_may_make_the_same_database(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    path = str(tmp_path / "both.db")
    with ThreadPoolExecutor(4) as pool:
        stores = list(pool.map(lambda _: Store.open(path), range(4)))
    with create_engine(f"sqlite:///{path}").connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM alembic_version")).scalar() == 1
    assert all(store is not None for store in stores)

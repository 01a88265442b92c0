"""The commands over a PostgreSQL server; the contract of the store over one stands in test_store.py."""

from __future__ import annotations

import math
import sqlite3
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import OperationalError

import bench as lib
from bench.errors import StoreError
from bench.rows import Meter, Resume
from bench.store import Claim, Store
from bench.store import store as store_module
from tests.conftest import Bench, migrate, needed, sets, spec_of
from tests.databases import Server, postgres_server
from tests.store.test_store import PROVENANCE, claim, key, rows

QUICK = sets(base__epochs=3, defense__k=64, defense__epochs=1, defense__bank_steps=3, game__p=2, game__trials=2)


def test_a_server_holds_what_a_file_would(
    bench: Bench, postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Played by two processes, read, verified, pruned; the rows are those of SQLite, but for the seconds."""
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    asked = ("--defense", "regular", "--defense", "rmc", "--attack", "pgd-skip", "-n", 4, *QUICK)
    made = bench("run", *asked, "--workers", 2, "--db", postgres_url, "--json")
    assert made.code == 0 and [row["status"] for row in made.runs] == ["DONE", "DONE"], made.err
    here = bench("run", *asked, "--workers", 1, "--db", "x.db", "--json")

    def rows(url: str) -> dict[str, list[dict[str, object]]]:
        return {
            result.run: [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in result.rows()]
            for result in lib.results(url)
        }

    assert sum(map(len, rows(postgres_url).values())) == 8 and rows(postgres_url) == rows("x.db")
    run = made.runs[1]["run"]
    assert run == here.runs[1]["run"]
    assert bench("verify", run, "--db", postgres_url).code == 0
    assert bench("compare", run, made.runs[0]["run"], "--db", postgres_url).code == 0
    assert bench("leaderboard", "--db", postgres_url, "--out", "site").code == 0
    assert "0 removed" in bench("cache", "prune", "--db", postgres_url).out
    assert [result.run for result in lib.results(postgres_url, defense="rmc")] == [run]


def test_distances_become_columns_and_one_column_again(bench: Bench, postgres_url: str) -> None:
    """Downwards and upwards: no bit of a distance changes, and one that is not finite stays so."""
    url = postgres_url
    asked = ("--defense", "regular", "--attack", "pgd", "-n", 4, *sets(base__epochs=3, attack__steps=2))
    run = bench("run", *asked, "--workers", 1, "--db", url, "--json").runs[0]["run"]
    engine = create_engine(url)
    with engine.begin() as connection:
        values = {"new": '{"linf": null, "l2": 0.30000000000000004, "l0": 2.0}'}
        connection.execute(text("update examples set distances = :new where position = 1"), values)

    def distances() -> list[dict[str, float]]:
        store = Store.open(url)
        assert store is not None
        return [row.distances for row in store.rows(run)]

    before = distances()
    assert len(before) == 4 and math.isnan(before[1]["linf"])
    migrate(url, "0004", upwards=False)
    columns = text("select linf, l2, l0 from examples where run = :run order by position")
    with engine.begin() as connection:
        stored = [tuple(row) for row in connection.execute(columns, {"run": run})]
    assert stored == [
        tuple(None if math.isnan(row[norm]) else row[norm] for norm in ("linf", "l2", "l0")) for row in before
    ]
    migrate(url, "head")
    engine.dispose()
    for was, now in zip(before, distances(), strict=True):
        assert {norm: repr(far) for norm, far in was.items() if norm != "l1"} == {
            n: repr(far) for n, far in now.items()
        }


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server of these tests' own: they stop it."""
    with postgres_server(needed("pg_ctl", folders="/usr/lib/postgresql/*/bin", package="postgresql")) as made:
        yield made


@pytest.fixture
def kept(server: Server) -> Iterator[Store]:
    store = Store.open(server.url.format("postgres"))
    assert store is not None
    claim(store, "all")
    yield store
    store.close()


def commit(store: Store, start: int) -> None:
    meter = replace(Meter(), attack_s=1.0)
    store.commit(key(), rows(start, 2), "f" * 64, Resume(start + 2, start + 2, "a"), meter, 1.0)


def test_a_server_that_is_started_again_loses_nothing(server: Server, kept: Store) -> None:
    commit(kept, 0)
    server.stop()
    back = threading.Timer(1.0, server.start)
    back.start()
    with pytest.warns(UserWarning, match="the database is tried again for 60 s") as told:
        commit(kept, 2)
    back.join()
    assert len(told) == 1
    assert [row.position for row in kept.rows(key())] == [0, 1, 2, 3]
    kept.finish(key(), "DONE")


def test_a_server_that_stays_away_is_told_after_a_while_and_waited_for_once(
    server: Server, kept: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "RECONNECT_S", 0.5)
    commit(kept, 0)
    server.stop()
    try:
        with warnings.catch_warnings(record=True) as told, pytest.raises(StoreError, match="cannot be used"):
            warnings.simplefilter("always")
            commit(kept, 2)
        assert len(told) == 1
        start = time.monotonic()
        with pytest.raises(StoreError, match="cannot be used"):
            kept.release(key())
        assert not kept.heartbeat([key()]) and time.monotonic() - start < 0.5
    finally:
        server.start()
    assert [row.position for row in kept.rows(key())] == [0, 1]


@pytest.mark.parametrize(
    ("raised", "gone"),
    [
        (psycopg.OperationalError("connection refused"), True),
        (psycopg.errors.AdminShutdown(), True),
        (psycopg.errors.CannotConnectNow(), True),
        (psycopg.errors.ConnectionFailure(), True),
        (psycopg.errors.DiskFull(), False),
        (psycopg.errors.QueryCanceled(), False),
        (psycopg.errors.DeadlockDetected(), False),
        (sqlite3.OperationalError("database is locked"), False),
    ],
)
def test_what_is_waited_for_is_a_server_that_is_away_and_nothing_else(raised: Exception, gone: bool) -> None:
    assert store_module._is_gone(OperationalError("select 1", {}, raised)) is gone


@pytest.mark.parametrize("write", ["claim", "commit", "end_game"])
def test_a_server_that_is_lost_after_it_has_committed_commits_once(server: Server, kept: Store, write: str) -> None:
    """The answer of a COMMIT is lost; the transaction is given again, and is there once."""
    if write == "claim":
        kept._write(lambda session: session.execute(text("delete from runs")))
    lost: list[object] = []
    other = create_engine(server.url.format("postgres"))

    def lose(connection: object) -> None:
        if not lost:
            lost.append(connection)
            cursor = connection.connection.cursor()  # type: ignore[attr-defined]
            cursor.execute("commit")
            cursor.execute("select pg_backend_pid()")
            with other.connect() as here:
                here.execute(text("select pg_terminate_backend(:pid)"), {"pid": cursor.fetchone()[0]})

    if write == "end_game":
        commit(kept, 0)
    event.listen(kept._engine, "commit", lose)
    try:
        with pytest.warns(UserWarning, match="tried again"):
            if write == "claim":
                assert kept.claim(spec_of("regular", "clean"), None, PROVENANCE, "missing") is Claim.MINE
            elif write == "commit":
                commit(kept, 0)
            else:
                kept.end_game(key(), 0, Meter(), 1.0)
    finally:
        event.remove(kept._engine, "commit", lose)
        other.dispose()
    assert lost
    if write == "claim":
        commit(kept, 0)
    (game,) = kept.games(key())
    assert [row.position for row in kept.rows(key())] == [0, 1]
    assert game.attack_s == 1.0 and game.wall_s == (2.0 if write == "end_game" else 1.0)


def test_init_makes_the_tables_or_says_what_to_create(bench: Bench, postgres_url: str, tmp_path: Path) -> None:
    missing = postgres_url.replace(postgres_url.partition("@/")[2].partition("?")[0], 'no"where')
    refused = bench("init", "--db", missing)
    assert refused.code == 2 and refused.err.count("\n") == 1 and not list(tmp_path.iterdir())
    assert 'CREATE DATABASE "no""where" OWNER "bench";' in refused.err
    done = bench("init", "--db", postgres_url)
    assert done.code == 0 and "its tables are there" in done.out, done.err
    assert Store.open(postgres_url, create=False) is not None
    assert bench("list", "runs").code == 0  # the file names this database

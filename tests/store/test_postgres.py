"""The commands over a PostgreSQL server; the contract of the store over one stands in test_store.py."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

import bench as lib
from bench.store import Store
from tests.conftest import Bench, migrate, sets

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

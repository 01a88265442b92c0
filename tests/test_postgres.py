"""The commands over a PostgreSQL server; the contract of the store over one stands in test_store.py."""

from __future__ import annotations

from pathlib import Path

import pytest

import bench as lib
from tests.conftest import Bench, sets

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

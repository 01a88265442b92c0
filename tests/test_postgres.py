"""The same on a PostgreSQL server: a real one, of this test's own, on a socket in a folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import bench as lib
from tests.conftest import Bench, needed, sets

QUICK = sets(base__epochs=3, defense__k=64, defense__epochs=1, defense__bank_steps=3, game__p=2, game__trials=2)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The URL of an empty database; the server accepts only whoever may enter its folder."""
    control = needed("pg_ctl", folders="/usr/lib/postgresql/*/bin", package="postgresql")
    folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))  # a socket's path has 107 characters at most
    become: list[str] = []
    if os.geteuid() == 0:  # the server refuses to run as root
        shutil.chown(folder, "postgres", "postgres")
        become = ["runuser", "-u", "postgres", "--"]

    def run(*words: str) -> None:
        subprocess.run([*become, *words], check=True, capture_output=True, cwd=folder)

    run(str(Path(control).with_name("initdb")), "-D", "data", "-A", "trust", "-U", "bench", "--no-sync")
    run(control, "-D", "data", "-w", "-l", "log", "-o", f"-k {folder} -c listen_addresses= -c fsync=off", "start")
    try:
        yield f"postgresql+psycopg://bench@/postgres?host={folder}"
    finally:
        run(control, "-D", "data", "-m", "immediate", "stop")
        shutil.rmtree(folder)


def test_a_server_holds_what_a_file_would(
    bench: Bench, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Played by two processes, read, verified, pruned; the rows are those of SQLite, but for the seconds."""
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    asked = ("--defense", "regular", "--defense", "rmc", "--attack", "pgd-skip", "-n", 4, *QUICK)
    made = bench("run", *asked, "--workers", 2, "--db", server, "--json")
    assert made.code == 0 and [row["status"] for row in made.runs] == ["DONE", "DONE"], made.err
    here = bench("run", *asked, "--workers", 1, "--db", "x.db", "--json")

    def rows(url: str) -> dict[str, list[dict[str, object]]]:
        return {
            result.run: [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in result.rows()]
            for result in lib.results(url)
        }

    assert sum(map(len, rows(server).values())) == 8 and rows(server) == rows("x.db")
    run = made.runs[1]["run"]
    assert run == here.runs[1]["run"]
    assert bench("verify", run, "--db", server).code == 0
    assert bench("compare", run, made.runs[0]["run"], "--db", server).code == 0
    assert bench("leaderboard", "--db", server, "--out", "site").code == 0
    assert "0 removed" in bench("cache", "prune", "--db", server).out
    assert [result.run for result in lib.results(server, defense="rmc")] == [run]

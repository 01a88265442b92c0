"""Same command, same rows: with real processes, real kills, other workers and other chunks.

Each command has a database and states of its own; only trained bases and banks are shared, which no kill may damage.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import QUICK, ROOT, sets

QUICKLY = [part for key, value in QUICK.items() for part in ("--set", f"{key}={value}")]
PROBE = ["--defense", "rmc-plus", "--attack", "pgd-skip-partial", "-n", "48",
         *QUICKLY, *sets(game__p=6, game__trials=12, defense__replace_steps=3)]  # fmt: skip
STREAM = ["--defense", "rmc", "--attack", "pgd", "-n", "60", *QUICKLY]


class Place:
    """A folder with a database and states of its own."""

    def __init__(self, folder: Path, cache_root: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.cache = folder / "files"
        self.cache.mkdir()
        for kind in ("bases", "banks"):
            (cache_root / kind).mkdir(exist_ok=True)
            (self.cache / kind).symlink_to(cache_root / kind)

    def start(self, *args: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "bench.cli.main", "run", "--json", "--db", "bench.db", *args]
        return subprocess.Popen(
            command, cwd=self.folder, env={**os.environ, "BENCH_CACHE": str(self.cache)}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self, *args: str) -> list[dict[str, Any]]:
        process = self.start(*args)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        return [json.loads(line) for line in out.splitlines()]

    def verify(self, run: str, *args: str) -> int:
        """The exit code of `bench verify`."""
        command = [sys.executable, "-m", "bench.cli.main", "verify", run, "--db", "bench.db", *args]
        return subprocess.run(command, cwd=self.folder, env={**os.environ, "BENCH_CACHE": str(self.cache)}).returncode

    def rows(self, db: str = "bench.db") -> dict[str, list[dict[str, Any]]]:
        """Every exported field of every example but seconds, by run."""
        command = [sys.executable, "-m", "bench.cli.main", "export", "--db", db]
        found = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=True)
        runs = json.loads(found.stdout)
        for run in runs:
            for example in run["examples"]:
                del example["seconds"]
        return {run["run"]: run["examples"] for run in runs}

    def count(self) -> int:
        """Committed rows, read from outside while a command writes."""
        if not (self.folder / "bench.db").exists():
            return 0
        try:
            with sqlite3.connect(f"file:{self.folder / 'bench.db'}?mode=ro", uri=True, timeout=30) as connection:
                return int(connection.execute("SELECT count(*) FROM examples").fetchone()[0])
        except sqlite3.OperationalError:  # the tables are not there yet
            return 0


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, cache_root: Path) -> dict[str, Any]:
    """Rows of the uninterrupted commands with one worker."""
    place = Place(tmp_path_factory.mktemp("reference") / "place", cache_root)
    for command in (PROBE, STREAM):
        place.run(*command, "--workers", "1")
    rows = place.rows()
    assert sorted(len(examples) for examples in rows.values()) == [48, 60, 60]
    return rows


@pytest.mark.parametrize("args", [["--workers", "2"], ["--workers", "1", "--set", "runner.chunk=7"]])
def test_workers_and_chunks_change_nothing(tmp_path: Path, cache_root: Path, reference: dict, args: list[str]) -> None:
    place = Place(tmp_path / "place", cache_root)
    for command in (PROBE, STREAM):
        place.run(*command, *args)
    assert place.rows() == reference


@pytest.mark.parametrize(("command", "workers"), [(STREAM, "1"), (STREAM, "2"), (PROBE, "2")])
def test_three_kills_while_rows_are_written_change_nothing(
    tmp_path: Path, cache_root: Path, reference: dict, command: list[str], workers: str
) -> None:
    place = Place(tmp_path / "place", cache_root)
    often = ["--workers", workers, "--set", "runner.chunk=3", "--set", "runner.checkpoint_s=0.05"]
    chance = random.Random(f"{command}{workers}")
    total = 120 if command is STREAM else 48
    kills = 0
    while kills < 3:
        process = place.start(*command, *often)
        children = psutil.Process(process.pid).children
        goal = place.count() + chance.randint(1, total // 6)
        while place.count() < goal and process.poll() is None:
            time.sleep(0.005)
        time.sleep(chance.random() * 0.05)
        assert process.poll() is None, "it ended before it could be killed"
        orphans = children(recursive=True)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.communicate()
        _, alive = psutil.wait_procs(orphans, timeout=10)
        assert not alive, "workers outlive their parent"
        kills += 1
    assert 0 < place.count() < total
    place.run(*command, *often)
    for key, examples in place.rows().items():
        assert examples == reference[key]


def test_two_commands_on_one_database_do_each_run_once(tmp_path: Path, cache_root: Path, reference: dict) -> None:
    place = Place(tmp_path / "place", cache_root)
    both = [place.start(*command, "--workers", "1") for command in (STREAM, STREAM, PROBE)]
    outputs = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0, 0], [err for _, err in outputs]
    assert outputs[0][0] == outputs[1][0]  # both report the same run
    assert place.rows() == reference
    assert sum("waiting" in err for _, err in outputs) >= 1


def test_a_kill_while_a_bank_is_built_leaves_nothing_half_done(tmp_path: Path, cache_root: Path) -> None:
    args = ["--defense", "rmc", "--attack", "clean", "-n", "3", "--workers", "1",
            *sets(base__epochs=8, defense__k=128, defense__bank_steps=90)]  # fmt: skip
    place = Place(tmp_path / "place", cache_root)
    (place.cache / "banks").unlink()
    process = place.start(*args)
    while not list(place.cache.glob("banks/*.part")):
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert not [path for path in place.cache.glob("banks/*") if path.suffix not in (".part", ".lock")]
    (run,) = place.run(*args)
    assert run["status"] == "DONE" and not list(place.cache.glob("banks/*.part"))


def test_a_worker_that_dies_fails_its_run_and_no_other(
    tmp_path: Path, cache_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = tmp_path / "dying.py"
    plugin.write_text(
        "import os, signal\nfrom bench import register_attack\nfrom tests.planted import Declining\n"
        "class Dying(Declining):\n"
        "    def declines(self, threat, facts, info):\n        os.kill(os.getpid(), signal.SIGKILL)\n"
        "register_attack('dying', Dying)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    place = Place(tmp_path / "place", cache_root)
    attacks = ["--attack", "dying", "--attack", "clean", "--plugin", str(plugin)]
    process = place.start("--defense", "regular", *attacks, "-n", "4", "--workers", "2", *sets(base__epochs=8))
    out, err = process.communicate(timeout=120)
    runs = {run["attack"]: run for run in map(json.loads, out.splitlines())}
    assert process.returncode == 1 and runs["clean"]["status"] == "DONE", err
    assert runs["dying"]["status"] == "FAILED" and "signal 9" in runs["dying"]["reason"]

"""A database of 2,000 runs with 100 rows each, and what reading it costs, in seconds of the processor.

    python -m benchmarks.page [--runs 2000] [--rows 100] [--pages]

Two runs are played, a clean one and an attacked one, and copied by SQL under other names, without their summaries: the
first command makes these from the rows, as for a database of an older version. Each figure is that of a process of its
own; beside it stand the ratio to a plain read of the same rows by sqlite3, and its target. --pages: draws a page for
every run too: all of them, and again where nothing, or one run, has changed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.cli.main import call

DEFENSES, ATTACKS, SEEDS = 40, 10, 5

#: what is timed: a program, and its target in seconds at 2,000 runs of 100 rows; None: it has none
READ = "import sqlite3; print(len(sqlite3.connect('rows.db').execute('SELECT * FROM examples').fetchall()))"
COMMAND = "import sys; from bench.cli.main import call; sys.exit(call({words!r}))"
TIMED: dict[str, tuple[str, float | None]] = {
    "plain SQL": (READ, None),
    "bench list runs, no summaries": (COMMAND.format(words=["list", "runs", "--db", "rows.db"]), None),
    "bench list runs": (COMMAND.format(words=["list", "runs", "--db", "rows.db"]), 2.0),
    "bench list runs --limit 20": (COMMAND.format(words=["list", "runs", "--limit", "20", "--db", "rows.db"]), 2.0),
    "bench.load()": ("import bench; print(len(bench.load('rows.db')))", 5.0),
    "bench.results().to_pandas()": ("import bench; print(len(bench.results('rows.db').to_pandas()))", 5.0),
    "bench export --format csv": (
        COMMAND.format(words=["export", "--format", "csv", "--out", "rows.csv", "--db", "rows.db"]), 10.0,
    ),
    "bench leaderboard --runs 0": (COMMAND.format(words=["leaderboard", "--runs", "0", "--db", "rows.db"]), 20.0),
}  # fmt: skip
#: with --pages: a page for every run, in this order
_ALL = ["leaderboard", "--runs", "all", "--db", "rows.db"]
_END = "import sqlite3; held = sqlite3.connect('rows.db'); held.execute('UPDATE runs SET finished = finished + 1 WHERE key = (SELECT min(key) FROM runs WHERE clean_key IS NOT NULL)'); held.commit(); "  # noqa: E501
PAGES = {
    "all pages, one worker": COMMAND.format(words=[*_ALL, "--out", "one", "--workers", "1"]),
    "all pages, two workers": COMMAND.format(words=[*_ALL, "--out", "two", "--workers", "2"]),
    "all pages, nothing changed": COMMAND.format(words=[*_ALL, "--out", "one", "--workers", "1"]),
    "all pages, one run changed": _END + COMMAND.format(words=[*_ALL, "--out", "one", "--workers", "1"]),
}


def copied(database: Path, runs: int) -> None:
    """Copy the two runs of a database until it has `runs`: a clean one for each defense and seed, and its attacks."""
    with contextlib.closing(sqlite3.connect(database)) as held, held:
        held.row_factory = sqlite3.Row
        pair = {row["attack"]: dict(row) for row in held.execute("SELECT * FROM runs")}
        made = 0
        for number in range(DEFENSES * SEEDS):
            defense, seed = f"copy-{number % DEFENSES}", number // DEFENSES
            clean_key = _key("clean", defense, seed)
            for attack in ["clean", *(f"attack-{at}" for at in range(ATTACKS - 1))]:
                if made == runs:
                    return
                source = pair["clean" if attack == "clean" else "pgd"]
                _copy(held, source, _key(attack, defense, seed), defense, attack, seed, clean_key)
                made += 1


def _key(*names: object) -> str:
    return hashlib.sha256(repr(names).encode()).hexdigest()


def _copy(
    held: sqlite3.Connection, source: dict[str, Any], key: str, defense: str, attack: str, seed: int, clean_key: str
) -> None:
    spec = json.loads(source["spec"])
    spec["defense"]["name"] = defense
    spec["attack"]["name"] = attack
    spec["seed"] = seed
    changed = {"key": key, "spec": json.dumps(spec), "defense": defense, "attack": attack}
    changed["clean_key"] = None if attack == "clean" else clean_key
    _insert(held, "runs", {**source, **changed})
    for table in ("games", "examples", "images"):
        columns = [row[1] for row in held.execute(f"PRAGMA table_info({table})") if row[1] != "run"]
        names = ", ".join(f'"{name}"' for name in columns)
        held.execute(f"INSERT INTO {table} (run, {names}) SELECT ?, {names} FROM {table} WHERE run = ?",
                     (key, source["key"]))  # fmt: skip


def _insert(held: sqlite3.Connection, table: str, row: dict[str, Any]) -> None:
    names = ", ".join(f'"{name}"' for name in row)
    held.execute(f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(row))})", tuple(row.values()))


def spent(program: str) -> float:
    """Seconds of the processor of a process that runs this program, and of those that it started."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    there = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    subprocess.run(
        [sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=there
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=DEFENSES * ATTACKS * SEEDS)
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--pages", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        words = ["run", "--defense", "regular", "--attack", "pgd", "-n", str(asked.rows)]
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            quick = ["--set", "base.epochs=2", "--set", "attack.steps=2"]
            code = call([*words, *quick, "--workers", "1", "--db", "rows.db"])
        if code:
            sys.exit("the two runs that are copied did not end")
        copied(Path("rows.db"), asked.runs)
        plain = 0.0
        for name, (program, target) in TIMED.items():
            seconds = spent(program)
            plain = plain or seconds
            goal = "" if target is None else f"; target {target:g} s"
            print(f"{name:<30} {seconds:6.1f} s, {seconds / plain:5.1f} times the plain read{goal}", flush=True)
        for name, program in PAGES.items() if asked.pages else ():
            start = time.perf_counter()
            seconds = spent(program)
            wall = f"{time.perf_counter() - start:.1f} s on the clock"
            print(f"{name:<30} {seconds:6.1f} s, {seconds / plain:5.1f} times the plain read; {wall}", flush=True)


if __name__ == "__main__":
    main()

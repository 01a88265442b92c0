"""Kills at random moments: commands on one database are ended by SIGKILL and begun again, and lose no row.

    python -m benchmarks.soak [--minutes 60] [--kills 20] [--at-once 4] [--seed 0]      (`make soak`)

First four commands are played one after another, undisturbed. Then rounds until the time is up, each in a folder of its
own: the same commands at the same time on one database, some with two workers, while another process reads it. At
random moments one of them is killed, and begins again. At the end every run must be as in the undisturbed play: every
field of every row, and every figure, except seconds. The moments are a function of the seed.

A round fails where a field differs, a run is missing, a command ends by itself with another code than 0, a worker
outlives its command for more than 10 s, or a reader ends with an error or shows a row that the undisturbed play has
not. Exit code 1 where a round failed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import psutil

BENCH = (sys.executable, "-m", "bench.cli.main")
#: small enough that a round takes minutes; rows are committed often, so that kills fall between any two
QUICK = {"base.epochs": 30, "runner.chunk": 3, "runner.checkpoint_s": 0.05}
DEFENSE = {"defense.k": 128, "defense.bank_steps": 5, "defense.epochs": 1}
CELLS: tuple[tuple[Sequence[str], Mapping[str, object]], ...] = (
    (("--defense", "rmc", "--attack", "pgd", "-n", "60"), DEFENSE),
    (("--defense", "rmc", "--attack", "pgd", "--attack", "fgsm", "-n", "60"), DEFENSE),
    (("--defense", "rmc-plus", "--attack", "pgd-skip-partial", "-n", "48"),
     {**DEFENSE, "game.p": 6, "game.trials": 12, "defense.replace_steps": 3}),
    (("--defense", "regular", "--defense", "tent", "--attack", "square", "-n", "60"), {}),
)  # fmt: skip
READS = (("list", "runs", "--json"), ("export",), ("leaderboard", "--out", "site"))
#: what differs between two plays of the same run
CLOCKS = ("seconds", "answer_s", "answer_p95_s", "probe_s")
#: a command that only waits gets no further, and neither does the round
PATIENCE_S = 1800


def commands() -> list[tuple[str, ...]]:
    """The commands of a play, without the number of workers."""
    made = []
    for options, values in CELLS:
        sets = [part for key, value in {**QUICK, **values}.items() for part in ("--set", f"{key}={value}")]
        made.append(("run", "--json", "--db", "bench.db", *options, *sets))
    return made


@dataclass
class Round:
    """What happened in a round; faults: one line each, none where all is as it should be."""

    kills: int = 0
    starts: int = 0
    reads: int = 0
    faults: list[str] = field(default_factory=list)


class Place:
    """A folder in which commands are played; program: what they are commands of."""

    def __init__(self, folder: Path, program: Sequence[str] = BENCH) -> None:
        self.folder = folder
        self.program = program
        folder.mkdir(parents=True, exist_ok=True)

    def start(
        self, command: Sequence[str], out: IO[str] | int = subprocess.PIPE, err: IO[str] | int = subprocess.PIPE
    ) -> subprocess.Popen[str]:
        environment = {name: value for name, value in os.environ.items() if name != "BENCH_CACHE"}
        return subprocess.Popen(
            [*self.program, *command], cwd=self.folder, env={**environment, "OMP_NUM_THREADS": "1"}, text=True,
            stdout=out, stderr=err, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def told(self, command: Sequence[str]) -> tuple[int, str, str]:
        process = self.start(command)
        out, err = process.communicate(timeout=PATIENCE_S)
        return process.returncode, out, err

    def runs(self) -> dict[str, dict[str, Any]]:
        code, out, err = self.told(("export", "--db", "bench.db"))
        if code:
            raise RuntimeError(f"bench export ended with {code}: {err}")
        return by_key(json.loads(out))


def by_key(exported: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Runs of `bench export` by their key, without what a clock says; their rows by trial and position."""
    found = {}
    for run in exported:
        rows = {(row["trial"], row["position"]): without_clocks(row) for row in run["examples"]}
        found[run["run"]] = {**without_clocks(run), "examples": rows}
    return found


def without_clocks(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if name not in CLOCKS}


def differences(expected: dict[str, dict[str, Any]], found: dict[str, dict[str, Any]], whole: bool) -> Iterator[str]:
    """What differs, one line for each field. whole: False while runs are played, of which rows are compared alone."""
    for key in sorted(expected.keys() | found.keys()):
        if key not in expected or (whole and key not in found):
            yield f"{key[:12]} is {'no run of the undisturbed play' if key not in expected else 'missing'}"
            continue
        if key not in found:
            continue
        old, new = expected[key], found[key]
        for name in sorted(old.keys() | new.keys() if whole else ()):
            if name != "examples" and old.get(name) != new.get(name):
                yield f"{key[:12]}: {name} is {new.get(name)!r}, undisturbed {old.get(name)!r}"
        for place in sorted(old["examples"].keys() | new["examples"].keys() if whole else new["examples"]):
            before, after = old["examples"].get(place), new["examples"].get(place)
            if before is None or after is None:
                yield f"{key[:12]} {place}: the row is {'missing' if after is None else 'none of the undisturbed play'}"
                continue
            for name in sorted(before.keys() | after.keys()):
                if before.get(name) != after.get(name) and (whole or name != "clean_answer"):
                    yield f"{key[:12]} {place}: {name} is {after.get(name)!r}, undisturbed {before.get(name)!r}"


class Reader:
    """A process after another that reads the database while it is written."""

    def __init__(self, place: Place, expected: dict[str, dict[str, Any]], told: Round) -> None:
        self._place, self._expected, self._told = place, expected, told
        self._out, self._err = place.folder / "read.out", place.folder / "read.err"
        self._process: subprocess.Popen[str] | None = None

    @property
    def _command(self) -> tuple[str, ...]:
        return READS[self._told.reads % len(READS)]

    def turn(self) -> None:
        """Look at the reading process, and start the next one when it has ended."""
        if self._process is not None and self._process.poll() is None:
            return
        self.end()
        with self._out.open("w") as out, self._err.open("w") as err:
            self._process = self._place.start((*self._command, "--db", "bench.db"), out, err)

    def end(self) -> None:
        """Wait for the reading process, and judge what it said."""
        if self._process is None:
            return
        code, out, err = self._process.wait(timeout=PATIENCE_S), self._out.read_text(), self._err.read_text()
        command, self._process = self._command, None
        self._told.reads += 1
        if code and not (code == 2 and "There is no database" in err):
            self._told.faults.append(f"a reader: bench {command[0]} ended with {code}: {err.strip()[-300:]}")
        elif not code and command[0] == "export":
            self._told.faults += differences(self._expected, by_key(json.loads(out)), whole=False)


def disturbed(
    place: Place, plays: Sequence[Sequence[str]], chance: random.Random, kills: int, mean_s: float, at_once: int,
    read: Reader | None, told: Round,
) -> None:  # fmt: skip
    """Play commands at the same time, and kill one of them after random times of this mean, until all have ended."""

    def said(number: int) -> Path:
        return place.folder / f"command-{number + 1}.err"

    waiting = list(range(len(plays)))
    alive: dict[int, subprocess.Popen[str]] = {}
    next_kill, began = time.monotonic() + chance.uniform(0, 2 * mean_s), time.monotonic()
    try:
        while waiting or alive:
            while waiting and len(alive) < at_once:
                number = waiting.pop(0)
                workers = chance.choice("112") if at_once > 2 else "1"
                with said(number).open("w") as err:  # a pipe that nobody reads would stop it
                    alive[number] = place.start((*plays[number], "--workers", workers), subprocess.DEVNULL, err)
                told.starts += 1
            if read is not None:
                read.turn()
            for number in [number for number, process in alive.items() if process.poll() is not None]:
                code = alive.pop(number).returncode
                if code:
                    told.faults.append(
                        f"command {number + 1} ended with {code}: {said(number).read_text().strip()[-300:]}"
                    )
            if alive and told.kills < kills and time.monotonic() >= next_kill:
                number = chance.choice(sorted(alive))
                told.kills += 1
                told.faults += killed(alive.pop(number))
                waiting.append(number)
                next_kill = time.monotonic() + chance.uniform(0, 2 * mean_s)
            if time.monotonic() - began > PATIENCE_S:
                late = sorted(number + 1 for number in alive)
                told.faults.append(f"commands {late} are not done after {PATIENCE_S} s")
                return
            time.sleep(0.05)
    finally:  # also where somebody interrupts it
        for process in alive.values():
            killed(process)


def killed(process: subprocess.Popen[str]) -> list[str]:
    """Kill a command; a line for each of its workers that outlives it."""
    try:
        workers = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        workers = []
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, left = psutil.wait_procs(workers, timeout=10)
    return [f"worker {worker.pid} outlives its command by 10 s" for worker in left]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0, help="no round begins after this time (default: 60)")
    parser.add_argument("--kills", type=int, default=20, help="kills in a round (default: 20)")
    parser.add_argument("--at-once", type=int, default=4, help="commands at the same time (default: 4)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    given = parser.parse_args(arguments)
    began, plays, rounds = time.monotonic(), commands(), list[Round]()
    with tempfile.TemporaryDirectory(prefix="bench-soak-") as folder:
        calm = Place(Path(folder) / "undisturbed")
        for play in plays:
            code, _, err = calm.told((*play, "--workers", "1"))
            if code:
                print(f"undisturbed, bench {' '.join(play)} ended with {code}: {err.strip()[-300:]}", file=sys.stderr)
                return 2
        expected, calm_s = calm.runs(), time.monotonic() - began
        rows = sum(len(run["examples"]) for run in expected.values())
        print(f"undisturbed: {len(plays)} commands, {len(expected)} runs, {rows} rows, {calm_s:.0f} s", flush=True)
        while not rounds or time.monotonic() - began < 60 * given.minutes:
            told, number = Round(), len(rounds)
            place = Place(Path(folder) / f"round-{number + 1}")
            chance, start = random.Random(f"{given.seed} {number}"), time.monotonic()
            reader = Reader(place, expected, told)
            mean_s = calm_s / (1.5 * max(given.kills, 1))
            disturbed(place, plays, chance, given.kills, mean_s, given.at_once, reader, told)
            reader.end()
            told.faults += differences(expected, place.runs(), whole=True)
            rounds.append(told)
            print(
                f"round {number + 1}: {told.kills} kills, {told.starts} starts, {told.reads} reads, {rows} rows, "
                f"{time.monotonic() - start:.0f} s: {f'{len(told.faults)} faults' if told.faults else 'equal rows'}",
                flush=True,
            )
            for fault in told.faults[:20]:
                print(f"  {fault}", flush=True)
    bad = sum(bool(told.faults) for told in rounds)
    print(
        f"{'FAIL' if bad else 'PASS'} {len(rounds)} rounds, {sum(told.kills for told in rounds)} kills, "
        f"{sum(told.reads for told in rounds)} reads, {time.monotonic() - began:.0f} s: {bad} rounds with faults"
    )
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())

"""What the engine on Ray costs, each with its target. `python -m benchmarks.cluster`; it needs the extra `ray`.

- a job that does nothing, on Ray (at most 20 ms)
- this process's work for a committed chunk (at most 2 ms) and for a run, with 1000 workers of a recorded stream of
  events; and from these the number of workers that one command serves with games of 1 s, 10 s and 10 min
- the suite `smoke` with two workers on Ray against two processes of the pool (at most 1.1)
- bytes that travel for a game of RMC on digits between machines that share no folder
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.config import load
from bench.environment import one_thread
from bench.execution.engine import InlineEngine
from bench.execution.jobs import ChunkDone, Done, Event, Job
from bench.execution.runner import Runner
from bench.execution.session import open_session
from bench.planning.facts import facts_of
from bench.planning.plan import Planned, plan
from bench.planning.requests import Request
from bench.rows import Meter, Resume, Row
from bench.settings import Settings
from bench.store import Store

#: simulated workers, and chunks of a game that each plays
WORKERS, CHUNKS = 1000, 4


def planned(defense: str, attack: str, n: int, **sets: Any) -> list[Planned]:
    request = Request((defense,), (attack,), n=n, sets={key.replace("__", "."): value for key, value in sets.items()})
    return plan([request], load(None), facts_of(None))


def settings_in(folder: Path, **values: Any) -> Settings:
    return replace(Settings(folder / "files", None, "cpu", None, (), 50, 5.0, 1), **values)


def job_overhead_ms(folder: Path) -> float:
    """Milliseconds of a job on Ray more than in this process: the same question 200 times, one after the other."""
    from bench.execution.ray_engine import RayEngine

    job = Job("declines", planned("regular", "clean", 2)[0].spec)

    def seconds(engine: Any, count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            engine.submit(job)
            while engine.busy():
                for _, event in engine.events(1.0):
                    assert event == Done(None), event
        return (time.perf_counter() - start) / count

    here = InlineEngine(settings_in(folder), lambda job, line: None)
    ray = RayEngine(settings_in(folder, engine="ray", workers=1), lambda job, line: None)
    try:
        seconds(here, 1)
        seconds(ray, 3)
        return (seconds(ray, 200) - seconds(here, 200)) * 1000
    finally:
        ray.stop()


class Recorded:
    """An engine whose workers give a recorded stream of events: what is left is the work of this process."""

    def __init__(self, rows: list[Row], chunks: int) -> None:
        self._rows = rows
        self._chunks = chunks
        self._placed: dict[int, list[Row]] = {}
        self._jobs: deque[tuple[Job, int]] = deque()

    def room(self) -> bool:
        return len(self._jobs) < WORKERS

    def submit(self, job: Job) -> None:
        self._jobs.append((job, 0))

    def busy(self) -> bool:
        return bool(self._jobs)

    def events(self, timeout_s: float) -> Iterator[tuple[Job, Event]]:
        for _ in range(len(self._jobs)):
            job, done = self._jobs.popleft()
            if job.kind != "game":
                yield job, Done([] if job.kind in ("pieces", "look") else None)
            elif done == self._chunks:
                yield job, Done((Meter(), 0.0))
            else:
                start, count = done * len(self._rows), len(self._rows)
                if start not in self._placed:
                    self._placed[start] = [replace(row, position=start + i) for i, row in enumerate(self._rows)]
                rows = self._placed[start]
                self._jobs.append((job, done + 1))
                yield job, ChunkDone(rows, "f" * 64, Resume(start + count, start + count, "a" * 64), Meter(), 0.1)

    def stop(self) -> None:
        self._jobs.clear()


def driver_ms(folder: Path) -> tuple[float, float]:
    """CPU milliseconds of this process for a committed chunk of 50 rows, and for a run besides, with 1000 workers."""
    (item,) = planned("regular", "clean", 50)
    rows = one_chunk(folder, item)
    few, many = (played_s(folder / f"{chunks}.db", rows, chunks) / WORKERS for chunks in (1, CHUNKS))
    chunk = (many - few) / (CHUNKS - 1)
    return chunk * 1000, (few - chunk) * 1000


def played_s(database: Path, rows: list[Row], chunks: int) -> float:
    """CPU seconds of a command over 1000 runs of one game of so many chunks, one at each worker."""
    request = Request(("rmc",), ("pgd",), n=50 * chunks, seeds=tuple(range(WORKERS)))
    runs = [replace(item, clean=None) for item in plan([request], load(None), facts_of(None))]
    store = Store.open(str(database))
    assert store is not None
    runner = Runner(store, settings_in(database.parent))
    runner._engine = Recorded(rows, chunks)
    start = time.process_time()
    runner.run(runs)
    spent = time.process_time() - start
    done = sum(record.status == "DONE" for record in store.runs())
    assert done == WORKERS, f"{done} of {WORKERS} runs are DONE"
    return spent


def one_chunk(folder: Path, item: Planned) -> list[Row]:
    """50 real rows."""
    engine = InlineEngine(settings_in(folder), lambda job, line: None)
    engine.submit(Job("game", item.spec, 0))
    return next(event.rows for _, event in engine.events(1.0) if isinstance(event, ChunkDone))


def smoke_s(folder: Path, *how: str) -> float:
    """Wall seconds of the suite `smoke` with two workers, with all artefacts to make."""
    folder.mkdir()
    command = [
        sys.executable,
        "-m",
        "bench.cli.main",
        "run",
        "--suite",
        "smoke",
        "--workers",
        "2",
        "--db",
        "s.db",
        *how,
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    start = time.perf_counter()
    subprocess.run([*command, *how], cwd=folder, env=environment, check=True, capture_output=True)
    return time.perf_counter() - start


def moved_bytes(folder: Path) -> tuple[int, int]:
    """Bytes to a worker on another machine, and from it, for a run of RMC of one game with 20 rows on digits."""
    import ray
    from ray.cluster_utils import Cluster

    from bench.execution.ray_engine import RayEngine

    (folder / "other").mkdir()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    cluster.add_node(num_cpus=1, env_vars={"BENCH_CACHE": str(folder / "other")})
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    try:
        store = Store.open(str(folder / "moved.db"))
        assert store is not None
        settings = settings_in(folder / "here", engine="ray", workers=1)
        runner = Runner(store, settings)
        engine = runner._engine = RayEngine(settings, lambda job, line: None)
        counted: list[tuple[int, int]] = []
        stop = engine.stop
        engine.stop = lambda: (counted.append(engine.moved()), stop())[0]  # type: ignore[method-assign, assignment]
        runner.run([replace(item, clean=None) for item in planned("rmc", "pgd", 20)])
        return counted[0]
    finally:
        ray.shutdown()
        cluster.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="job,chunk,moved,smoke", help="which of job,chunk,moved,smoke")
    only = parser.parse_args().only.split(",")
    one_thread()
    open_session(None)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "chunk" in only:
            chunk, run = driver_ms(folder)
            print(f"this process's work: {chunk:.2f} ms of CPU for a chunk (at most 2), {run:.2f} ms for a run besides")
            for length_s, what in ((1, "1 s"), (10, "10 s"), (600, "10 min")):
                chunks = max(1, length_s / 5)  # one each 5 s: see runner.checkpoint_s
                served = length_s / (chunks * chunk + run) * 1000
                print(f"  workers that one command serves with games of {what}, each a run: {served:.0f}", flush=True)
            found |= {"chunk_ms": chunk, "run_ms": run}
        if "job" in only:
            found["job_ms"] = job_overhead_ms(folder)
            print(f"a job on Ray: {found['job_ms']:.1f} ms more than here (at most 20)", flush=True)
        if "moved" in only:
            there, back = moved_bytes(folder)
            print(f"a run of RMC on digits, 20 rows: {there / 1e6:.2f} MB to the worker, {back / 1e6:.2f} MB back")
            found["moved"] = [there, back]
        if "smoke" in only:
            pool = smoke_s(folder / "pool")
            ray_s = smoke_s(folder / "ray", "--engine", "ray")
            print(
                f"smoke, two workers: {ray_s:.0f} s on Ray, {pool:.0f} s in processes: {ray_s / pool:.2f} (at most 1.1)"
            )
            found["smoke"] = ray_s / pool
    print(json.dumps(found))


if __name__ == "__main__":
    main()

"""Who does the jobs: the pool and this process do the same, and neither hangs on what a job does."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from bench.contracts import BLOCK
from bench.execution.engine import InlineEngine, PoolEngine
from bench.execution.jobs import ChunkDone, Done, Failed, Job
from bench.execution.processes import WORKER_ENVIRONMENT
from bench.game.resources import Resources, RunResources
from tests.conftest import QUICK, spec_of


def silent(job: Job, line: str) -> None:
    """Watches nothing."""


def finish(engine: InlineEngine | PoolEngine, job: Job) -> list[object]:
    """All events of a job."""
    engine.submit(job)
    said: list[object] = []
    deadline = time.monotonic() + 60
    while engine.busy() and time.monotonic() < deadline:
        said += [event for _, event in engine.events(0.1)]
    return said


def test_both_engines_give_the_same_rows(resources: Resources) -> None:
    job = Job("game", spec_of("regular", "pgd", n=5), 0)
    found = []
    for engine in (InlineEngine(resources.settings, silent), PoolEngine(resources.settings, 1, silent)):
        events = finish(engine, job)
        engine.stop()
        chunks = [event for event in events if isinstance(event, ChunkDone)]
        assert isinstance(events[-1], Done) and len(chunks) == 1
        found.append([replace(row, attack_s=0.0, defense_s=0.0) for row in chunks[0].rows])
    assert found[0] == found[1] and len(found[0]) == 5 < BLOCK


@pytest.mark.parametrize("make", [InlineEngine, lambda settings, watch: PoolEngine(settings, 1, watch)])
def test_progress_is_told_while_the_job_goes_on(resources: Resources, make, tmp_path) -> None:
    told: list[tuple[str, str]] = []
    settings = replace(resources.settings, cache_root=tmp_path)  # nothing is there: the base is trained now
    engine = make(settings, lambda job, line: told.append((job.kind, line)))
    try:
        (event,) = finish(engine, Job("base", spec_of("regular", "clean", base__epochs=2)))
    finally:
        engine.stop()
    assert event == Done(None) and told and {kind for kind, _ in told} == {"base"}


def test_a_worker_that_died_while_idle_is_replaced(resources: Resources) -> None:
    engine = PoolEngine(resources.settings, 1, silent)
    try:
        job = Job("declines", spec_of("regular", "clean"))
        assert finish(engine, job) == [Done(None)]
        engine._workers[0].process.kill()
        engine._workers[0].process.join()
        assert finish(engine, job) == [Done(None)]
    finally:
        engine.stop()


def test_a_job_that_leaves_the_program_fails(resources: Resources, monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(self: RunResources) -> None:
        raise SystemExit(3)

    monkeypatch.setattr(RunResources, "base", leave)
    (event,) = finish(InlineEngine(resources.settings, silent), Job("base", spec_of("regular", "clean")))
    assert isinstance(event, Failed) and event.reason == "SystemExit: 3"


def test_workers_start_with_one_thread_whatever_the_shell_says(
    resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not Path("/proc/self/environ").exists():  # elsewhere no process can look at another's environment
        pytest.skip("needs /proc to see how a process was started")
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    engine = PoolEngine(resources.settings, 1, silent)
    pid = engine._workers[0].process.pid
    try:
        finish(engine, Job("declines", spec_of("regular", "clean")))  # it has started once it has done something
        started_with = Path(f"/proc/{pid}/environ").read_bytes()
    finally:
        engine.stop()
    variables = dict(item.split(b"=", 1) for item in started_with.split(b"\0") if b"=" in item)
    assert variables[b"OMP_NUM_THREADS"] == WORKER_ENVIRONMENT["OMP_NUM_THREADS"].encode()
    assert os.environ["OMP_NUM_THREADS"] == "8"


def test_a_finished_stream_leaves_no_state_behind(bench, tmp_path, monkeypatch: pytest.MonkeyPatch, cache_root) -> None:
    own = tmp_path / "own"
    own.mkdir()
    for kind in ("bases", "banks"):
        (cache_root / kind).mkdir(exist_ok=True)
        (own / kind).symlink_to(cache_root / kind)
    monkeypatch.setenv("BENCH_CACHE", str(own))
    quick = [part for key, value in QUICK.items() for part in ("--set", f"{key}={value}")]
    often = ("--set", "runner.chunk=2", "--workers", 1)
    assert bench("run", "--defense", "rmc", "--attack", "pgd", "-n", 7, *often, *quick).code == 0
    assert list((own / "states").iterdir()) == []

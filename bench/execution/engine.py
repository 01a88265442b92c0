"""Engines do jobs: in this process, or in a pool of processes with one thread each. Any number gives the same rows.

An engine takes jobs while it has room, and reports events. Another engine is a class with the five methods of `Engine`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Protocol

from bench import plugins
from bench.deadline import in_units
from bench.environment import one_thread
from bench.execution.jobs import End, Event, Failed, Job, Lost, Progress, perform
from bench.execution.processes import signal_name, start
from bench.game.resources import Resources
from bench.settings import Settings

#: seconds that idle workers have to end by themselves
LEAVE_S = 1.0

#: is called with a job and one line of its progress
Watch = Callable[[Job, str], None]


class Engine(Protocol):
    """Takes jobs and reports their events."""

    def room(self) -> bool:
        """Whether another job can start now."""

    def submit(self, job: Job) -> None:
        """Start a job; only while there is room."""

    def busy(self) -> bool:
        """Whether any job is under way."""

    def events(self, timeout_s: float) -> Iterator[tuple[Job, Event]]:
        """The events of jobs since the last call, without progress. Waits at most this long where there is none."""

    def stop(self) -> None:
        """End all jobs at once."""


class InlineEngine:
    """Does one job at a time in this process: nothing has to start, and a debugger works."""

    def __init__(self, settings: Settings, watch: Watch) -> None:
        one_thread()
        self._resources = Resources(settings, self._report)
        self._watch = watch
        self._job: Job | None = None

    def _report(self, line: str) -> None:
        if self._job is not None:
            self._watch(self._job, line)

    def room(self) -> bool:
        return self._job is None

    def submit(self, job: Job) -> None:
        self._job = job

    def busy(self) -> bool:
        return self._job is not None

    def events(self, timeout_s: float) -> Iterator[tuple[Job, Event]]:
        job = self._job
        if job is None:
            time.sleep(timeout_s)
            return
        for event in perform(self._resources, job):
            if isinstance(event, End):
                self._job = None
            yield job, event

    def stop(self) -> None:
        self._job = None


class PoolEngine:
    """A pool of `count` worker processes of one thread each."""

    def __init__(self, settings: Settings, count: int, watch: Watch) -> None:
        self._settings = settings
        self._watch = watch
        self._workers = [_Worker(settings) for _ in range(count)]

    def room(self) -> bool:
        return any(worker.job is None for worker in self._workers)

    def submit(self, job: Job) -> None:
        worker = next(worker for worker in self._workers if worker.job is None)
        try:
            worker.start(job)
        except OSError:  # the worker died while it was idle
            self._replace(worker)
            self.submit(job)

    def busy(self) -> bool:
        return any(worker.job is not None for worker in self._workers)

    def events(self, timeout_s: float) -> Iterator[tuple[Job, Event]]:
        working = {worker.connection: worker for worker in self._workers if worker.job is not None}
        if not working:
            time.sleep(timeout_s)
            return
        said = wait(list(working), timeout_s)
        for connection in said:
            assert isinstance(connection, Connection)
            worker = working[connection]
            job = worker.job
            assert job is not None
            worker.heard = time.monotonic()
            try:
                event: Event = connection.recv()
            except (EOFError, ConnectionResetError):
                event = self._replace(worker)
            if isinstance(event, Progress):
                self._watch(job, event.text)
                continue
            if isinstance(event, End):
                worker.job = None
            yield job, event
        for connection, worker in working.items():
            job = worker.job
            if job is not None and connection not in said and worker.silent_s() > self._settings.silent_s:
                worker.process.kill()
                self._replace(worker)
                limit = in_units(self._settings.silent_s)
                yield job, Failed(f"No row and no line of progress came for {limit} (runner.limit).", "")

    def _replace(self, dead: _Worker) -> Failed | Lost:
        """Put a new worker in the place of one that has ended; how that one's job has ended with it."""
        dead.process.join(5)
        code = dead.process.exitcode
        self._workers[self._workers.index(dead)] = _Worker(self._settings)
        if code is not None and code < 0:
            return Lost(f"The worker process was ended by {signal_name(-code)}")
        return Failed(f"The worker process ended itself with exit code {code}, in the middle of its work.", "")

    def stop(self) -> None:
        for worker in self._workers:
            worker.leave()
        deadline = time.monotonic() + LEAVE_S
        for worker in self._workers:
            worker.process.join(max(deadline - time.monotonic(), 0))
            worker.process.kill()
        for worker in self._workers:
            worker.process.join(5)


class _Worker:
    """One process of the pool, and the job that it does."""

    def __init__(self, settings: Settings) -> None:
        self.job: Job | None = None
        #: when it last said something, or was given a job
        self.heard = time.monotonic()
        self.process, self.connection = start(_work, settings)

    def start(self, job: Job) -> None:
        self.connection.send(job)
        self.job = job
        self.heard = time.monotonic()

    def leave(self) -> None:
        """End it: at once in the middle of a job, else as it likes, so that it can give back what it holds."""
        if self.job is not None:
            self.process.kill()
        self.connection.close()

    def silent_s(self) -> float:
        """Seconds since it last said something."""
        return time.monotonic() - self.heard


def _work(connection: Connection, settings: Settings) -> None:
    """The loop of a worker process: receive a job, do it, send its events."""
    plugins.load_all(settings.config, settings.plugins)

    def emit(event: Event) -> None:
        connection.send(event)

    last = [0.0]

    def report(line: str) -> None:
        if time.monotonic() - last[0] > 0.2:  # a reader does not see more lines
            last[0] = time.monotonic()
            emit(Progress(line))

    resources = Resources(settings, report)
    while True:
        try:
            for event in perform(resources, connection.recv()):
                emit(event)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return


def make_engine(settings: Settings, watch: Watch, announce: Callable[[str], None]) -> Engine:
    """The engine for these settings.

    watch     is called with each line of progress at once
    announce  is called with what concerns all runs, such as the number of workers where that changes
    """
    if settings.engine == "ray":
        from bench.execution.ray_engine import RayEngine

        return RayEngine(settings, watch, announce)
    if settings.workers == 1 and not settings.apart:
        return InlineEngine(settings, watch)
    return PoolEngine(settings, settings.workers, watch)

"""Plays planned runs: claims them in the store, turns them into jobs, commits rows. A failed run stops no other."""

from __future__ import annotations

import threading
import time
import traceback
from collections import Counter, defaultdict, deque
from collections.abc import Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from bench import registry
from bench.analysis.summaries import keep
from bench.cache import Cache, full_disk, is_full
from bench.deadline import KILL_S
from bench.environment import collect
from bench.errors import DiskError, StoreError, one_line
from bench.execution.engine import Engine, make_engine
from bench.execution.jobs import ChunkDone, Done, Event, Failed, Job, Lost, Stopped, Unwritten
from bench.game.blocks import Blocks
from bench.game.start import is_foreign
from bench.planning.plan import Planned
from bench.planning.rules import rows_of
from bench.planning.spec import RunSpec
from bench.rows import Resume, Row, is_right
from bench.settings import Settings
from bench.store import Claim, LeaseLost, Store
from bench.tiers import shared_store

#: seconds between two heartbeats, and between two looks at runs that others hold
HEARTBEAT_S = 5.0
POLL_S = 0.25


class Listener:
    """Receives the progress of runs. Subclass it; each method may be left as it is, which does nothing."""

    def started(self, spec: RunSpec, rows: int) -> None:
        """A run starts or goes on; `rows` of its rows are there already."""

    def progress(self, spec: RunSpec, text: str) -> None:
        """One line of progress of a run."""

    def note(self, spec: RunSpec, text: str) -> None:
        """What must not be missed: of the run's number, found before its first row, or that a worker was lost."""

    def chunk(self, spec: RunSpec, rows: int, right: int | None) -> None:
        """`rows` more rows of a run are committed; `right` of them count as robust (None: not known yet)."""

    def waiting(self, spec: RunSpec) -> None:
        """Another process plays the run; this one waits for its end."""

    def finished(self, spec: RunSpec, status: str, reason: str) -> None:
        """A run has ended as DONE, SKIPPED or FAILED: here, in another process, or in an earlier command."""

    def whole(self, text: str) -> None:
        """How far all that was asked for is, in words."""


Script = Generator[list[Job], list[Any], None]


class _Skipped(Exception):
    """The attack declines to run; the message is its reason."""


def script(spec: RunSpec, open_games: Iterable[Job], looks: bool = False) -> Script:
    """The jobs of a run, stage by stage. A stage starts when all results of the stage before it are there.

    looks: the network or the plug-in is looked at before the first row (see `bench.game.start`)
    """
    (reason,) = yield [Job("declines", spec)]
    if reason:
        raise _Skipped(str(reason))
    yield [Job("base", spec)] if spec.surrogate is None else [Job("base", spec), Job("base", spec.attacked_base)]
    (missing,) = yield [Job("pieces", spec)]
    if missing:
        yield [Job("piece", spec, name) for name in dict.fromkeys(missing)]
    yield [Job("fit", spec)]
    if looks:
        yield [Job("look", spec)]
    if spec.crafted_on_base:
        blocks = Blocks(spec.places, registry.attacks.load(spec.attack.name).block)
        yield [Job("craft", spec, block) for block in range(len(blocks))]
    yield list(open_games)


@dataclass(eq=False)
class _Active:
    """A run that is being played: its script, the jobs of its current stage, and their results by key."""

    spec: RunSpec
    clean_key: str | None
    script: Script
    stage: list[Job] = field(default_factory=list)
    results: dict[str, Any] = field(default_factory=dict)
    #: answers of the paired clean run by (game, index), once they were needed
    clean: dict[tuple[int, int], int] = field(default_factory=dict)


class Runner:
    """Claims and executes planned runs against one store."""

    def __init__(
        self, store: Store, settings: Settings, rerun: str = "missing", listener: Listener | None = None
    ) -> None:
        self._store = store
        self._settings = settings
        self._rerun = rerun
        self._listener = listener or Listener()
        self._provenance = collect(settings.device)
        self._engine: Engine | None = None
        self._active: dict[str, _Active] = {}
        #: the runs whose stage has a job, by its key: several may wait for one
        self._waiters: dict[str, list[_Active]] = {}
        self._in_flight: dict[str, Job] = {}
        self._ready: deque[Job] = deque()
        #: runs that another process plays now, each with the key of its paired clean run
        self._held: deque[tuple[RunSpec, str | None]] = deque()
        #: keys of `clean` runs that come with attacked ones, which are looked at for both
        self._pairs: set[str] = set()
        self._cache = Cache(settings.cache_root, tier=shared_store(settings.store))
        #: digest of the state after a game's last commit
        self._passed: dict[str, str] = {}
        #: seconds of a game's last commit; the next commit adds them to the game
        self._late_s: dict[str, float] = {}
        #: how many workers were lost with each job
        self._lost: Counter[str] = Counter()
        #: runs that have ended before their clean run has, by the key of that: their summaries wait for it
        self._unpaired: dict[str, list[str]] = defaultdict(list)

    def run(self, planned: list[Planned]) -> None:
        """Play every planned run, and the `clean` runs that they are paired with, to its end.

        Once the time limit has passed, nothing new starts, and this returns as soon as all jobs have stopped.
        """
        specs: dict[str, tuple[RunSpec, str | None]] = {}
        for item in planned:
            if item.clean is not None:
                specs.setdefault(item.clean.key, (item.clean, None))
            specs.setdefault(item.spec.key, (item.spec, None if item.clean is None else item.clean.key))
        if self._rerun != "all":
            for key in specs:
                self._store.check_resumable(key, self._provenance)
        self._pairs = {item.clean.key for item in planned if item.clean is not None} - {
            item.spec.key for item in planned
        }
        pending = deque(specs.values())
        held = self._held
        stop = threading.Event()
        beat = threading.Thread(target=self._beat, args=(stop,), daemon=True)
        beat.start()
        try:
            while (pending or held or self._active) and not self._out_of_time():
                while self._has_room() and (job := self._next(pending, held)) is not None:
                    self._submit(job)
                if self._engine is not None and self._engine.busy():
                    for done, event in self._engine.events(POLL_S):
                        self._handle(done, event)
                elif self._engine is not None and not self._engine.room():  # its workers have yet to come
                    list(self._engine.events(POLL_S))
                elif not pending and held:
                    stop.wait(POLL_S)
                    pending.extend(held)
                    held.clear()
        finally:
            stop.set()
            beat.join()
            if self._engine is not None:
                self._engine.stop()
            for key in self._active:
                with suppress(StoreError, DiskError):  # what ended the command; the lease ends with this process
                    self._store.release(key)

    def _out_of_time(self) -> bool:
        """The time limit has passed, and no job is under way that may still stop by itself."""
        deadline = self._settings.deadline
        idle = self._engine is None or not self._engine.busy()
        return deadline.passed() and (idle or deadline.passed(KILL_S))

    def _beat(self, stop: threading.Event) -> None:
        while not stop.wait(HEARTBEAT_S):
            keys = list(self._active)
            if keys:
                self._store.heartbeat(keys)

    # -- starting ---------------------------------------------------------------------------------------------------

    def _has_room(self) -> bool:
        """Another job may start now."""
        return not self._settings.deadline.passed() and (self._engine is None or self._engine.room())

    def _submit(self, job: Job) -> None:
        if self._engine is None:  # no process starts before there is work
            self._engine = make_engine(self._settings, self._progress, self._listener.whole)
        self._engine.submit(job)

    def _next(self, pending: deque[tuple[RunSpec, str | None]], held: deque[tuple[RunSpec, str | None]]) -> Job | None:
        """A job that can start now: of a run that is being played, else of the next run that can be claimed."""
        while not self._ready and pending:
            spec, clean_key = pending.popleft()
            claim = self._store.claim(spec, clean_key, self._provenance, self._rerun)
            if claim is Claim.HELD:
                self._listener.waiting(spec)
                held.append((spec, clean_key))
            elif claim is Claim.FINISHED:
                self._report_end(spec)
            else:
                self._start(spec, clean_key)
        return self._ready.popleft() if self._ready else None

    def _report_end(self, spec: RunSpec) -> None:
        record = self._store.find(spec.key)
        assert record is not None
        self._listener.finished(spec, record.status, record.reason)

    def _start(self, spec: RunSpec, clean_key: str | None) -> None:
        known = {game.game: game for game in self._store.games(spec.key)}
        games = []
        for number in range(spec.game.games):
            game = known.get(number)
            if game is None:
                games.append(Job("game", spec, number))
            elif not game.done:
                games.append(Job("game", spec, number, game.resume))
        self._listener.started(spec, sum(game.rows for game in known.values()))
        looks = is_foreign(spec) and spec.key not in self._pairs
        active = _Active(spec, clean_key, script(spec, games, looks))
        self._active[spec.key] = active
        self._advance(active, None)

    def _advance(self, active: _Active, results: list[Any] | None) -> None:
        """Start a run's next stage. After the last stage the run is DONE."""
        try:
            stage = next(active.script) if results is None else active.script.send(results)
            while not stage:
                stage = active.script.send([])
        except StopIteration:
            self._end(active, "DONE")
            return
        except _Skipped as reason:
            self._end(active, "SKIPPED", one_line(reason))
            return
        except Exception as error:  # a plug-in's declarations (its pieces, its block) may be wrong in any way
            self._end(active, "FAILED", f"{type(error).__name__}: {one_line(error)}", traceback.format_exc())
            return
        self._set_stage(active, stage)
        new = [job for job in stage if job.key not in self._in_flight]
        for job in new:
            self._in_flight[job.key] = job
            self._ready.append(job)
        if new:  # else another run waits for the same and has said so
            text = self._starting() or ("" if new[0].kind == "declines" else new[0].in_words())
            if text:
                self._listener.progress(active.spec, text)

    def _starting(self) -> str:
        """That processes are started first, which takes seconds; "" where they run or none is needed."""
        if self._engine is None and self._settings.engine == "ray":
            return "starting workers on Ray"
        if self._engine is not None or (self._settings.workers == 1 and not self._settings.apart):
            return ""
        count = self._settings.workers
        return f"starting {count} {'processes' if count > 1 else 'process'}, to load the libraries"

    def _set_stage(self, active: _Active, stage: list[Job]) -> None:
        """The jobs that a run waits for now."""
        for job in active.stage:
            runs = self._waiters.get(job.key, [])
            if active in runs:
                runs.remove(active)
            if not runs:
                self._waiters.pop(job.key, None)
        active.stage, active.results = stage, {}
        for job in stage:
            runs = self._waiters.setdefault(job.key, [])
            if active not in runs:
                runs.append(active)

    # -- what comes back --------------------------------------------------------------------------------------------

    def _waiting(self, job: Job) -> list[_Active]:
        """The runs that wait for a job."""
        return list(self._waiters.get(job.key, ()))

    def _progress(self, job: Job, text: str) -> None:
        for run in self._waiting(job)[:1]:  # several runs may wait for one job: one of them reports it
            self._listener.progress(run.spec, job.in_words(text))

    def _handle(self, job: Job, event: Event) -> None:
        waiting = self._waiting(job)
        match event:
            case ChunkDone():
                for run in waiting:
                    self._commit(run, job, event)
            case Done(value):
                self._in_flight.pop(job.key, None)
                for run in waiting:
                    self._job_done(run, job, value)
            case Stopped():
                self._in_flight.pop(job.key, None)
            case Lost(reason):
                self._in_flight.pop(job.key, None)
                self._begin_again(job, waiting, reason)
            case Unwritten(error):
                raise error
            case Failed(reason, detail):
                self._in_flight.pop(job.key, None)
                for run in waiting:
                    self._end(run, "FAILED", reason, detail)

    def _begin_again(self, job: Job, waiting: list[_Active], reason: str) -> None:
        """A job was lost with its worker: it goes on in another from what is stored of it, or has failed in the end."""
        root = self._settings.cache_root
        if root.exists() and is_full(root):  # a plug-in that writes into a map of a file there is ended by a signal
            raise full_disk(root)
        self._lost[job.key] += 1
        if self._lost[job.key] > self._settings.retries:
            count = self._settings.retries
            before = {0: "", 1: "; so was the one before it"}.get(count, f"; so were the {count} before it")
            for run in waiting:
                self._end(run, "FAILED", f"{reason}{before}.")
            return
        if not waiting:
            return
        if job.kind == "game":
            known = {game.game: game.resume for game in self._store.games(job.spec.key)}
            job = replace(job, resume=known.get(job.argument, Resume()))
        self._in_flight[job.key] = job
        self._ready.append(job)
        self._listener.note(waiting[0].spec, f"{reason}; its work goes on in another one")

    def _commit(self, run: _Active, job: Job, chunk: ChunkDone) -> None:
        key = run.spec.key
        start, late_s = time.perf_counter(), self._late_s.pop(job.key, 0.0)
        try:
            self._store.commit(key, chunk.rows, chunk.file, chunk.resume, chunk.meter, chunk.wall_s + late_s)
        except LeaseLost:
            self._drop(run)
            return
        self._late_s[job.key] = time.perf_counter() - start
        self._pass(job, chunk.resume.digest)
        self._listener.chunk(run.spec, len(chunk.rows), self._count_right(run, chunk.rows))

    def _count_right(self, run: _Active, rows: list[Row]) -> int | None:
        """How many of these examples count as robust; None where a clean answer that decides it is not there yet."""
        spec = run.spec
        if spec.threat.share:  # rows that are not judged are among them
            return None
        if not spec.minimal and not spec.abstains:
            return sum(row.answer == row.label for row in rows)
        if not run.clean and run.clean_key is not None:
            ((_, answers),) = self._store.facts([run.clean_key], ("game", "index", "answer"))
            run.clean = {(game, index): answer for game, index, answer in answers}
        budget = (spec.threat.norm, spec.threat.eps) if spec.minimal else None
        outcomes = [is_right(row, budget, run.clean.get((row.game, row.index))) for row in rows]
        return None if None in outcomes else sum(map(bool, outcomes))

    def _pass(self, job: Job, digest: str) -> None:
        """A game has moved on to the state `digest` ("": its end). The state before is removed."""
        before = self._passed.get(job.key, job.resume.digest)
        if before and before != digest:
            self._cache.drop("states", before)
        self._passed[job.key] = digest

    def _job_done(self, run: _Active, job: Job, value: Any) -> None:
        if job.kind == "game":
            try:
                meter, wall_s = value
                self._store.end_game(run.spec.key, job.argument, meter, wall_s + self._late_s.pop(job.key, 0.0))
            except LeaseLost:
                self._drop(run)
                return
        if job.kind == "look":
            for text in value:
                self._listener.note(run.spec, text)
        run.results[job.key] = value
        if len(run.results) == len(run.stage):
            self._advance(run, [run.results[other.key] for other in run.stage])

    def _end(self, run: _Active, status: str, reason: str = "", detail: str = "") -> None:
        spec = run.spec
        if status == "DONE":
            written, expected = self._store.count_rows(spec.key), rows_of(spec)
            if written != expected:
                status, reason = "FAILED", f"{written} rows were written, but the run has {expected}"
        try:
            self._store.finish(spec.key, status, reason, detail)
        except LeaseLost:
            self._drop(run)
            return
        self._keep_summary(run)
        self._forget(run)
        self._listener.finished(spec, status, reason)

    def _keep_summary(self, run: _Active) -> None:
        """Store the summary of a run that has ended, and of those that have waited for it as their clean run."""
        keys = [run.spec.key, *self._unpaired.pop(run.spec.key, ())]
        records = [record for key in keys if (record := self._store.find(key)) is not None]
        kept = keep(self._store, records)
        if run.spec.key not in kept and run.clean_key is not None:
            self._unpaired[run.clean_key].append(run.spec.key)

    def _drop(self, run: _Active) -> None:
        """Another process has taken the run over: leave it to that process, and wait for its end."""
        self._forget(run)
        self._held.append((run.spec, run.clean_key))
        self._listener.progress(run.spec, "taken over by another process")

    def _forget(self, run: _Active) -> None:
        self._active.pop(run.spec.key, None)
        self._set_stage(run, [])
        for job in [job for job in self._ready if job.key not in self._waiters]:
            self._ready.remove(job)
            self._in_flight.pop(job.key, None)


def run_all(
    planned: list[Planned],
    store: Store,
    settings: Settings,
    rerun: str = "missing",
    listener: Listener | None = None,
) -> None:
    """Play all planned runs to their end: see `Runner`."""
    if rerun not in ("missing", "failed", "all"):
        raise StoreError(f"rerun is {rerun!r}; it must be missing, failed or all.")
    Runner(store, settings, rerun, listener).run(planned)

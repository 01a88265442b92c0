"""The units of work, and what it takes to do one. A job is a value: any process, here or elsewhere, can do it."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from bench.errors import one_line
from bench.game import protocols
from bench.game.resources import Workbench
from bench.planning.spec import RunSpec
from bench.rows import Meter, Row

JobKind = Literal["declines", "base", "pieces", "piece", "fit", "craft", "game"]


@dataclass(frozen=True)
class Job:
    """kind and argument: base; pieces -> names; piece: its name; fit; craft: its block; game: its number and resume."""

    kind: JobKind
    spec: RunSpec
    argument: Any = None
    resume: protocols.Resume = field(default_factory=protocols.Resume)

    @property
    def key(self) -> str:
        """Equal for jobs that make the same thing, so that it is made once."""
        owner = {"base": self.spec.base_key, "craft": f"{self.spec.craft_key}{self.spec.indices}"}
        if self.kind in ("pieces", "piece", "fit"):
            return f"{self.kind} {self.spec.fit_key} {self.argument}"
        return f"{self.kind} {owner.get(self.kind, self.spec.key)} {self.argument}"


# What a job says while it is done, and at its end.


@dataclass(frozen=True)
class Progress:
    """One line of what is going on."""

    text: str


@dataclass(frozen=True)
class ChunkDone:
    """Rows to commit; their images are already in the cache under `file`, the state after them under its digest."""

    rows: list[Row]
    file: str
    resume: protocols.Resume
    meter: Meter
    wall_s: float


@dataclass(frozen=True)
class Done:
    """The job's result."""

    value: Any = None


@dataclass(frozen=True)
class Failed:
    """The job cannot be done: the reason on one line, and the traceback."""

    reason: str
    detail: str


Event = Progress | ChunkDone | Done | Failed
Emit = Callable[[Event], None]


def perform(bench: Workbench, job: Job, emit: Emit) -> None:
    """Do a job; what a plug-in raises becomes `Failed`, so that it ends its own run and no other."""
    try:
        emit(Done(_ACTIONS[job.kind](bench, job, emit)))
    except (Exception, SystemExit) as error:  # the boundary to foreign code: the reason is stored with the run
        emit(Failed(f"{type(error).__name__}: {one_line(error)}", traceback.format_exc()))


def _declines(bench: Workbench, job: Job, emit: Emit) -> str | None:
    return bench.declined(job.spec)


def _base(bench: Workbench, job: Job, emit: Emit) -> None:
    bench.base(job.spec)


def _pieces(bench: Workbench, job: Job, emit: Emit) -> list[str]:
    return bench.missing_pieces(job.spec)


def _piece(bench: Workbench, job: Job, emit: Emit) -> None:
    bench.prepare(job.spec, job.argument)


def _fit(bench: Workbench, job: Job, emit: Emit) -> None:
    bench.fitted(job.spec)


def _craft(bench: Workbench, job: Job, emit: Emit) -> None:
    bench.crafted(job.spec, job.argument)


def _game(bench: Workbench, job: Job, emit: Emit) -> tuple[Meter, float]:
    """Play a game; returns what was spent after its last chunk. The clock starts once the defense is loaded."""
    bench.fitted(job.spec)
    start, meter = time.perf_counter(), Meter()
    for chunk in protocols.play(bench, job.spec, job.argument, job.resume, meter):
        file = bench.cache.put_tensors("images", {"images": chunk.images})
        now = time.perf_counter()
        resume = protocols.Resume(chunk.rows[-1].position + 1, chunk.served, chunk.digest)
        emit(ChunkDone(chunk.rows, file, resume, replace(meter), now - start))
        start, meter.attack_s, meter.defense_s = now, 0.0, 0.0
    return meter, time.perf_counter() - start


_ACTIONS: dict[str, Callable[[Workbench, Job, Emit], Any]] = {
    "declines": _declines,
    "base": _base,
    "pieces": _pieces,
    "piece": _piece,
    "fit": _fit,
    "craft": _craft,
    "game": _game,
}

"""Jobs, the units of work, and how one is done. A job is a value: any process, here or elsewhere, can do it."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from bench.deadline import OutOfTime
from bench.errors import DiskError, one_line
from bench.game.resources import Resources, RunResources
from bench.interrupts import from_outside
from bench.planning.rules import rules_of
from bench.planning.spec import RunSpec
from bench.rows import Meter, Resume, Row
from bench.tiers import Unreachable

#: what a job does before it says more itself
_DOING = {
    "declines": "asking whether the attack applies",
    "base": "reading or training",
    "pieces": "listing what the defense needs",
    "piece": "preparing the defense",
    "fit": "fitting the defense",
    "look": "looking at the network",
    "craft": "crafting on the base",
    "game": "playing",
}

JobKind = Literal["declines", "base", "pieces", "piece", "fit", "look", "craft", "game"]


@dataclass(frozen=True)
class Job:
    """One step of a run.

    | kind     | argument        | what is done                                        | result           |
    |----------|-----------------|-----------------------------------------------------|------------------|
    | declines |                 | ask whether the attack can run against the defense  | the reason or "" |
    | base     |                 | train the base                                      |                  |
    | pieces   |                 | list parts of the defense's preparation             | their names      |
    | piece    | its name        | make one of these parts                             |                  |
    | fit      |                 | fit the defense                                     |                  |
    | look     |                 | look at a network or plug-in before its first row   | lines to report  |
    | craft    | number of block | craft a block of images on the base                 |                  |
    | game     | its number      | play a game, from where `resume` says               | meter, seconds   |
    """

    kind: JobKind
    spec: RunSpec
    argument: Any = None
    resume: Resume = field(default_factory=Resume)

    def in_words(self, text: str = "") -> str:
        """What the job does, for a line of progress; text: the line of the job itself, which a reader sees after it.

        It is short and begins with what matters: a terminal of 80 columns shows about thirty characters.
        """
        name = "base" if self.kind == "base" else ""
        if self.kind == "game" and self.spec.game.games > 1:
            name = f"game {self.argument + 1}/{self.spec.game.games}"
        doing = text or _DOING[self.kind]
        return f"{name}: {doing}" if name else doing

    @cached_property  # a command asks for it several times with each event
    def key(self) -> str:
        """Equal for two jobs that make the same thing; it is then made once, for both."""
        match self.kind:
            case "base":
                owner = self.spec.base_key
            case "pieces" | "piece" | "fit":
                owner = self.spec.fit_key
            case "craft":
                owner = f"{self.spec.craft_key}{self.spec.indices}"
            case _:
                owner = self.spec.key
        return f"{self.kind} {owner} {self.argument}"


# The events of a job: on the way, and at its end.


@dataclass(frozen=True)
class Progress:
    """One line of progress."""

    text: str


@dataclass(frozen=True)
class ChunkDone:
    """Rows to commit. The cache already holds their images (`file`) and the state after them (its digest)."""

    rows: list[Row]
    file: str
    resume: Resume
    meter: Meter
    wall_s: float


@dataclass(frozen=True)
class Done:
    """The job's result."""

    value: Any = None


@dataclass(frozen=True)
class Failed:
    """The job failed: the reason in one line, and the traceback."""

    reason: str
    detail: str


@dataclass(frozen=True)
class Lost:
    """The worker was ended from outside, or by a fault of its native code, or lost what it needs. The job may begin
    again."""

    reason: str


@dataclass(frozen=True)
class Stopped:
    """The command's time limit has passed. The job is not done; what it stored on the way is there for the next one."""


@dataclass(frozen=True)
class Unwritten:
    """This machine cannot keep what the job makes: a full disk, a folder of somebody else's. It is no run's fault."""

    error: DiskError


Event = Progress | ChunkDone | Done | Failed | Lost | Stopped | Unwritten
#: what a job ends with
End = Done | Failed | Lost | Stopped | Unwritten


class _Closing(BaseException):
    """Nobody asks for more events of a job. Unlike GeneratorExit, no plug-in raises it."""


def perform(resources: Resources, job: Job) -> Iterator[Event]:
    """Do a job, and yield its events; the last one is `Done`, `Failed` or `Stopped`.

    An exception of a plug-in becomes `Failed`, so that it ends its own run and no other. Progress is not among the
    events: it goes to `resources.report` at once, also in the middle of a long step.
    """
    try:
        if job.kind == "game":
            value: Any = yield from _game(resources, job)
        else:
            value = _STEPS[job.kind](resources.of(job.spec), job.argument)
    except _Closing:
        return
    except OutOfTime:
        yield Stopped()
    except Unreachable as error:  # the store of several machines, which may answer later
        yield Lost(one_line(error))
    except DiskError as error:
        yield Unwritten(error)
    except BaseException as error:  # a plug-in may raise anything: the reason is stored with the run
        if from_outside(error):
            raise
        yield Failed(f"{type(error).__name__}: {one_line(error)}", traceback.format_exc())
    else:
        yield Done(value)


#: how each kind of job before the games is done, given what the run needs and the job's argument
_STEPS: dict[str, Callable[[RunResources, Any], Any]] = {
    "declines": lambda run, _: run.declined(),
    "base": lambda run, _: _made(run.base()),
    "pieces": lambda run, _: run.missing_pieces(),
    "piece": lambda run, name: run.make_piece(name),
    "fit": lambda run, _: _made(run.fitted()),
    "look": lambda run, _: run.findings(),
    "craft": lambda run, block: _made(run.crafted_on_base(block)),
}


def _made(thing: object) -> None:
    """No result: what was made stays in this process, or in the cache."""


def _game(resources: Resources, job: Job) -> Generator[Event, None, tuple[Meter, float]]:
    """Play a game; returns what was spent after its last chunk. The clock starts when the defense is fitted."""
    run = resources.of(job.spec)
    run.fitted()
    with run.shared_kept():
        start = time.perf_counter()
        match = resources.match(job.spec, job.argument)
        for chunk in rules_of(job.spec.game).play(match, job.resume):
            file = resources.cache.put_tensors("images", {"images": chunk.images})
            wall_s = time.perf_counter() - start
            resume = Resume(chunk.rows[-1].position + 1, chunk.served, chunk.digest)
            try:
                yield ChunkDone(chunk.rows, file, resume, replace(match.meter), wall_s)
            except GeneratorExit:
                raise _Closing from None
            start, match.meter.attack_s, match.meter.defense_s = time.perf_counter(), 0.0, 0.0
            resources.settings.deadline.stop()
        wall_s = time.perf_counter() - start
    return match.meter, wall_s

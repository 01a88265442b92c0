"""How far an audit is, and how long it still takes: estimates that learn from the steps that were played."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from bench.deadline import in_units
from bench.execution.runner import Listener
from bench.planning.rules import rows_of
from bench.planning.spec import RunSpec

#: the share of all estimated work that is played before the pace here is believed
ENOUGH = 0.02


class Remaining(Listener):
    """Passes all that happens on to another listener, and tells it how far the whole is.

    expected  seconds of one process that each run is estimated to take, by its key, and those of what comes after the
              runs, by any other name. It may change while the audit goes on
    workers   processes that play at the same time: what a second of estimate takes before anything is known
    """

    def __init__(
        self,
        listener: Listener,
        expected: Mapping[str, float],
        workers: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._listener, self._expected, self._workers, self._clock = listener, expected, workers, clock
        self._began: float | None = None
        #: the share of each run that was played here, and the runs that have ended
        self._played: dict[str, float] = {}
        self._ended: set[str] = set()

    def left_s(self) -> float:
        """Seconds that are left: the estimated ones, times what a second of estimate has taken so far."""
        expected = self._expected
        done = sum(seconds for key, seconds in expected.items() if key in self._ended)
        played = sum(seconds * self._played.get(key, 0.0) for key, seconds in expected.items())
        open_ = sum(s * self._played.get(key, 0.0) for key, s in expected.items() if key not in self._ended)
        rest = sum(expected.values()) - done - open_
        if self._began is None or played <= ENOUGH * sum(expected.values()):
            return rest / self._workers
        return rest * (self._clock() - self._began) / played

    def tell(self) -> None:
        """Say how many steps have ended, and what is left."""
        ended = sum(key in self._ended for key in self._expected)
        self._listener.whole(f"{ended} of {len(self._expected)} steps, about {in_units(self.left_s())} left")

    def started(self, spec: RunSpec, rows: int) -> None:
        if self._began is None:
            self._began = self._clock()
        self._listener.started(spec, rows)

    def progress(self, spec: RunSpec, text: str) -> None:
        self._listener.progress(spec, text)

    def note(self, spec: RunSpec, text: str) -> None:
        self._listener.note(spec, text)

    def chunk(self, spec: RunSpec, rows: int, right: int | None) -> None:
        self._played[spec.key] = self._played.get(spec.key, 0.0) + rows / rows_of(spec)
        self._listener.chunk(spec, rows, right)

    def waiting(self, spec: RunSpec) -> None:
        self._listener.waiting(spec)

    def finished(self, spec: RunSpec, status: str, reason: str) -> None:
        self._ended.add(spec.key)
        self._listener.finished(spec, status, reason)
        if spec.key in self._expected:
            self.tell()

"""Progress as plain lines; and the count and the title of a run, which other forms of progress use too."""

from __future__ import annotations

import time
import warnings
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TextIO

from bench.execution.runner import Listener
from bench.planning.rules import rows_of
from bench.planning.spec import RunSpec


class Tally:
    """The rows of a run that this process has seen, and how many of them were answered right.

    start  rows that were there before; total: rows of the finished run
    """

    def __init__(self, start: int, total: int) -> None:
        self.start, self.total = start, total
        self.rows = 0
        self.right: int | None = 0

    def add(self, rows: int, right: int | None) -> None:
        self.rows += rows
        self.right = None if right is None or self.right is None else self.right + right

    def share(self) -> str:
        """The accuracy so far; "" where it is not known."""
        return f"{self.right / self.rows:.1%}" if self.rows and self.right is not None else ""

    def text(self) -> str:
        return f"accuracy {self.share()}" if self.share() else ""


def title(spec: RunSpec) -> str:
    """The names of a run, for a line of progress."""
    return f"{spec.defense.name} / {spec.attack.name} / {spec.dataset.name} / eps {spec.threat.eps:.3g}"


class PlainListener(Listener, AbstractContextManager["PlainListener"]):
    """Lines with the time since the start. While a run goes on, it gets at most one line of each kind a second."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._begin = time.monotonic()
        self._tallies: dict[str, Tally] = {}
        self._said: dict[tuple[str, str], float] = {}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def _line(self, spec: RunSpec, text: str) -> None:
        passed = time.monotonic() - self._begin
        self._stream.write(f"[{passed:7.1f} s] {spec.key[:8]} {title(spec)}: {text}\n")
        self._stream.flush()

    def _seldom(self, spec: RunSpec, text: str, kind: str = "progress") -> None:
        """A line, unless one of this kind and run was written less than a second ago."""
        now = time.monotonic()
        if now - self._said.get((spec.key, kind), 0.0) >= 1.0:
            self._said[spec.key, kind] = now
            self._line(spec, text)

    def whole(self, text: str) -> None:
        self._stream.write(f"[{time.monotonic() - self._begin:7.1f} s] {text}\n")
        self._stream.flush()

    def started(self, spec: RunSpec, rows: int) -> None:
        self._tallies[spec.key] = Tally(rows, rows_of(spec))
        self._line(spec, f"goes on after {rows} rows" if rows else "started")

    def progress(self, spec: RunSpec, text: str) -> None:
        self._seldom(spec, text)

    def note(self, spec: RunSpec, text: str) -> None:
        self._line(spec, f"note: {text}")

    def chunk(self, spec: RunSpec, rows: int, right: int | None) -> None:
        tally = self._tallies[spec.key]
        tally.add(rows, right)
        parts = [f"{tally.start + tally.rows}/{tally.total} rows", tally.text()]
        self._seldom(spec, ", ".join(part for part in parts if part), "rows")

    def waiting(self, spec: RunSpec) -> None:
        if (spec.key, "waiting") not in self._said:
            self._seldom(spec, "another process does it; waiting", "waiting")

    def finished(self, spec: RunSpec, status: str, reason: str) -> None:
        self._line(spec, f"{status}{f': {reason}' if reason else ''}")


class Warner(Listener):
    """Gives what a reader must know as warnings; says nothing else."""

    def note(self, spec: RunSpec, text: str) -> None:
        warnings.warn(f"{title(spec)}: {text}", stacklevel=2)

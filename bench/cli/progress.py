"""Progress on standard error: bars with ETA and running accuracy on a terminal, plain lines elsewhere."""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from bench.progress import PlainListener, Tally, title
from bench.runner import Listener, expected_rows
from bench.spec import RunSpec


def make_listener(stream: TextIO) -> PlainListener | BarListener:
    """The listener that fits the stream."""
    return BarListener(stream) if stream.isatty() else PlainListener(stream)


class BarListener(Listener, AbstractContextManager["BarListener"]):
    """A bar per run."""

    def __init__(self, stream: TextIO) -> None:
        console = Console(file=stream)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[text]}"),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {}
        self._tallies: dict[str, Tally] = {}

    def __enter__(self) -> BarListener:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def _task(self, spec: RunSpec) -> TaskID:
        if spec.key not in self._tasks:
            self._tasks[spec.key] = self._bars.add_task(escape(title(spec)), total=expected_rows(spec), text="")
        return self._tasks[spec.key]

    def started(self, spec: RunSpec, rows: int) -> None:
        self._tallies[spec.key] = Tally(rows, expected_rows(spec))
        self._bars.update(self._task(spec), completed=rows)

    def progress(self, spec: RunSpec, text: str) -> None:
        self._bars.update(self._task(spec), text=escape(text))

    def chunk(self, spec: RunSpec, rows: int, right: int) -> None:
        tally = self._tallies[spec.key]
        tally.rows, tally.right = tally.rows + rows, tally.right + right
        self._bars.update(self._task(spec), advance=rows, text=tally.text())

    def waiting(self, spec: RunSpec) -> None:
        self._bars.update(self._task(spec), text="another process does it; waiting")

    def finished(self, spec: RunSpec, status: str, reason: str) -> None:
        task = self._task(spec)
        total = expected_rows(spec) if status == "DONE" else None
        self._bars.update(task, completed=total, text=status + (f": {escape(reason)}" if reason else ""))

"""Progress on standard error: bars with the time left and the running accuracy on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from bench.execution.progress import PlainListener, Tally, title
from bench.execution.runner import Listener
from bench.planning.plan import Planned
from bench.planning.rules import rows_of
from bench.planning.spec import RunSpec

#: runs that have a line of their own on a terminal: those with the latest news
MOST_LINES = 8


def make_listener(stream: TextIO, planned: Sequence[Planned] = ()) -> PlainListener | BarListener:
    """The listener that fits the stream; planned: what is asked for, where that is known."""
    return BarListener(Console(file=stream), planned) if stream.isatty() else PlainListener(stream)


def short_title(spec: RunSpec, task: bool = True) -> str:
    """A run in fewer words, what tells it from others first. task: with dataset and radius."""
    base = "" if spec.base.name in ("regular", spec.defense.name) else f" on {spec.base.name}"
    names = f"{spec.defense.name}{base} / {spec.attack.name}"
    return f"{names} / {spec.dataset.name} {spec.threat.eps:.3g}" if task else names


class BarListener(Listener, AbstractContextManager["BarListener"]):
    """A line for all that is asked for, and one for each run that has news; how a run ended is printed above, once.

    planned  what is asked for, with the `clean` runs that belong to it; () where that is not known beforehand
    """

    def __init__(self, console: Console, planned: Sequence[Planned] = ()) -> None:
        self._console = console
        specs = [spec for item in planned for spec in (item.clean, item.spec) if spec is not None]
        #: rows of each run that has not ended which are to be played here, as far as that is known
        self._open = {spec.key: rows_of(spec) for spec in specs}
        self._asked, self._ended, self._played = len(self._open), 0, 0
        attacked = {(s.dataset.name, s.threat.norm, s.threat.eps) for s in specs if s.attack.name != "clean"}
        #: whether dataset and radius tell one line from another
        self._tasks = len(attacked) != 1
        self._tallies: dict[str, Tally] = {}
        #: the latest of `whole`
        self._told = ""
        #: the lines of runs with news, the latest last; a run that waits for a base or a bank has no line yet
        self._lines: dict[str, TaskID] = {}
        self._whole = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TextColumn("rows"),
            TimeRemainingColumn(),
            TextColumn("left"),
            speed_estimate_period=300.0,
        )
        self._runs = Progress(
            TextColumn("{task.description}", markup=False, table_column=_cut(max_width=console.width * 2 // 5)),
            BarColumn(bar_width=6),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[accuracy]}", justify="right", table_column=Column(min_width=6)),
            TextColumn("{task.fields[doing]}", markup=False, table_column=_cut(ratio=1)),
            expand=True,
            speed_estimate_period=120.0,
        )
        self._all = self._whole.add_task("", visible=self._asked > 1)
        self._count()
        self._live = Live(console=console, get_renderable=self.screen, refresh_per_second=5)

    def screen(self) -> Group:
        """The present content of the terminal."""
        return Group(*([Text(self._told)] if self._told else []), self._whole, self._runs)

    def __enter__(self) -> BarListener:
        self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def _count(self) -> None:
        """Bring the line for all runs up to date: its rows are those that are played here."""
        self._whole.update(
            self._all,
            description=f"{self._ended}/{self._asked} runs",
            completed=self._played,
            total=self._played + sum(self._open.values()),
        )

    def _line(self, spec: RunSpec) -> TaskID:
        """The line of a run that has news; the lines of those with the oldest news make room."""
        line = self._lines.pop(spec.key, None)
        if line is None:
            done = self._tallies[spec.key].start if spec.key in self._tallies else 0
            line = self._runs.add_task(
                short_title(spec, self._tasks), total=rows_of(spec), completed=done, accuracy="", doing=""
            )
        self._lines[spec.key] = line
        for age, other in enumerate(reversed(self._lines.values())):
            self._runs.update(other, visible=age < MOST_LINES)
        return line

    def whole(self, text: str) -> None:
        self._told = text

    def started(self, spec: RunSpec, rows: int) -> None:
        self._tallies[spec.key] = Tally(rows, rows_of(spec))
        self._open[spec.key] = rows_of(spec) - rows
        self._count()

    def progress(self, spec: RunSpec, text: str) -> None:
        self._runs.update(self._line(spec), doing=text)

    def note(self, spec: RunSpec, text: str) -> None:
        self._runs.console.print(f"note on {title(spec)}: {text}", style="yellow", markup=False, highlight=False)

    def chunk(self, spec: RunSpec, rows: int, right: int | None) -> None:
        tally = self._tallies[spec.key]
        tally.add(rows, right)
        self._played += rows
        self._open[spec.key] = max(self._open.get(spec.key, 0) - rows, 0)
        self._runs.update(self._line(spec), advance=rows, accuracy=tally.share(), doing="")
        self._count()

    def waiting(self, spec: RunSpec) -> None:
        self._open[spec.key] = 0  # they are played elsewhere
        self._runs.update(self._line(spec), doing="another process does it")
        self._count()

    def finished(self, spec: RunSpec, status: str, reason: str) -> None:
        line, tally = self._lines.pop(spec.key, None), self._tallies.pop(spec.key, None)
        if line is not None:
            self._runs.remove_task(line)
        self._open[spec.key] = 0
        self._ended += 1
        if (
            line is not None or tally is not None or status != "DONE"
        ):  # of what was done long ago only the number is news
            parts = [status, tally.text() if tally else "", reason]
            told = f"{spec.key[:8]} {title(spec)}: {', '.join(part for part in parts if part)}"
            self._console.print(told, markup=False, highlight=False)
        self._count()


def _cut(**width: int) -> Column:
    """A column of this width, which cuts off what does not fit."""
    return Column(no_wrap=True, overflow="ellipsis", **width)  # type: ignore[arg-type]

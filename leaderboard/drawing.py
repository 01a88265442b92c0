"""Draws pages of runs: in this process, or in several at once. The pages are the same, and so is what goes wrong."""

from __future__ import annotations

import builtins
import sys
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from bench import plugins
from bench.errors import BenchError, EngineError
from bench.execution.processes import signal_name, start
from leaderboard.content import RunSummary
from leaderboard.kept import Page, write_page
from leaderboard.page import Site
from leaderboard.run_page import RunDetails, render_run_page
from leaderboard.stored_runs import Place, StoredRuns, knows_own_names

#: pages for each process: to start one takes as long as to draw some of them
WORTH = 300
#: pages that a process has before it
AHEAD = 8

#: a run, and the digest of what its page is made from
Task = tuple[RunSummary, str]


@dataclass(frozen=True)
class Painter:
    """Draws pages of runs into the folder of a site. details: reads what a page needs."""

    details: Callable[[RunSummary], RunDetails]
    site: Site
    folder: Path

    def draw(self, task: Task) -> Page:
        """Draw and write the page of one run."""
        run, inputs = task
        text = render_run_page(run, self.details(run), self.site)
        uses = self.details.uses() if isinstance(self.details, StoredRuns) else {}
        return Page(inputs, write_page(self.folder, run.page, text), uses)

    def draw_all(self, tasks: Sequence[Task], workers: int) -> Iterator[tuple[RunSummary, Page]]:
        """The pages as they are done. workers: processes that draw, at most."""
        count = min(workers, len(tasks) // WORTH)
        if count > 1 and isinstance(self.details, StoredRuns) and not knows_own_names():
            helpers = [_Helper(self.details.place, self.site, self.folder) for _ in range(count - 1)]
            yield from _draw_together(self, tasks, helpers)
        else:
            yield from ((task[0], self.draw(task)) for task in tasks)


def _draw_together(
    painter: Painter, tasks: Sequence[Task], helpers: Sequence[_Helper]
) -> Iterator[tuple[RunSummary, Page]]:
    """The pages as they are done, drawn by this process and by helpers.

    Where one cannot be drawn, all before it are drawn first: of several errors the first one is raised, as if this
    process had met it.
    """
    left = deque(range(len(tasks)))
    failed: dict[int, BaseException] = {}
    try:
        while True:
            for helper in helpers:
                while left and helper.has_room():
                    helper.give(left.popleft(), tasks)
            done: list[tuple[int, Page | BaseException]] = []
            if left:
                number = left.popleft()
                try:
                    done.append((number, painter.draw(tasks[number])))
                except (Exception, SystemExit) as error:
                    done.append((number, error))
            under_way = min((number for helper in helpers for number in helper.drawing), default=len(tasks))
            if not done and under_way == len(tasks):
                return
            by_connection = {helper.connection: helper for helper in helpers}
            for connection in wait(list(by_connection), timeout=0 if done else None):
                assert isinstance(connection, Connection)
                done += by_connection[connection].said()
            for number, what in done:
                if isinstance(what, Page):
                    yield tasks[number][0], what
                else:
                    failed[number] = what
            if failed:
                left.clear()
                first = min(failed)
                if all(number > first for helper in helpers for number in helper.drawing):
                    raise failed[first]
    finally:
        for helper in helpers:
            helper.stop()


class _Helper:
    """A process that draws pages."""

    def __init__(self, place: Place, site: Site, folder: Path) -> None:
        self._process, self.connection = start(_help, place, site, folder)
        self._folder = folder
        self._ready = False
        #: numbers of the pages before it
        self.drawing: deque[int] = deque()

    def has_room(self) -> bool:
        return self._ready and len(self.drawing) < AHEAD

    def give(self, number: int, tasks: Sequence[Task]) -> None:
        self.drawing.append(number)
        try:
            self.connection.send((number, tasks[number]))
        except OSError:  # it has ended, which its next message says
            self._ready = False

    def said(self) -> list[tuple[int, Page | BaseException]]:
        """What its next message says of pages: number, and the page or what was raised."""
        try:
            message = self.connection.recv()
        except (EOFError, OSError):
            self._process.join(5)
            code = self._process.exitcode or 0
            how = f"was ended by {signal_name(-code)}" if code < 0 else f"ended itself with exit code {code}"
            raise EngineError(
                f"A process that drew pages {how}. Give the command again, with --workers 1 if this comes back; pages "
                f"that were drawn stay."
            ) from None
        if isinstance(message, _Warning):
            warnings.warn_explicit(
                message.text, message.category, message.file, message.line, registry=_registry(message.file)
            )
            return []
        if message is None:
            self._ready = True
            return []
        number, what = message
        if number is None:
            raise what
        self.drawing.remove(number)
        return [(number, what)]

    def stop(self) -> None:
        self._process.kill()
        self._process.join(5)
        self.connection.close()
        for part in self._folder.glob(f"runs/*.part-{self._process.pid}"):  # of a page that it was writing
            part.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Warning:
    """A warning in a helper."""

    text: str
    category: type[Warning]
    file: str
    line: int


#: the warnings of files that no module of this process is from
_shown: dict[Any, Any] = {}


def _registry(file: str) -> dict[Any, Any]:
    """Where Python notes which warnings of a file were shown: each is shown once, whichever process it came from."""
    for module in list(sys.modules.values()):
        if getattr(module, "__file__", None) == file:
            registry: dict[Any, Any] = vars(module).setdefault("__warningregistry__", {})
            return registry
    return _shown


def _help(connection: Connection, place: Place, site: Site, folder: Path) -> None:
    """The loop of a helper: it says None once it is ready, then receives pages, and says how each ended."""

    def show(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
    ) -> None:
        known = getattr(builtins, category.__name__, None) is category
        connection.send(_Warning(str(message), category if known else UserWarning, filename, lineno))

    warnings.showwarning = show
    number: int | None = None
    try:
        plugins.load_all(place.session.path, place.session.plugins, strict=False)
        painter = Painter(StoredRuns(place), site, folder)
        connection.send(None)
        while True:
            try:
                number, task = connection.recv()
            except EOFError:
                return
            connection.send((number, painter.draw(task)))
    except BaseException as error:  # also what a plug-in raises to end the program
        connection.send((number, _plain(error)))


def _plain(error: BaseException) -> BaseException:
    """The error as another process can read it."""
    match error:
        case OSError():
            return OSError(error.errno, error.strerror, error.filename)
        case BenchError():
            return BenchError(str(error))
        case SystemExit():
            return SystemExit(error.code if isinstance(error.code, int | str | None) else repr(error.code))
        case KeyboardInterrupt():
            return KeyboardInterrupt()
    return RuntimeError("".join(traceback.format_exception(error)))

"""The loop of a worker process of the pool. It imports little: first of all it makes sure that it ends with its parent.

Everything else is imported after that. On a busy machine torch alone takes a process many seconds, and a command that
was killed meanwhile would leave it behind for so long.
"""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.execution.jobs import Event
    from bench.settings import Settings

#: seconds between two looks at the parent
LOOK_S = 0.5


def work(connection: Connection, parent: int, settings: bytes) -> None:
    """Receive a job, do it, send its events, until the parent ends.

    settings: pickled by the parent, since their classes would be imported before this is called.
    """
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which stops the workers
    with suppress(OSError):  # of a program without standard error
        os.dup2(2, 1)  # standard output is the command's: programs read its `--json`
    _do_jobs(connection, pickle.loads(settings))  # noqa: S301  written by the parent a moment ago


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_S)
    os._exit(1)


def _do_jobs(connection: Connection, settings: Settings) -> None:
    from bench import plugins
    from bench.environment import one_thread
    from bench.errors import one_line
    from bench.execution.jobs import Failed, Progress, perform
    from bench.game.resources import Resources

    one_thread()
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
        except KeyboardInterrupt as error:  # Ctrl-C does not reach this process, so a plug-in raised it
            emit(Failed(f"KeyboardInterrupt: {one_line(error)}", traceback.format_exc()))

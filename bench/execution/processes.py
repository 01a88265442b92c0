"""Processes that work for a command: how one is started, and what holds in each.

This imports little: first of all a process makes sure that it ends with its parent. On a busy machine torch alone takes
it many seconds, and a command that was killed meanwhile would leave it behind for so long.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import Any

#: the environment of a worker: one thread; and the C library keeps the memory of a batch for the next batch, instead of
#: returning it to the system (an RMC+ answer on digits: 233 ms without, 148 ms with)
WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
    "MALLOC_TOP_PAD_": str(16 << 20),
}


def start(work: Callable[..., None], *given: Any) -> tuple[BaseProcess, Connection]:
    """A process that runs `work(connection, *given)`, and this end of its connection.

    It has one thread, ignores Ctrl-C, which reaches this process too, and ends when this process ends.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=begin, args=(theirs, os.getpid(), pickle.dumps((work, given))), daemon=True)
    with _environment(WORKER_ENVIRONMENT), _no_script():
        process.start()
    theirs.close()
    return process, ours


def begin(connection: Connection, parent: int, task: bytes) -> None:
    """task: pickled by the parent, since what it names would be imported before this is called."""
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(OSError):  # of a program without standard error
        os.dup2(2, 1)  # standard output is the command's: programs read its `--json`
    work, given = pickle.loads(task)  # noqa: S301  written by the parent a moment ago
    from bench.environment import one_thread

    one_thread()
    work(connection, *given)


def signal_name(number: int) -> str:
    """`signal 9 (SIGKILL)`."""
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"


def _die_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables while a process is started, which inherits them."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _no_script() -> Iterator[None]:
    """Hide the caller's script while a process is started: `multiprocessing` would run it in the new process.

    A script without `if __name__ == "__main__"` would begin again in every worker, and wait there for itself.
    """
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script

"""Tells Ctrl-C from a `KeyboardInterrupt` that a plug-in raises: only the first ends the command."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

#: whether Ctrl-C is noted now, and whether it came since
_noted = False
_came = False


@contextmanager
def interrupts_noted() -> Iterator[None]:
    """Within, it is noted that Ctrl-C comes; what answers to it is left as it was. Only the main thread can."""
    global _noted, _came
    before = signal.getsignal(signal.SIGINT)
    if _noted or not callable(before) or threading.current_thread() is not threading.main_thread():
        yield
        return

    def note(number: int, frame: FrameType | None) -> None:
        global _came
        _came = True
        before(number, frame)

    _noted, _came = True, False
    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        _noted = False


def from_outside(error: BaseException) -> bool:
    """Whether an exception came by Ctrl-C, or may have. Everything else that code of plug-ins raises is its own."""
    if not isinstance(error, KeyboardInterrupt):
        return False
    if signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, signal.SIG_DFL):  # then Python raises nothing for it
        return False
    return _came or not _noted

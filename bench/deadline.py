"""A time limit of a command (`bench run --for 8m`): when it has passed, work in progress is stored and nothing begins.

Work stops in two steps. Where a place is reached from which the work goes on without loss (the end of a chunk, a step
of training, an answer to the background), it stops as soon as the limit has passed: such a place asks `passed`. Work
that meets no such place for `GRACE_S` more seconds is given up by `check`; it begins again with the next command.
"""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass

from bench.errors import BadValue

#: seconds after the limit at which work is given up that has not stopped by itself
GRACE_S = 10.0
#: seconds after the limit at which worker processes are killed: theirs is code that never asks
KILL_S = 20.0

_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)([smhd])")


class OutOfTime(BaseException):
    """The time limit has passed. No `Exception`: code between the one who raises and the one who stops the job, such
    as a plug-in that expects errors of its own, must not take it for one."""


@dataclass(frozen=True)
class Deadline:
    """When a command has to end, in seconds since the epoch: a clock that the processes of a machine share."""

    at: float = math.inf

    @staticmethod
    def after(seconds: float) -> Deadline:
        """The deadline that many seconds from now."""
        return Deadline(time.time() + seconds)

    def passed(self, by: float = 0.0) -> bool:
        """Whether it passed more than `by` seconds ago."""
        return time.time() > self.at + by

    def stop(self) -> None:
        """Raise `OutOfTime` once the limit has passed. To be called where nothing is lost."""
        if self.passed():
            raise OutOfTime

    def check(self) -> None:
        """Raise `OutOfTime` once the limit passed more than GRACE_S ago. May be called anywhere."""
        if self.passed(GRACE_S):
            raise OutOfTime


#: no limit
NEVER = Deadline()


def parse_duration(key: str, text: str) -> float:
    """Seconds of `90`, `90s`, `8m`, `1h30m` or `2d`; more than 0."""
    parts = _PART.findall(text.replace(" ", "").lower())
    if parts and "".join(number + unit for number, unit in parts) == text.replace(" ", "").lower():
        seconds = sum(float(number) * _UNITS_S[unit] for number, unit in parts)
    else:
        try:
            seconds = float(text)
        except ValueError:
            seconds = 0.0
    if not (seconds > 0 and math.isfinite(seconds)):
        raise BadValue(f"{key} is {text!r}; give a time such as 90s, 8m or 1h30m.")
    return seconds


def in_units(seconds: float) -> str:
    """A duration for a reader: `40 s`, `14 min`, `2 h 5 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"

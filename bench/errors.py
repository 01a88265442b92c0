"""What can be wrong, one class per mistake.

`BenchError` and its kinds mean that the *request* is wrong: the command line prints the message as one line and exits
with 2, and nothing was written. `RunError` and its kinds mean that one *run* cannot be finished: it is stored as
FAILED with the message as its reason, and the other runs go on. `DiskError` means that the *machine* cannot keep what
was made: the command ends with 1, no run is FAILED for it, and the same command goes on once it can.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BenchError(Exception):
    """The request is wrong: the message says what, what was given and what to do."""


class UnknownName(BenchError):
    """A name that is in no registry, section or list."""

    def __init__(self, what: str, name: str, known: Iterable[str], see: str = "") -> None:
        self.name = name
        options = sorted(known)
        near = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
        parts = [f"No {what} is called {name!r}."]
        if near:
            parts.append(f"Did you mean {near[0]!r}?")
        elif options:
            parts.append(f"Known: {', '.join(options[:12])}{', ...' if len(options) > 12 else ''}.")
        if see:
            parts.append(f"See: {see}")
        super().__init__(" ".join(parts))


class BadValue(BenchError):
    """A known key with a value that it cannot take."""


class DataError(BenchError):
    """A data file that is missing, damaged or not what it says."""


class StoreError(BenchError):
    """A database that cannot be used."""


class DamagedRun(StoreError):
    """One run of a database that cannot be read; the others can."""


class BadBundle(BenchError):
    """A bundle that cannot be read, or that does not hold what it says."""


class BrokenPlugin(BenchError):
    """A plug-in that does not import or does not declare what it must."""


class EngineError(BenchError):
    """The engine that plays runs cannot go on: no run is to blame for it."""


class RunError(Exception):
    """One run cannot be finished; its reason is stored and the others go on."""


class AccessDenied(RunError):
    """An attack asked the oracle for more than its threat model grants."""


class BadAnswer(RunError):
    """A defense answered with the wrong shape or with values that are not finite."""


class BadImage(RunError):
    """An attack returned something that is no batch of images of the right shape."""


class ChangedFit(RunError):
    """What was fitted under a key is not what was fitted under it before."""


class DiskError(OSError):
    """A file of this program cannot be written: the disk is full, or the folder is not this user's. No run's fault."""

    @classmethod
    def of(cls, error: OSError, path: object) -> DiskError:
        """What the system said about writing `path`."""
        return cls(error.errno, error.strerror or one_line(error), str(error.filename or path))


def one_line(error: BaseException) -> str:
    """The error's text on one line, with its class where the text is empty."""
    text = " ".join(str(error).split())
    return text or type(error).__name__

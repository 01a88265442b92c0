"""The second tier of a cache: where artefacts lie that other machines have made, or will need.

A tier holds files by name (`kind/key` or `kind/key/file`) and knows nothing of what is in them. Whoever takes a file
from a tier compares it with its manifest or its own sha256, so a tier is never believed.
"""

from __future__ import annotations

import errno
import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

from bench.errors import BadValue, BenchError, DiskError, one_line

#: how often an operation on a store is tried, and seconds before the second try; each pause is twice the one before
ATTEMPTS = 4
PAUSE_S = 0.5
#: what the system says of a disk that takes no more: trying again does not help, and no run is to blame
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)

#: the name of a file on its way into a folder that is a store
UPLOAD = re.compile(r".+/.+\.part-[0-9a-f]{8}")

Anything = TypeVar("Anything")


class Unreachable(BenchError):
    """A tier does not answer. What needed it may go on later, or elsewhere."""


class Tier(Protocol):
    """Files by name. `Unreachable` from any method where the tier does not answer."""

    def has(self, name: str) -> bool:
        """Whether the file is there."""

    def fetch(self, name: str, target: Path) -> bool:
        """Copy the file to `target`; False where it is not there."""

    def put(self, name: str, source: Path) -> None:
        """Keep a copy of `source`, in place of what was there: whole at once, or not at all."""

    def drop(self, name: str) -> None:
        """Remove the file, or all files below the name."""


class SharedStore:
    """A folder or a bucket that all machines reach, by fsspec: a path, `s3://...`, `gs://...`, `memory://...`."""

    def __init__(self, url: str) -> None:
        import fsspec

        if url.endswith("://"):  # of no bucket and no host; file:// would be the root of this machine
            raise BadValue(f"--store {url!r} names no place; write it behind the //.")
        self.url = url
        try:
            self._fs, root = fsspec.core.url_to_fs(url, skip_instance_cache=True, use_listings_cache=False)
        except ImportError as error:
            raise BadValue(f"--store {url!r} needs a package that is not installed: {one_line(error)}.") from None
        except (ValueError, TypeError) as error:
            raise BadValue(f"--store {url!r} is no folder and no URL of a store: {one_line(error)}.") from None
        self._root = root.rstrip("/")
        self._local = "file" in ((self._fs.protocol,) if isinstance(self._fs.protocol, str) else self._fs.protocol)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _tried(self, what: str, operation: Callable[[], Anything]) -> Anything:
        """The operation's result. It is tried again after a pause, since a network recovers."""
        for attempt in range(ATTEMPTS):
            try:
                return operation()
            except FileNotFoundError:
                raise
            except OSError as error:
                if error.errno in DISK:
                    raise DiskError.of(error, self.url) from error
                self._given_up(what, attempt, error)
            except Exception as error:  # fsspec lets through whatever the library of a store raises
                self._given_up(what, attempt, error)
            time.sleep(PAUSE_S * 2**attempt)
        raise AssertionError("the last attempt returns or raises")

    def _given_up(self, what: str, attempt: int, error: Exception) -> None:
        """Raise `Unreachable` after the last attempt."""
        if attempt == ATTEMPTS - 1:
            raise Unreachable(
                f"The store {self.url} cannot be used ({what}: {type(error).__name__}: {one_line(error)})"
            ) from None

    def has(self, name: str) -> bool:
        return self._tried(f"looking for {name}", lambda: bool(self._fs.isfile(self._path(name))))

    def fetch(self, name: str, target: Path) -> bool:
        try:
            self._tried(f"reading {name}", lambda: self._fs.get_file(self._path(name), str(target)))
        except FileNotFoundError:
            return False
        return True

    def put(self, name: str, source: Path) -> None:
        self._tried(f"writing {name}", lambda: self._put(self._path(name), source))

    def _put(self, path: str, source: Path) -> None:
        if not self._local:  # a bucket shows an object when it is whole
            self._fs.put_file(str(source), path)
            return
        part = f"{path}.part-{uuid.uuid4().hex[:8]}"
        try:
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._fs.put_file(str(source), part)
            Path(part).replace(path)
        finally:
            Path(part).unlink(missing_ok=True)

    def drop(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._tried(f"removing {name}", lambda: self._fs.rm(self._path(name), recursive=True))

    def files(self) -> Iterator[tuple[str, int, float]]:
        """Name, bytes and time of the last write of each file, in seconds as of `time.time`."""
        found = self._tried("listing it", lambda: self._fs.find(self._root, detail=True))
        root = f"{self._fs._strip_protocol(self._root)}/"
        for path, about in sorted(found.items()):
            if path.startswith(root):
                yield path.removeprefix(root), int(about.get("size") or 0), self._written(path, about)

    def _written(self, path: str, about: dict[str, Any]) -> float:
        """When a file was written last; now where the store does not say so, since it counts as in use then."""
        try:
            told = about.get("mtime") or about.get("LastModified") or self._fs.modified(path)
        except (NotImplementedError, FileNotFoundError):
            # what fsspec raises where its kind of store keeps no times, and where the file went since it was listed
            return time.time()
        return float(told.timestamp() if isinstance(told, datetime) else told)


@lru_cache(maxsize=8)
def shared_store(url: str) -> SharedStore | None:
    """The store behind a URL, one object in a process; None for ""."""
    return SharedStore(url) if url else None

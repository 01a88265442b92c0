"""Where data files come from: a folder that the user names (read-only), else the user's cache, filled by download."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from bench.errors import DataError


def data_dir(given: str | None) -> Path | None:
    """The folder named by `--data-dir` or BENCH_DATA, or None where neither names one."""
    text = given or os.environ.get("BENCH_DATA") or None
    if text is None:
        return None
    path = Path(text).expanduser()
    if not path.is_dir():
        raise DataError(f"The data folder {str(path)!r} does not exist; give --data-dir or BENCH_DATA a folder.")
    return path


def locate(dataset: str, name: str, md5: str, mirrors: Sequence[str], folder: Path | None) -> Path:
    """The verified path of one file of a dataset; downloads it only into the user's own cache."""
    if folder is not None:
        path = folder / dataset / name
        if not path.is_file():
            raise DataError(
                f"{path} is missing; put the original file there, "
                f"or leave out --data-dir and BENCH_DATA to download it."
            )
        verify(path, md5)
        return path
    return _download(dataset, name, md5, mirrors)


def verify(path: Path, md5: str) -> None:
    """Raise `DataError` unless the file has this md5."""
    stat = path.stat()
    found = _md5(str(path), stat.st_size, stat.st_mtime_ns)
    if found != md5:
        raise DataError(
            f"{path} has the md5 {found}, but {md5} is published: it is truncated or damaged, so fetch it again."
        )


@lru_cache(maxsize=64)
def _md5(path: str, size: int, changed_ns: int) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with Path(path).open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _download(dataset: str, name: str, md5: str, mirrors: Sequence[str]) -> Path:
    import platformdirs
    import pooch
    import requests

    target = Path(platformdirs.user_cache_dir("bench")) / "data" / dataset
    pooch.get_logger().setLevel("WARNING")  # a failure is one line, ours
    problems = []
    for mirror in mirrors:
        try:
            return Path(pooch.retrieve(mirror + name, known_hash=f"md5:{md5}", fname=name, path=target))
        except (OSError, ValueError, requests.RequestException) as error:
            problems.append(f"{mirror}: {type(error).__name__}")
    raise DataError(
        f"{name} could not be downloaded ({'; '.join(problems)}). "
        f"Name a folder that holds {dataset}/{name} with --data-dir or BENCH_DATA."
    )

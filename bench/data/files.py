"""Where data files come from: a folder that the user names (read-only), else the user's cache, filled by download."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from bench.errors import DataError

#: what to do about data that this user may not read
READABLE = "make it readable for this user, or name another --data-dir"


def data_dir(given: str | None) -> Path | None:
    """The folder named by `--data-dir` or BENCH_DATA; None if neither names one."""
    text = given or os.environ.get("BENCH_DATA") or None
    if text is None:
        return None
    path = Path(text).expanduser()
    if not looked_at(path, Path.is_dir):
        raise DataError(f"The data folder {str(path)!r} does not exist; give --data-dir or BENCH_DATA a folder.")
    return path


def looked_at(path: Path, question: Callable[[Path], bool]) -> bool:
    """The answer to a question such as `Path.is_dir`; `DataError` where a folder above may not be entered."""
    try:
        return question(path)
    except OSError as error:
        raise DataError(f"{path} cannot be looked at: {error.strerror}; {READABLE}.") from None


def locate(dataset: str, name: str, md5: str, mirrors: Sequence[str], folder: Path | None) -> Path:
    """The verified path of one file of a dataset; downloads it only into the user's own cache."""
    if folder is not None:
        path = folder / dataset / name
        verify(path, md5)
        return path
    return _download(dataset, name, md5, mirrors)


def verify(path: Path, md5: str) -> None:
    """Raise `DataError` unless the file is there and has this md5."""
    if not looked_at(path, Path.is_file):
        raise DataError(
            f"{path} is missing; put the original file there, or leave out --data-dir and BENCH_DATA to download it."
        )
    stat = path.stat()
    try:
        md5_here = _md5(str(path), stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; {READABLE}.") from None
    if md5_here != md5:
        raise DataError(
            f"{path} has the md5 {md5_here}, but {md5} is published: it is truncated or damaged, so fetch it again."
        )


def locate_in_archive(
    folder_name: str, archive: str, md5: str, mirrors: Sequence[str], files: Mapping[str, str], folder: Path | None
) -> list[Path]:
    """Verified paths of the files (name: md5) of a dataset that is published as one archive of `folder_name`."""
    root = folder
    if root is None:
        root = unpacked(folder_name)
        for name, known in files.items():  # a member that a killed extraction left unfinished is unpacked again
            path = root / folder_name / name
            if path.is_file() and _md5(str(path), path.stat().st_size, path.stat().st_mtime_ns) != known:
                path.unlink()
        if not all((root / folder_name / name).is_file() for name in files):
            root = _download(folder_name, archive, md5, mirrors, [f"{folder_name}/{name}" for name in files])
    paths = []
    for name, known in files.items():
        path = root / folder_name / name
        verify(path, known)
        paths.append(path)
    return paths


def file_sha256(path: Path) -> str:
    """sha256 of a file, 64 hex digits; read again only where its size or its time of change is another."""
    stat = path.stat()
    return _sha256(str(path), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256(path: str, size: int, changed_ns: int) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@lru_cache(maxsize=64)
def _md5(path: str, size: int, changed_ns: int) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with Path(path).open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def cache_dir() -> Path:
    """The user's own folder of data, filled by download."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("bench")) / "data"


def unpacked(folder_name: str) -> Path:
    """The folder in the user's cache where a downloaded archive of `folder_name` is unpacked."""
    return cache_dir() / folder_name


def _download(dataset: str, name: str, md5: str, mirrors: Sequence[str], unpacked: Sequence[str] | None = None) -> Path:
    """The downloaded file; of an archive, the folder with its `unpacked` members."""
    import pooch
    import requests

    target = cache_dir() / dataset
    pooch.get_logger().setLevel("WARNING")  # a failure is one line, ours
    unpack = pooch.Untar(members=list(unpacked), extract_dir=".") if unpacked else None
    problems = []
    for mirror in mirrors:
        try:
            fetched = pooch.retrieve(mirror + name, known_hash=f"md5:{md5}", fname=name, path=target, processor=unpack)
            return target if unpacked else Path(fetched)
        except (OSError, ValueError, requests.RequestException) as error:
            problems.append(f"{mirror}: {type(error).__name__}")
    wanted = f"{dataset}/ with its files" if unpacked else f"{dataset}/{name}"
    raise DataError(
        f"{name} could not be downloaded ({'; '.join(problems)}). "
        f"Name a folder that holds {wanted} with --data-dir or BENCH_DATA."
    )

"""The folder with the files of a database: where it lies, who shares it, and which of its files are needed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from bench.errors import StoreError
from bench.store.leases import is_held
from bench.store.schema import file_of, parse_url
from bench.store.tables import GameRow, ImageRow, RunRow


@dataclass(frozen=True)
class Needs:
    """The files of its folder that a database needs.

    images   names of the files that rows refer to
    resumes  digests of the states from which unfinished games resume
    played   keys of runs that a live process holds
    """

    images: frozenset[str] = frozenset()
    resumes: frozenset[str] = frozenset()
    played: tuple[str, ...] = ()


def needs(session: Session) -> Needs:
    """The files of its folder that the database needs now."""
    images = frozenset(session.scalars(select(ImageRow.file).distinct()))
    running = session.scalars(select(RunRow).where(RunRow.status == "RUNNING").order_by(RunRow.created)).all()
    held = tuple(run.key for run in running if is_held(run))
    digests = session.scalars(
        select(GameRow.digest)
        .join(RunRow, RunRow.key == GameRow.run)
        .where(RunRow.status == "RUNNING", ~GameRow.done, GameRow.digest != "")
    )
    return Needs(images, frozenset(digests), held)


def files_of(url: str) -> Path:
    """The folder of images, states and bases: BENCH_CACHE, else beside a SQLite file, else in the user's cache."""
    if (named := named_files()) is not None:
        return named
    file = file_of(parse_url(url))
    if file is not None:
        return file.with_name(f"{file.stem}-files")
    return user_files()


def named_files() -> Path | None:
    """The folder that BENCH_CACHE names; None where it names none."""
    given = os.environ.get("BENCH_CACHE")
    return Path(given) if given else None


def user_files() -> Path:
    """The folder for the artefacts of databases on servers, in the user's cache."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("bench")) / "files"


def shares_files(url: str) -> str:
    """Why other databases may have files in the folder of this one; "" where no other can."""
    if named_files() is not None:
        return "BENCH_CACHE names the folder"
    file = file_of(parse_url(url))
    if file is None:
        return "it is the folder of all databases on servers"
    if files_of(url).is_symlink():
        return "the folder is a link"
    if not file.parent.is_dir():
        return ""
    others = (path for path in sorted(file.parent.iterdir()) if path.stem == file.stem and path.name != file.name)
    return next((f"{path.name} beside it has the same" for path in others if is_sqlite(path)), "")


def sqlite_file(url: str) -> Path | None:
    """The file of a database, None for one on a server or a URL that is none."""
    try:
        return file_of(parse_url(url))
    except StoreError:
        return None


def is_sqlite(path: Path) -> bool:
    """Whether a file begins as those of SQLite do."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(16) == b"SQLite format 3\0"

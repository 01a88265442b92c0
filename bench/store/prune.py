"""The files beside a database: their sizes, and the removal of files that are not needed.

Images are removed if no row refers to them, and if no other database can. Everything else can be made again. States
take little time: they are removed unless an interrupted run goes on from them, or other databases use the folder.
Bases, banks and crafted images take long: they are removed only if their kind is named. While a run of the database is
being played, only half-written files of dead processes are removed.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from bench.errors import BadValue
from bench.store import Needs, Store

#: the kinds of artefacts
KINDS = {
    "images": "proposed images, which rows and bench verify need",
    "states": "states of defenses, from which interrupted runs and other cells go on",
    "crafts": "images crafted on a base, for every defense over it",
    "bases": "trained networks",
    "training": "checkpoints of interrupted training",
    "banks": "augmented sets with their indices",
    "pieces": "parts of banks that are not complete yet",
    "outputs": "outputs of a network on a whole bank",
}
#: the kind of half-written files
TEMPORARY = "temporary"
#: seconds without a write after which another machine or database is taken not to use a file any more
QUIET_S = 3600.0

_ARTEFACT = re.compile(r"[0-9a-f]{64}(-[0-9a-z]+)?")
_PART = re.compile(r"[0-9a-f]{64}(-[0-9a-z]+)?\.part(-(?P<pid>\d+))?")


@dataclass(frozen=True)
class Artefact:
    """A file or a folder of a kind; modified is a time as `time.time` gives it."""

    kind: str
    path: Path
    bytes: int
    modified: float


@dataclass(frozen=True)
class Size:
    """How many artefacts there are of a kind, and how large they are together."""

    count: int = 0
    bytes: int = 0

    @staticmethod
    def of(artefacts: Iterable[Artefact]) -> dict[str, Size]:
        """Sizes by kind."""
        sizes: dict[str, Size] = {}
        for one in artefacts:
            known = sizes.get(one.kind, Size())
            sizes[one.kind] = Size(known.count + 1, known.bytes + one.bytes)
        return sizes


@dataclass
class Pruned:
    """What was removed (or would be), what could not be removed and why, and what a reader should know of the rest."""

    removed: list[Artefact] = field(default_factory=list)
    failed: list[tuple[Path, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def artefacts(root: Path) -> Iterator[Artefact]:
    """All that lies in the folder of a database, half-written files as `TEMPORARY`; locks are empty and left out."""
    if not root.is_dir():
        return
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        for path in sorted(folder.iterdir()):
            if path.is_symlink():  # nobody here makes links: it is the user's
                continue
            half = _PART.fullmatch(path.name) is not None
            if half or _ARTEFACT.fullmatch(path.name):
                try:
                    yield Artefact(TEMPORARY if half else folder.name, path, _bytes(path), path.stat().st_mtime)
                except FileNotFoundError:
                    continue  # renamed or removed meanwhile, by who made it


def _bytes(path: Path) -> int:
    if not path.is_dir():
        return path.stat().st_size
    inner = (Path(folder) / name for folder, _, names in os.walk(path) for name in names)
    return sum(file.lstat().st_size for file in inner)


def survey(root: Path) -> dict[str, Size]:
    """How much lies in the folder of a database, by kind."""
    return Size.of(artefacts(root))


def prune(
    root: Path, store: Store | None, shared: str, kind: str = "", older_than_s: float = 0.0, dry_run: bool = False
) -> Pruned:
    """Remove what nothing needs: see the module.

    store   None where there is no database, so that nothing says which images are needed
    shared  why other databases may have files in the folder (see `shares_files`); ""
    kind    only this kind, and all of it but images that rows refer to; "": what costs little to make again

    `BadValue` where images are asked for that other databases may refer to.
    """
    if kind == "images" and shared:
        raise BadValue(f"Images cannot be pruned: other databases may refer to those in {root} ({shared}).")
    done, before = Pruned(), time.time() - older_than_s
    there = list(artefacts(root))  # before the question: what a run writes from now on is not in this list
    needs = Needs() if store is None else store.needs()
    linked = sorted({one.path.parent for one in there if one.path.parent.is_symlink()})
    old = [one for one in there if one.modified <= before and one.path.parent not in linked]
    done.notes += [f"{folder} is a link, and left alone" for folder in linked]
    if needs.played:
        done.notes.append(f"runs are being played ({len(needs.played)}): only what dead processes left is removed")
    for one in old:
        if kind in ("", one.kind) and one.kind != "images" and _useless(one, needs, shared, kind):
            _remove(one, done, dry_run)
    if shared and kind == "":
        done.notes.append(f"states stay: runs of other databases may go on from them ({shared}); see --kind states")
    elif needs.resumes and kind == "":
        done.notes.append(
            f"states stay from which interrupted runs go on ({len(needs.resumes)}); --kind states removes them too"
        )
    if kind not in ("", "images") or needs.played:
        return done
    if shared:
        done.notes.append(f"images stay: other databases may refer to them ({shared})")
    elif store is None:
        done.notes.append("images stay: there is no database that could say which are needed")
    else:
        with nullcontext() if dry_run else store.standstill():
            needs = store.needs()  # no run can begin any more
            for one in old:
                if one.kind == "images" and not needs.played and one.path.name not in needs.images:
                    _remove(one, done, dry_run)
    return done


def _useless(one: Artefact, needs: Needs, shared: str, kind: str) -> bool:
    """Whether something that is no image may go; `kind` is what was asked for by name."""
    quiet = time.time() - one.modified >= QUIET_S
    if one.kind == TEMPORARY:  # of a process on another machine only time tells
        return (quiet or not (shared or needs.played)) and _is_abandoned(one)
    if needs.played or (shared and not (quiet and kind == one.kind)):
        return False
    if one.kind == "states":
        return kind == "states" or one.path.name not in needs.resumes
    return kind == one.kind


def _is_abandoned(part: Artefact) -> bool:
    """Whether nobody writes a half-written artefact any more: a file by its process, a folder by its lock."""
    match = _PART.fullmatch(part.path.name)
    assert match is not None
    if match["pid"] is None:
        lock = _lock_of(part.path)
        return not lock.exists() or not _is_held(lock)
    try:
        began = psutil.Process(int(match["pid"])).create_time()
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:  # it is there, and somebody else's
        return False
    return began > part.modified  # its number went to another process since


def _lock_of(path: Path) -> Path:
    return path.with_name(f"{path.name.partition('.part')[0]}.lock")


def _is_held(lock: Path) -> bool:
    try:
        with FileLock(lock, timeout=0):
            return False
    except (Timeout, PermissionError):  # somebody's, here or under another name
        return True


def _remove(one: Artefact, done: Pruned, dry_run: bool) -> None:
    try:
        if not dry_run and not _removed(one.path):
            done.failed.append((one.path, "somebody makes it just now"))
            return
    except OSError as error:
        done.failed.append((one.path, error.strerror or str(error)))
        return
    done.removed.append(one)


def _removed(path: Path) -> bool:
    """Remove a file, or a folder under its lock and at one stroke; False where somebody holds the lock."""
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return True
    try:
        with FileLock(_lock_of(path), timeout=0):
            part = path if path.name.endswith(".part") else path.with_name(f"{path.name}.part")
            if part != path:
                shutil.rmtree(part, ignore_errors=True)  # what a killed builder left beside it
                path.replace(part)
            shutil.rmtree(part)
    except Timeout:
        return False
    return True


def nearest_folder(path: Path) -> Path:
    """The path, or the nearest of its parents that is there."""
    return next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())


def size_text(size: int) -> str:
    """Bytes as people read them: 3.2 MB."""
    if size < 1000:
        return f"{size} bytes"
    amount, units = size / 1000, ["kB", "MB", "GB", "TB"]
    while amount >= 999.5 and len(units) > 1:
        amount /= 1000
        units.pop(0)
    return f"{amount:.{0 if amount >= 99.95 else 1}f} {units[0]}"

"""The files beside a database: their sizes, and the removal of files that are not needed.

Images are removed if no row refers to them, and if no other database can. Everything else can be made again. States
take little time: they are removed unless an interrupted run goes on from them, or other databases use the folder.
Bases, banks and crafted images take long: they are removed only if their kind is named. While a run of the database is
being played, only half-written files of dead processes are removed.

A store that several machines share (`bench.tiers.SharedStore`) is treated as the folder of several databases is: nobody
knows them all, so images are never removed, other kinds if they are named, and only what was quiet for an hour.
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

from bench.cache import COMING, DAMAGED, MANIFEST
from bench.errors import BadValue, DiskError
from bench.store import Needs, Store
from bench.tiers import UPLOAD, SharedStore, Unreachable

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
    "fits": "fingerprints of what was fitted, which later fits under the same key must have",
}
#: the kind of half-written files, and of damaged ones that were set aside
TEMPORARY = "temporary"
#: seconds without a write after which another machine or database is taken not to use a file any more
QUIET_S = 3600.0

_ARTEFACT = re.compile(r"[0-9a-f]{64}(-[0-9a-z]+)?")
_PART = re.compile(r"[0-9a-f]{64}(-[0-9a-z]+)?\.(part(-(?P<pid>\d+)|-" + COMING + "[0-9a-f]+)?|damaged)")


@dataclass(frozen=True)
class Artefact:
    """A file or a folder of one kind. modified: the time of its last write, in seconds as of `time.time`."""

    kind: str
    path: Path
    bytes: int
    modified: float


@dataclass(frozen=True)
class Size:
    """The number of artefacts of a kind, and their bytes in total."""

    count: int = 0
    bytes: int = 0

    @staticmethod
    def of(artefacts: Iterable[Artefact]) -> dict[str, Size]:
        """Sizes by kind."""
        sizes: dict[str, Size] = {}
        for artefact in artefacts:
            before = sizes.get(artefact.kind, Size())
            sizes[artefact.kind] = Size(before.count + 1, before.bytes + artefact.bytes)
        return sizes


@dataclass
class Pruned:
    """What was removed, or would be in a dry run; what could not be removed and why; and why other files stay."""

    removed: list[Artefact] = field(default_factory=list)
    failed: list[tuple[Path, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def artefacts(root: Path) -> Iterator[Artefact]:
    """All artefacts in the folder of a database, half-written ones as `TEMPORARY`. Locks are empty and left out."""
    if not root.is_dir():
        return
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        for path in sorted(folder.iterdir()):
            if path.is_symlink():  # this program makes no links, so the user made it
                continue
            half_written = _PART.fullmatch(path.name) is not None
            if half_written or _ARTEFACT.fullmatch(path.name):
                kind = TEMPORARY if half_written else folder.name
                try:
                    yield Artefact(kind, path, _bytes(path), path.stat().st_mtime)
                except FileNotFoundError:
                    continue  # its process has renamed or removed it since


def _bytes(path: Path) -> int:
    if not path.is_dir():
        return path.stat().st_size
    inner = (Path(folder) / name for folder, _, names in os.walk(path) for name in names)
    return sum(file.lstat().st_size for file in inner)


def survey(root: Path) -> dict[str, Size]:
    """The sizes of the artefacts in the folder of a database, by kind."""
    return Size.of(artefacts(root))


def prune(
    root: Path, store: Store | None, shared: str, kind: str = "", older_than_s: float = 0.0, dry_run: bool = False
) -> Pruned:
    """Remove what nothing needs; the head of this module says what that is.

    store   None where there is no database, so that nobody knows which images are needed
    shared  why other databases may have files in the folder (see `shares_files`); ""
    kind    remove only this kind, also where it is expensive to make again; "": all that is cheap to make again

    `BadValue` where `kind` is images and other databases may refer to them.
    """
    if kind == "images" and shared:
        raise BadValue(f"Images cannot be pruned: other databases may refer to those in {root} ({shared}).")
    pruned, now = Pruned(), time.time()
    listed = list(artefacts(root))  # before `needs`: files that runs write from now on are not in this list
    needs = Needs() if store is None else store.needs()
    links = sorted({artefact.path.parent for artefact in listed if artefact.path.parent.is_symlink()})
    old = [one for one in listed if one.modified <= now - older_than_s and one.path.parent not in links]
    for artefact in old:
        if kind in ("", artefact.kind) and artefact.kind != "images" and _is_unneeded(artefact, needs, shared, kind):
            _remove(artefact, pruned, dry_run)
    with_images = kind in ("", "images") and not needs.played
    pruned.notes += _notes(links, needs, shared, kind)
    if with_images and not shared and store is None:
        pruned.notes.append("images stay: there is no database that says which ones are needed")
    elif with_images and not shared and store is not None:
        _prune_images([one for one in old if one.kind == "images"], store, pruned, dry_run)
    return pruned


def _notes(links: list[Path], needs: Needs, shared: str, kind: str) -> list[str]:
    """What the user should know about files that stay."""
    notes = [f"{folder} is a link, and is left alone" for folder in links]
    if needs.played:
        notes.append(f"runs are being played ({len(needs.played)}): only files of dead processes are removed")
    if shared and kind == "":
        notes.append(f"states stay: runs of other databases may resume from them ({shared}); see --kind states")
    elif needs.resumes and kind == "":
        notes.append(
            f"states stay from which interrupted runs resume ({len(needs.resumes)}); --kind states removes them too"
        )
    if shared and kind == "" and not needs.played:
        notes.append(f"images stay: other databases may refer to them ({shared})")
    return notes


def _prune_images(images: list[Artefact], store: Store, pruned: Pruned, dry_run: bool) -> None:
    """Remove the images that no row refers to, while no run can begin or commit."""
    with nullcontext() if dry_run else store.standstill():
        needs = store.needs()  # again: a run may have begun since the first time
        for image in images:
            if not needs.played and image.path.name not in needs.images:
                _remove(image, pruned, dry_run)


def _is_unneeded(artefact: Artefact, needs: Needs, shared: str, kind: str) -> bool:
    """Whether an artefact that is no image may be removed; `kind` is the kind that the user named."""
    quiet = time.time() - artefact.modified >= QUIET_S
    if artefact.kind == TEMPORARY:  # a process on another machine cannot be looked up: only time tells
        return (quiet or not (shared or needs.played)) and _is_abandoned(artefact)
    if needs.played or (shared and not (quiet and kind == artefact.kind)):
        return False
    if artefact.kind == "states":
        return kind == "states" or artefact.path.name not in needs.resumes
    return kind == artefact.kind


def _is_abandoned(part: Artefact) -> bool:
    """Whether no process writes a half-written artefact any more: a file has a pid in its name, a folder a lock."""
    match = _PART.fullmatch(part.path.name)
    assert match is not None
    if match["pid"] is None:
        lock = _lock_of(part.path)
        return not lock.exists() or not _is_locked(lock)
    try:
        began = psutil.Process(int(match["pid"])).create_time()
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:  # the process runs and belongs to another user
        return False
    return began > part.modified  # a later process was given the same pid


def _lock_of(path: Path) -> Path:
    return path.with_name(f"{path.name.partition('.')[0]}.lock")


def _is_locked(lock: Path) -> bool:
    try:
        with FileLock(lock, timeout=0):
            return False
    except (Timeout, PermissionError):  # a process holds it, or the file belongs to another user
        return True


def _remove(artefact: Artefact, pruned: Pruned, dry_run: bool) -> None:
    """Remove an artefact, and note in `pruned` what became of it."""
    try:
        if not dry_run and not _delete(artefact.path):
            pruned.failed.append((artefact.path, "another process is making it now"))
            return
    except OSError as error:
        pruned.failed.append((artefact.path, error.strerror or str(error)))
        return
    pruned.removed.append(artefact)


def _delete(path: Path) -> bool:
    """Delete a file, or a folder under its lock; False where another process holds the lock.

    The folder is renamed first, so that no process sees half of it under its own name.
    """
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return True
    try:
        with FileLock(_lock_of(path), timeout=0):
            part = path if path.name.endswith((".part", DAMAGED)) else path.with_name(f"{path.name}.part")
            if part != path:
                shutil.rmtree(part, ignore_errors=True)  # left by a process that was killed while it made the folder
                path.replace(part)
            shutil.rmtree(part)
    except Timeout:
        return False
    return True


# -- a store that several machines share ----------------------------------------------------------------------------


def artefacts_of(store: SharedStore) -> Iterator[Artefact]:
    """All artefacts in a store, with their names in place of paths: as `TEMPORARY` what came only in part."""
    whole: dict[str, list[tuple[str, int, float]]] = {}
    for name, size, modified in store.files():
        kind, _, rest = name.partition("/")
        key = rest.partition("/")[0]
        if UPLOAD.fullmatch(name):
            yield Artefact(TEMPORARY, Path(name), size, modified)
        elif kind.isidentifier() and _ARTEFACT.fullmatch(key):
            whole.setdefault(f"{kind}/{key}", []).append((name, size, modified))
    for artefact, files in whole.items():
        names = {name for name, _, _ in files}
        complete = artefact in names or f"{artefact}/{MANIFEST}" in names  # a manifest comes last
        kind = artefact.partition("/")[0] if complete else TEMPORARY
        yield Artefact(kind, Path(artefact), sum(size for _, size, _ in files), max(when for _, _, when in files))


def prune_store(store: SharedStore, kind: str = "", older_than_s: float = 0.0, dry_run: bool = False) -> Pruned:
    """Remove what nothing needs from a store; the head of this module says what that is. `kind`: as for `prune`.

    `BadValue` where `kind` is images.
    """
    if kind == "images":
        raise BadValue(
            f"Images cannot be pruned: other databases may refer to those in {store.url} (a store serves all who name "
            f"it); give a database a store of its own, and remove that with it."
        )
    pruned, now = Pruned(), time.time()
    for artefact in list(artefacts_of(store)):
        if artefact.kind == (kind or TEMPORARY) and artefact.modified <= now - max(older_than_s, QUIET_S):
            name = artefact.path.as_posix()
            try:
                if not dry_run:
                    if store.has(f"{name}/{MANIFEST}"):
                        store.drop(f"{name}/{MANIFEST}")  # first: without it the rest is not taken for whole
                    store.drop(name)
            except (Unreachable, DiskError) as error:
                pruned.failed.append((artefact.path, str(error)))
                continue
            pruned.removed.append(artefact)
    if not kind:
        pruned.notes.append("images stay: databases that nobody here knows may refer to them")
        pruned.notes.append("all else that is whole stays: others may be using it; see --kind states")
    return pruned


def nearest_folder(path: Path) -> Path:
    """The path, or its nearest parent that exists."""
    return next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())


def size_text(size: int) -> str:
    """A number of bytes as text with a unit: 3.2 MB."""
    if size < 1000:
        return f"{size} bytes"
    amount, units = size / 1000, ["kB", "MB", "GB", "TB"]
    while amount >= 999.5 and len(units) > 1:
        amount /= 1000
        units.pop(0)
    return f"{amount:.{0 if amount >= 99.95 else 1}f} {units[0]}"

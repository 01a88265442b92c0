"""Content-addressed files: trained bases, banks, crafted images, states. Written atomically, never half there.

An artefact is a folder `root/kind/key` or a file of tensors. A folder is made in `root/kind/key.part` under a lock and
renamed, so that two processes make it only once, and a kill never leaves half an artefact under its name.

Nothing damaged is believed. A folder has a manifest with the size and the sha256 of each file: sizes are compared at
every opening, contents once per process. A file of tensors holds the sha256 of what is in it. What does not hold is set
aside as `key.damaged`, reported in one line, and made again. So is a link, and a file of a user whom the owner of the
cache's folder has not let write there (see `stranger`): a manifest proves nothing where its author may be anybody.

A cache may have a second tier (see `bench.tiers`): what it lacks is looked for there before it is made, what it makes
is put there too, and what arrives is compared with its manifest as what lies here is.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from safetensors import SafetensorError

from bench.errors import DiskError, one_line
from bench.rows import NO_COST, Cost
from bench.tiers import Tier
from bench.values import State

if TYPE_CHECKING:  # a command that only reads rows needs no torch, which takes longer than they do
    from torch import Tensor


def digest(value: Any) -> str:
    """sha256 of a JSON value in its canonical form."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, whenever the process dies.

    `DiskError` where that cannot be; nothing is left behind then.
    """
    part = path.with_name(f"{path.name}.part-{os.getpid()}")
    with on_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except OSError:
            part.unlink(missing_ok=True)
            raise


@contextmanager
def on_disk(path: Path, damage: str = "") -> Iterator[None]:
    """Within, `path` is written, since it is missing or damaged: what the system says against it is a `DiskError`."""
    try:
        yield
    except OSError as error:
        if damage:
            said = f"it is damaged ({damage}), and cannot be set aside: {error.strerror or one_line(error)}"
            raise DiskError(error.errno, said, str(path)) from error
        raise DiskError.of(error, path) from error


def is_full(folder: Path) -> bool:
    """Whether there is hardly any space left for a folder."""
    return shutil.disk_usage(folder).free < FULL


def full_disk(folder: Path) -> DiskError:
    return DiskError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


#: the file in a folder that says what the others hold
MANIFEST = "manifest.json"
#: free bytes below which what failed while it wrote a folder has failed for want of space
FULL = 1 << 20
#: what the ending of a half-written file begins with, where it comes from another machine; letters follow
COMING = "from-"
#: the ending of what was set aside
DAMAGED = ".damaged"
#: folders whose contents were compared by this process, with the sizes and times of their files at that moment
_compared: dict[Path, list[tuple[str, int, int]]] = {}


def _say(line: str) -> None:
    warnings.warn(line, stacklevel=4)


class Cache:
    """A folder of artefacts. Keys are hex digests; names from users or plug-ins never become paths.

    report: is called with one line for each artefact that is found damaged
    tier: where artefacts of other machines lie; None: there are none
    made_with: the versions that bits depend on, which are noted in the manifest of each folder that is made
    """

    def __init__(
        self,
        root: Path,
        report: Callable[[str], None] = _say,
        tier: Tier | None = None,
        made_with: Mapping[str, str] | None = None,
    ) -> None:
        self.root = root
        self._made_with = dict(made_with or {})
        self._report = report
        self._tier = tier
        #: names of what is known to be in the tier
        self._shared: set[str] = set()
        #: kind and key of the files that were put into the tier or came from it
        self._files: set[tuple[str, str]] = set()

    def path(self, kind: str, key: str) -> Path:
        if not (kind.isidentifier() and key.replace("-", "").isalnum()):
            raise ValueError(f"{kind!r}/{key!r} is no name of an artefact.")
        return self.root / kind / key

    def has(self, kind: str, key: str) -> bool:
        """The artefact is here, or in the second tier."""
        if self.path(kind, key).exists() or self._tier is None:
            return self.path(kind, key).exists()
        return self._tier.has(f"{kind}/{key}") or self._tier.has(f"{kind}/{key}/{MANIFEST}")

    def get_or_build(
        self, kind: str, key: str, build: Callable[[Path], None], inputs: Mapping[str, Any] | None = None
    ) -> Path:
        """The folder of an artefact. If it is missing, `build(folder)` makes it: in one process, while others wait.

        inputs: what the key is made of, as JSON values: noted in the manifest for a reader
        """
        target = self.path(kind, key)
        what = damage(target) if target.exists() else ""
        if target.exists() and not what:
            self._share_folder(kind, key)
            return target
        lock = FileLock(f"{target}.lock")
        with on_disk(target, what):
            target.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        try:
            if target.exists() and (what := damage(target)):
                self._set_aside(target, what)
            if not target.exists():
                self._make(kind, key, build, inputs or {})
        finally:
            lock.release()
        self._share_folder(kind, key)
        return target

    def _make(self, kind: str, key: str, build: Callable[[Path], None], inputs: Mapping[str, Any]) -> None:
        """The folder of an artefact whose lock is held: from the tier, or built now."""
        target = self.path(kind, key)
        part = target.with_name(f"{key}.part")
        self._remove(part)  # what a killed builder left
        with on_disk(part):
            part.mkdir()
        try:
            if not self._arrived(kind, key, part):
                build(part)
                known = {"made_with": self._made_with, "inputs": dict(inputs), "files": _manifest(part)}
                write_atomic(part / MANIFEST, json.dumps(known, indent=1).encode())
        except Exception as error:  # libraries say in their own ways that a file could not be written
            if isinstance(error, DiskError) or is_full(part):
                shutil.rmtree(part, ignore_errors=True)
                raise error if isinstance(error, DiskError) else full_disk(part) from error
            raise
        with on_disk(target):
            part.replace(target)
        _compared[target] = _stamps(target)

    # -- the second tier --------------------------------------------------------------------------------------------

    def _arrived(self, kind: str, key: str, part: Path) -> bool:
        """Copy the folder of an artefact from the tier into `part`, which stays empty where the tier lacks it."""
        name = f"{kind}/{key}"
        if self._tier is None or not self._tier.fetch(f"{name}/{MANIFEST}", part / MANIFEST):
            return False
        try:
            files = [_inside(part, file) for file in _files_of(part)]
            whole = all(self._tier.fetch(f"{name}/{file.relative_to(part).as_posix()}", file) for file in files)
            what = damage(part) if whole else "a file is missing"
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            what = one_line(error)
        _compared.pop(part, None)
        if not what:
            self._shared.add(name)
            return True
        self._report(f"{name} arrived damaged ({what}): it is made again")
        shutil.rmtree(part)
        part.mkdir()
        self._tier.drop(name)
        return False

    def _share_folder(self, kind: str, key: str) -> None:
        """Put the folder of an artefact into the tier, where it lacks it; the manifest comes last."""
        name, target = f"{kind}/{key}", self.path(kind, key)
        if self._tier is None or name in self._shared:
            return
        if not self._tier.has(f"{name}/{MANIFEST}"):
            for file, _, _ in _stamps(target):
                self._tier.put(f"{name}/{file}", target / file)
            self._tier.put(f"{name}/{MANIFEST}", target / MANIFEST)
        self._shared.add(name)

    def put(self, kind: str, key: str, data: bytes) -> None:
        """Store a file, here and in the tier."""
        path = self.path(kind, key)
        write_atomic(path, data)
        self._share_file(kind, key)

    def _share_file(self, kind: str, key: str) -> None:
        if self._tier is not None:
            self._tier.put(f"{kind}/{key}", self.path(kind, key))
            self._files.add((kind, key))

    def pull(self, kind: str, key: str) -> bool:
        """Whether a file is here, if need be after it was copied from the tier."""
        path = self.path(kind, key)
        if path.exists() or self._tier is None:
            return path.exists()
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part-{os.getpid()}")
        try:
            if self._tier.fetch(f"{kind}/{key}", part):
                part.replace(path)
                self._files.add((kind, key))
        finally:
            part.unlink(missing_ok=True)
        return path.exists()

    def shed(self, *kinds: str) -> None:
        """Remove the files of these kinds here that the tier has, and leave them there."""
        for kind, key in [name for name in self._files if name[0] in kinds]:
            self._remove(self.path(kind, key))
            self._files.discard((kind, key))

    # -- what lies here ---------------------------------------------------------------------------------------------

    def _set_aside(self, target: Path, what: str) -> None:
        aside = target.with_name(f"{target.name}{DAMAGED}")
        self._remove(aside)
        with on_disk(target, what), suppress(FileNotFoundError):  # another process was faster
            target.replace(aside)
        self._report(f"{target} is damaged ({what}): it is set aside as {aside.name} and made again")

    def drop(self, kind: str, key: str) -> None:
        """Remove an artefact if it is there, from the tier too."""
        self._remove(self.path(kind, key))
        self._shared.discard(f"{kind}/{key}")
        self._files.discard((kind, key))
        if self._tier is not None:
            self._tier.drop(f"{kind}/{key}")

    @staticmethod
    def _remove(target: Path) -> None:
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target, ignore_errors=True)
        else:
            with on_disk(target):
                target.unlink(missing_ok=True)

    def put_state(self, key: str, state: State, cost: Cost = NO_COST) -> None:
        """Store a defense's state under its digest, with what its answers took."""
        facts = json.dumps({"facts": state.facts, "cost": asdict(cost)})
        self.put("states", key, dump_tensors(state.tensors, {"state": facts}))

    def get_state(self, key: str) -> tuple[State, Cost] | None:
        """A stored state and what its answers took; None if it is not stored, or is damaged."""
        held = self.read("states", key)
        if held is None:
            return None
        tensors, facts = held
        stored = json.loads(facts["state"])
        cost = stored["cost"]
        return State(tensors, stored["facts"]), Cost(**{**cost, "delays": tuple(cost["delays"])})

    def put_tensors(self, kind: str, tensors: Mapping[str, Tensor], facts: Mapping[str, str] | None = None) -> str:
        """Store tensors under the sha256 of the file that holds them; returns that key."""
        return self.put_file(kind, dump_tensors(tensors, facts or {}))

    def put_file(self, kind: str, data: bytes) -> str:
        """Store the bytes of a file of tensors under their sha256; returns that key."""
        key = hashlib.sha256(data).hexdigest()
        path = self.path(kind, key)
        if not is_own_file(path) or _sha256(path) != key:
            write_atomic(path, data)
        self._share_file(kind, key)
        return key

    def find_tensors(self, kind: str, key: str) -> dict[str, Tensor]:
        """The tensors of a file; {} if it is missing or damaged."""
        held = self.read(kind, key)
        return {} if held is None else held[0]

    def read(self, kind: str, key: str) -> tuple[dict[str, Tensor], dict[str, str]] | None:
        """The tensors and facts of a file; None if it is missing, or damaged and therefore set aside."""
        path = self.path(kind, key)
        if path.is_symlink() or (path.exists() and not path.is_file()):  # a pipe would be waited for
            self._set_aside(path, "it is a link" if path.is_symlink() else "it is no file")
        if not self.pull(kind, key):
            return None
        try:
            data = path.read_bytes()
            strange = stranger(path, self.root)
        except FileNotFoundError:  # another process has just removed it
            return None
        try:  # a file that is named by its content needs no other proof, and older ones have none
            named = hashlib.sha256(data).hexdigest() == key
            if strange and not named:
                raise ValueError(strange)
            return parse_tensors(data, proven=named)
        except ValueError as error:
            self._set_aside(path, str(error))
            return None


def _inside(folder: Path, name: str) -> Path:
    """The file of this name in a folder; `ValueError` for a name that leads out of it."""
    file = folder / name
    if not name or ".." in file.parts or not file.is_relative_to(folder):
        raise ValueError(f"its manifest names the file {name!r:.80}")
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def damage_of(kind: str, path: Path) -> str:
    """What is wrong with an artefact of a kind, whose contents are compared; "" for nothing."""
    if path.is_dir() or path.is_symlink():
        _compared.pop(path, None)
        return damage(path)
    if not path.is_file():  # a pipe would be waited for
        return "it is no file"
    data = path.read_bytes()
    named = hashlib.sha256(data).hexdigest() == path.name
    if kind == "images" and not named:
        return "it holds other bytes than its name says"
    if not named and (strange := stranger(path, path.parents[1])):
        return strange
    try:
        if kind != "fits":
            parse_tensors(data, proven=named)
    except ValueError as error:
        return str(error)
    return ""


def damage(folder: Path) -> str:
    """What is wrong with the folder of an artefact, in a few words; "" for nothing. Contents: once per process."""
    if folder.is_symlink():
        return "it is a link"
    try:
        for path in (folder, *folder.rglob("*")):
            if path.is_symlink():  # where it leads may change, and nothing here would
                return f"{path.relative_to(folder).as_posix()} is a link"
            if strange := stranger(path, folder.parents[1]):
                return strange
        known = _files_of(folder)
        sizes = {name: int(size) for name, (size, _) in known.items()}
    except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return "it has no manifest"
    stamps = _stamps(folder)
    if {name: size for name, size, _ in stamps} != sizes:
        return "its files have other sizes than when they were made"
    if _compared.get(folder) == stamps:
        return ""
    if wrong := [name for name, (_, content) in known.items() if _sha256(folder / name) != content]:
        return f"{wrong[0]} holds other bytes than when it was made"
    _compared[folder] = stamps
    return ""


def stranger(path: Path, root: Path) -> str:
    """Whom a file or folder of the cache belongs to, where that is nobody whose files count here; "" otherwise.

    Files count of this user, of root, and of the owner of the cache's folder. Where that folder may be written by its
    group, files of the group count too: so several users share one cache.
    """
    held, top = path.lstat(), root.stat()
    if held.st_uid in (getattr(os, "geteuid", int)(), 0, top.st_uid):
        return ""
    if top.st_mode & stat.S_IWGRP and held.st_gid == top.st_gid:
        return ""
    return f"{path.name[:12]} belongs to the user {held.st_uid}, who is neither you nor the owner of {root}"


def is_own_file(path: Path) -> bool:
    """Whether a file of the cache is there that may be read: no link, no pipe, nobody else's."""
    try:
        return path.is_file() and not path.is_symlink() and not stranger(path, path.parents[1])
    except FileNotFoundError:  # another process has just removed it
        return False


def _files_of(folder: Path) -> dict[str, Any]:
    """Size and sha256 of each file, as the manifest of a folder says; an older manifest says nothing else."""
    if not (folder / MANIFEST).is_file():  # a pipe would be waited for
        raise ValueError("it has no manifest")
    known = json.loads((folder / MANIFEST).read_bytes())
    files = known.get("files") if isinstance(known, dict) and "made_with" in known else known
    if not isinstance(files, dict):
        raise ValueError("its manifest names no files")
    return files


def _manifest(folder: Path) -> dict[str, tuple[int, str]]:
    """Size and sha256 of each file of an artefact."""
    return {name: (size, _sha256(folder / name)) for name, size, _ in _stamps(folder)}


def _stamps(folder: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of change of each file of an artefact."""
    files = sorted(path for path in folder.rglob("*") if path.name != MANIFEST and not path.is_dir())
    facts = ((path, path.lstat()) for path in files)
    return [(path.relative_to(folder).as_posix(), stat.st_size, stat.st_mtime_ns) for path, stat in facts]


def _sha256(path: Path) -> str:
    """sha256 of a file; "" where it cannot be read, or is a pipe that would be waited for."""
    if not path.is_file():
        return ""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def dump_tensors(tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> bytes:
    """Tensors and facts as one safetensors file, with their sha256; tensors land on the CPU."""
    from safetensors.torch import save

    held = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    return save(held, metadata={**facts, "sha256": _content(held, facts)})


def parse_tensors(data: bytes, proven: bool = False) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and facts that `dump_tensors` wrote; `ValueError` where they are not what it wrote.

    proven: the bytes are known to be whole, so the sha256 among the facts is not asked for.
    """
    from safetensors.torch import load

    try:
        tensors = load(data)  # first: it refuses a header that is no table of tensors, however deep it is
        length = int.from_bytes(data[:8], "little")
        facts = json.loads(data[8 : 8 + length]).get("__metadata__", {})
        content = facts.pop("sha256", None)
    except (SafetensorError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise ValueError("it is no whole file of tensors") from None
    if not proven and content != _content(tensors, facts):
        raise ValueError("it holds other bytes than were written")
    return tensors, facts


def _content(tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> str:
    """sha256 of facts and of tensors on the CPU, by name."""
    import torch

    whole = hashlib.sha256(json.dumps(sorted(facts.items())).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        whole.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()

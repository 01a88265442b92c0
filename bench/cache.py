"""Content-addressed files: trained bases, banks, crafted images, states. Written atomically, never half there.

An artefact is a folder `root/kind/key` or a file of tensors. A folder is made in `root/kind/key.part` under a lock and
renamed, so that two processes make it only once, and a kill never leaves half an artefact under its name.

Nothing damaged is believed. A folder has a manifest with the size and the sha256 of each file: sizes are compared at
every opening, contents once per process. A file of tensors holds the sha256 of what is in it. What does not hold is set
aside as `key.damaged`, reported in one line, and made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from bench.rows import NO_COST, Cost
from bench.values import State


def digest(value: Any) -> str:
    """sha256 of a JSON value in its canonical form."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, whenever the process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part-{os.getpid()}")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


#: the file in a folder that says what the others hold
MANIFEST = "manifest.json"
#: the ending of what was set aside
DAMAGED = ".damaged"
#: folders whose contents were compared by this process, with the sizes and times of their files at that moment
_compared: dict[Path, list[tuple[str, int, int]]] = {}


def _say(line: str) -> None:
    warnings.warn(line, stacklevel=4)


class Cache:
    """A folder of artefacts. Keys are hex digests; names from users or plug-ins never become paths.

    report: is called with one line for each artefact that is found damaged
    """

    def __init__(self, root: Path, report: Callable[[str], None] = _say) -> None:
        self.root = root
        self._report = report

    def path(self, kind: str, key: str) -> Path:
        if not (kind.isidentifier() and key.replace("-", "").isalnum()):
            raise ValueError(f"{kind!r}/{key!r} is no name of an artefact.")
        return self.root / kind / key

    def has(self, kind: str, key: str) -> bool:
        return self.path(kind, key).exists()

    def get_or_build(self, kind: str, key: str, build: Callable[[Path], None]) -> Path:
        """The folder of an artefact. If it is missing, `build(folder)` makes it: in one process, while others wait."""
        target = self.path(kind, key)
        if target.exists() and not damage(target):
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if target.exists() and (what := damage(target)):
                self._set_aside(target, what)
            if not target.exists():
                part = target.with_name(f"{key}.part")
                shutil.rmtree(part, ignore_errors=True)  # what a killed builder left
                part.mkdir()
                build(part)
                write_atomic(part / MANIFEST, json.dumps(_manifest(part)).encode())
                part.replace(target)
                _compared[target] = _stamps(target)
        return target

    def _set_aside(self, target: Path, what: str) -> None:
        aside = target.with_name(f"{target.name}{DAMAGED}")
        self._remove(aside)
        with suppress(FileNotFoundError):  # another process was faster
            target.replace(aside)
        self._report(f"{target} is damaged ({what}): it is set aside as {aside.name} and made again")

    def drop(self, kind: str, key: str) -> None:
        """Remove an artefact if it is there."""
        self._remove(self.path(kind, key))

    @staticmethod
    def _remove(target: Path) -> None:
        if target.is_dir():
            shutil.rmtree(target, ignore_errors=True)
        else:
            target.unlink(missing_ok=True)

    def put_state(self, key: str, state: State, cost: Cost = NO_COST) -> None:
        """Store a defense's state under its digest, with what its answers took."""
        facts = json.dumps({"facts": state.facts, "cost": asdict(cost)})
        write_atomic(self.path("states", key), dump_tensors(state.tensors, {"state": facts}))

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
        if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != key:
            write_atomic(path, data)
        return key

    def find_tensors(self, kind: str, key: str) -> dict[str, Tensor]:
        """The tensors of a file; {} if it is missing or damaged."""
        held = self.read(kind, key)
        return {} if held is None else held[0]

    def read(self, kind: str, key: str) -> tuple[dict[str, Tensor], dict[str, str]] | None:
        """The tensors and facts of a file; None if it is missing, or damaged and therefore set aside."""
        path = self.path(kind, key)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        try:  # a file that is named by its content needs no other proof, and older ones have none
            return parse_tensors(data, proven=hashlib.sha256(data).hexdigest() == key)
        except ValueError as error:
            self._set_aside(path, str(error))
            return None


def damage_of(kind: str, path: Path) -> str:
    """What is wrong with an artefact of a kind, whose contents are compared; "" for nothing."""
    if path.is_dir() or path.is_symlink():
        _compared.pop(path, None)
        return damage(path)
    data = path.read_bytes()
    named = hashlib.sha256(data).hexdigest() == path.name
    if kind == "images" and not named:
        return "it holds other bytes than its name says"
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
        known = json.loads((folder / MANIFEST).read_bytes())
        sizes = {name: int(size) for name, (size, _) in known.items()}
    except (OSError, ValueError, TypeError, AttributeError):
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


def _manifest(folder: Path) -> dict[str, tuple[int, str]]:
    """Size and sha256 of each file of an artefact."""
    return {name: (size, _sha256(folder / name)) for name, size, _ in _stamps(folder)}


def _stamps(folder: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of change of each file of an artefact."""
    files = sorted(path for path in folder.rglob("*") if path.name != MANIFEST and not path.is_dir())
    facts = ((path, path.lstat()) for path in files)
    return [(path.relative_to(folder).as_posix(), stat.st_size, stat.st_mtime_ns) for path, stat in facts]


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def dump_tensors(tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> bytes:
    """Tensors and facts as one safetensors file, with their sha256; tensors land on the CPU."""
    held = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    return save_safetensors(held, metadata={**facts, "sha256": _content(held, facts)})


def parse_tensors(data: bytes, proven: bool = False) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and facts that `dump_tensors` wrote; `ValueError` where they are not what it wrote.

    proven: the bytes are known to be whole, so the sha256 among the facts is not asked for.
    """
    try:
        tensors = load_safetensors(data)  # first: it refuses a header that is no table of tensors, however deep it is
        length = int.from_bytes(data[:8], "little")
        facts = json.loads(data[8 : 8 + length]).get("__metadata__", {})
        content = facts.pop("sha256", None)
    except (SafetensorError, ValueError, LookupError, TypeError, AttributeError):
        raise ValueError("it is no whole file of tensors") from None
    if not proven and content != _content(tensors, facts):
        raise ValueError("it holds other bytes than were written")
    return tensors, facts


def _content(tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> str:
    """sha256 of facts and of tensors on the CPU, by name."""
    whole = hashlib.sha256(json.dumps(sorted(facts.items())).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        whole.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()

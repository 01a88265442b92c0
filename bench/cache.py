"""Content-addressed files: trained bases, banks, crafted images, states. Written atomically, never half there.

An artefact is a folder `root/kind/key`. It is made in `root/kind/key.part-...` under a lock and renamed, so that two
processes make it only once, and a kill never leaves half an artefact under its name.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

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


class Cache:
    """A folder of artefacts. Keys are hex digests; names from users or plug-ins never become paths."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, kind: str, key: str) -> Path:
        if not (kind.isidentifier() and key.replace("-", "").isalnum()):
            raise ValueError(f"{kind!r}/{key!r} is no name of an artefact.")
        return self.root / kind / key

    def has(self, kind: str, key: str) -> bool:
        return self.path(kind, key).exists()

    def get_or_build(self, kind: str, key: str, build: Callable[[Path], None]) -> Path:
        """The folder of an artefact. If it is missing, `build(folder)` makes it: in one process, while others wait."""
        target = self.path(kind, key)
        if target.exists():
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if not target.exists():
                part = target.with_name(f"{key}.part")
                shutil.rmtree(part, ignore_errors=True)  # what a killed builder left
                part.mkdir()
                build(part)
                part.replace(target)
        return target

    def drop(self, kind: str, key: str) -> None:
        """Remove an artefact if it is there."""
        target = self.path(kind, key)
        if target.is_dir():
            shutil.rmtree(target, ignore_errors=True)
        else:
            target.unlink(missing_ok=True)

    def put_state(self, key: str, state: State, cost: Cost = NO_COST) -> None:
        """Store a defense's state under its digest, with what its answers took."""
        facts = json.dumps({"facts": state.facts, "cost": asdict(cost)})
        write_atomic(self.path("states", key), dump_tensors(state.tensors, {"state": facts}))

    def get_state(self, key: str) -> tuple[State, Cost] | None:
        """A stored state and what its answers took; None if it is not stored."""
        try:
            data = self.path("states", key).read_bytes()
        except FileNotFoundError:
            return None
        tensors, facts = parse_tensors(data)
        stored = json.loads(facts["state"])
        cost = stored["cost"]
        return State(tensors, stored["facts"]), Cost(**{**cost, "delays": tuple(cost["delays"])})

    def put_tensors(self, kind: str, tensors: Mapping[str, Tensor], facts: Mapping[str, str] | None = None) -> str:
        """Store tensors under the sha256 of the file that holds them; returns that key."""
        data = dump_tensors(tensors, facts or {})
        key = hashlib.sha256(data).hexdigest()
        path = self.path(kind, key)
        if not path.exists():
            write_atomic(path, data)
        return key

    def find_tensors(self, kind: str, key: str) -> dict[str, Tensor]:
        """The tensors of a file; {} if it is missing or damaged."""
        try:
            return parse_tensors(self.path(kind, key).read_bytes())[0]
        except (OSError, ValueError, SafetensorError):
            return {}


def dump_tensors(tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> bytes:
    """Tensors and facts as one safetensors file; tensors land on the CPU."""
    return save_safetensors({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, metadata=dict(facts))


def parse_tensors(data: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and facts of a safetensors file."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    return load_safetensors(data), header.get("__metadata__", {})

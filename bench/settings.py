"""How runs are executed: where files lie, on which device, by how many workers. Nothing here changes a row."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.deadline import NEVER, Deadline


@dataclass(frozen=True)
class Settings:
    """How runs are executed; nothing here changes a row."""

    cache_root: Path
    data_dir: Path | None
    device: str
    config: Path | None
    plugins: tuple[str, ...]
    chunk: int
    checkpoint_s: float
    workers: int
    deadline: Deadline = NEVER

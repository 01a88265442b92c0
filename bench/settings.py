"""How runs are executed: where files lie, on which device, by how many workers. Nothing here changes a row."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from bench.deadline import NEVER, Deadline


@dataclass(frozen=True)
class Settings:
    """How runs are executed; nothing here changes a row.

    apart    one worker is a process of its own too, so that foreign code can end or block that process only
    store    URL or folder of the second tier of the cache, which other machines share; "": there is none
    engine   `local`: processes of this machine; `ray`: workers of a Ray cluster
    address  of the Ray cluster; "": Ray is started on this machine
    gpus_per_worker  GPUs, or the part of one, that a worker on Ray has when the device is a GPU
    retries  how often a job whose worker was lost begins again, from what is stored of it
    silent_s seconds without a row or a line of progress after which a job's worker is ended
    """

    cache_root: Path
    data_dir: Path | None
    device: str
    config: Path | None
    plugins: tuple[str, ...]
    chunk: int
    checkpoint_s: float
    workers: int
    deadline: Deadline = NEVER
    apart: bool = False
    silent_s: float = math.inf
    store: str = ""
    engine: str = "local"
    address: str = ""
    gpus_per_worker: float = 1.0
    retries: int = 2

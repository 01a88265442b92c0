"""The protocols: how a game is played. Each is a generator of chunks that can start after any chunk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bench.game import Chunk, Meter
from bench.spec import RunSpec
from bench.workbench import Workbench


@dataclass(frozen=True)
class Resume:
    """Where an earlier process left a game: rows that are committed, points served, and the state's digest."""

    rows: int = 0
    served: int = 0
    digest: str = ""


Play = Callable[[Workbench, RunSpec, int, Resume, Meter], Iterator[Chunk]]


def play(bench: Workbench, spec: RunSpec, game: int, resume: Resume, meter: Meter) -> Iterator[Chunk]:
    """Play one game of a run from where it was left; yields its chunks in order."""
    from bench.protocols.probe import play_probe
    from bench.protocols.stream import play_stream

    protocols: dict[str, Play] = {"stream": play_stream, "replay": play_stream, "probe": play_probe}
    return protocols[spec.game.protocol](bench, spec, game, resume, meter)

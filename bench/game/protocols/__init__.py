"""The protocols: how a game is played. Each is a generator of chunks that can start after any chunk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from bench import registry
from bench.game.chunks import Chunk
from bench.game.crafting import Crafted
from bench.game.resources import Workbench
from bench.planning.spec import RunSpec
from bench.rows import Meter, Resume


class Crafts(Protocol):
    """Where the proposed images of a game come from."""

    def at(self, places: list[int]) -> Crafted:
        """Images for the points at these places of the seeded order."""


Play = Callable[[Workbench, RunSpec, int, Resume, Meter, Crafts | None], Iterator[Chunk]]


def play(
    bench: Workbench, spec: RunSpec, game: int, resume: Resume, meter: Meter, given: Crafts | None = None
) -> Iterator[Chunk]:
    """Play one game of a run from where it was left; yields its chunks in order.

    given: images that were crafted before; None: the attack crafts them.
    """
    found: Play = registry.protocols.load(spec.game.name)
    return found(bench, spec, game, resume, meter, given)

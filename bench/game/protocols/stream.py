"""`stream` and `replay`: every point is attacked and served in order, and the state carries on.

stream  what the attack may see is the defense as it serves now
replay  the whole sequence is crafted first, against simulated copies, then served once to a fresh defense
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import torch

from bench.contracts import BLOCK, labels_of
from bench.draws import generator
from bench.game.chunks import Chunk, ChunkMaker, make_row
from bench.game.crafting import Crafted, craft
from bench.game.judge import admitted, rule
from bench.game.protocols import Crafts
from bench.game.resources import Workbench
from bench.game.serving import Serving
from bench.planning.spec import RunSpec
from bench.rows import Meter, Resume


def play_stream(
    bench: Workbench, spec: RunSpec, game: int, resume: Resume, meter: Meter, given: Crafts | None = None
) -> Iterator[Chunk]:
    """One stream of all n examples; games after the first play a permuted stream with a noise key of their own."""
    serving = bench.serving(spec, spec.noise_key(game))
    places = stream_order(spec, game)
    start = resume.rows
    if start >= len(places):
        return
    if start and not serving.resume(resume.digest, resume.served):
        start = 0
    crafts = given or _Crafts(bench, spec, game, serving, meter)
    bounded = bench.attack(spec).kind == "budget"
    chunks = ChunkMaker(serving, bench.settings.chunk, bench.settings.checkpoint_s)
    step = {"static": BLOCK, "online": 1, "batch": spec.game.batch}[spec.kind]
    if spec.kind == "batch" and spec.n % step:
        meter.flags["short-batch"] = f"the last batch of a game holds {spec.n % step} of {step} points"
    for first in range(start - start % step, len(places), step):
        here = places[first : first + step]
        indices = [spec.order[place] for place in here]
        x, y = bench.points(spec, indices)
        crafted = crafts.at(here)
        rulings = rule(x, crafted.images, spec.threat, bounded)
        served = admitted(x, crafted.images, rulings)
        before_s = serving.seconds
        neighbours = serving.neighbour_labels(served)
        spent_s, steps = serving.seconds, serving.defense.adaptation_steps
        answers = labels_of(serving.serve(served))
        spent_s = serving.seconds - spent_s
        steps = serving.defense.adaptation_steps - steps
        meter.defense_s += serving.seconds - before_s
        for i in range(len(here)):
            if first + i >= start:
                row = make_row(
                    game, first + i, indices[i], int(y[i]), x[i], crafted, i, rulings[i], answers[i], None,
                    steps // len(here), spent_s / len(here), neighbours[i],
                )  # fmt: skip
                chunks.add(row, crafted.images[i])
        if chunks.due():
            yield from chunks.cut(store=True)
    yield from chunks.cut(store=False)


def stream_order(spec: RunSpec, game: int) -> list[int]:
    """Places in the seeded order, as they come in a game: as they are in the first, permuted in later ones."""
    if game == 0:
        return spec.places
    return [int(i) for i in torch.randperm(spec.n, generator=generator(spec.seed, "order", game))]


class _Crafts:
    """Proposed images by place in the seeded order, crafted as late as the threat model needs and no later.

    Crafted before serving, in blocks aligned to the seeded order: attacks on the base alone (cached), attacks that see
    nothing of the state, attacks on static defenses, everything in `replay`. The rest is crafted point by point against
    the defense as it serves now.
    """

    def __init__(self, bench: Workbench, spec: RunSpec, game: int, serving: Serving, meter: Meter) -> None:
        self._bench = bench
        self._spec = spec
        self._attack = bench.attack(spec)
        self._meter = meter
        deployed = None if spec.game.protocol == "replay" else serving
        self._oracle = bench.oracle(spec, game, deployed)
        #: the order that blocks are cut from: a replayed sequence is crafted as it will be served
        self._order = stream_order(spec, game) if spec.game.protocol == "replay" else spec.places
        self._where = {place: i for i, place in enumerate(self._order)}
        self._late = spec.sees_state and spec.kind != "static" and spec.game.protocol == "stream"
        self._blocks: dict[int, Crafted] = {}

    def at(self, places: list[int]) -> Crafted:
        """Proposed images for the points at these places."""
        if self._late:
            return self._craft([self._spec.order[place] for place in places])
        size = self._attack.block or self._spec.n
        spots = [self._where[place] for place in places]
        parts = [
            self._block(block).rows([spot - block * size for spot in run])
            for block, run in groupby(spots, key=lambda spot: spot // size)
        ]
        return Crafted.join(parts)

    def _block(self, block: int) -> Crafted:
        if block not in self._blocks:
            if self._spec.crafted_on_base:
                crafted = self._bench.crafted(self._spec, block)
            else:
                size = self._attack.block or self._spec.n
                places = self._order[block * size : (block + 1) * size]
                crafted = self._craft([self._spec.order[place] for place in places])
            self._blocks[block] = crafted
        return self._blocks[block]

    def _craft(self, indices: list[int]) -> Crafted:
        x, y = self._bench.points(self._spec, indices)
        made = craft(self._attack, self._oracle, x, y, self._spec, indices)
        self._meter.attack_s += float(made.seconds.sum())
        return made

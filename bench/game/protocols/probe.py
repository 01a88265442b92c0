"""`probe`: a fresh defense serves p background points, the attacker observes its share and crafts its victims, `delay`
more background points are served, then the victims are answered from that one state, x and x' both.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby

import torch

from bench.contracts import BLOCK, labels_of
from bench.draws import generator
from bench.game.chunks import Chunk, ChunkMaker, make_row
from bench.game.crafting import Crafted, craft
from bench.game.judge import admitted, rule
from bench.game.oracle import GameOracle
from bench.game.protocols import Crafts
from bench.game.resources import Workbench
from bench.game.serving import Serving, seen_with
from bench.planning.spec import RunSpec
from bench.rows import Meter, Resume


def play_probe(
    bench: Workbench, spec: RunSpec, game: int, resume: Resume, meter: Meter, given: Crafts | None = None
) -> Iterator[Chunk]:
    """One trial: its own background, noise key and share of the victims."""
    places = victims(spec, game)
    if resume.rows >= len(places):
        return
    indices = [spec.order[place] for place in places]
    p, delay = spec.game.p, spec.threat.delay
    background, _ = bench.points(spec, background_of(spec, game))
    serving = bench.serving(spec, spec.noise_key(game))
    _serve_background(bench, serving, background[:p], meter)

    x, y = bench.points(spec, indices)
    company = background[p + delay :] if spec.game.batch else None
    if given is None:
        seen = seen_with(spec.threat.known, p, generator(spec.seed, "known", game))
        observed = background[:p][seen.to(background.device)]
        oracle = bench.oracle(spec, game, serving, observed, company)
        crafted = _craft(bench, spec, oracle, places, meter)
    else:
        crafted = given.at(places)

    _serve_background(bench, serving, background[p : p + delay], meter)
    rulings = rule(x, crafted.images, spec.threat, bench.attack(spec).kind == "budget")
    served = admitted(x, crafted.images, rulings)
    chunks = ChunkMaker(serving, bench.settings.chunk, bench.settings.checkpoint_s)
    step = BLOCK if spec.kind == "static" else 1
    for first in range(resume.rows - resume.rows % step, len(places), step):
        group = slice(first, first + step)
        clean = _probe(serving, x[group], company)
        before_s = serving.seconds
        neighbours = serving.neighbour_labels(served[group])
        meter.defense_s += serving.seconds - before_s
        same = torch.equal(served[group], x[group])
        attacked = clean if same else _probe(serving, served[group], company)
        meter.defense_s += clean.seconds + (0.0 if same else attacked.seconds)
        count = len(attacked.labels)
        for i in range(count):
            at = first + i
            if at >= resume.rows:
                row = make_row(
                    game, at, indices[at], int(y[at]), x[at], crafted, at, rulings[at], attacked.labels[i],
                    clean.labels[i], attacked.steps // count, attacked.seconds / count, neighbours[i],
                )  # fmt: skip
                chunks.add(row, crafted.images[at])
        if chunks.due():
            yield from chunks.cut(store=False)
    yield from chunks.cut(store=False)


def victims(spec: RunSpec, game: int) -> list[int]:
    """Places in the seeded order of one trial's victims: every `trials`-th, so that a smaller n is a prefix."""
    return [place for place in spec.places if place % spec.game.trials == game]


def background_of(spec: RunSpec, game: int) -> list[int]:
    """Test indices of one trial's background, in the order of service: p, then delay, then the rest of a batch.

    Disjoint from the trial's victims, also where only some are chosen; backgrounds of different trials may overlap. A
    longer delay extends a shorter.
    """
    own = {spec.order[place] for place in victims(replace(spec, chosen=None), game)}
    shuffled = torch.randperm(spec.test_size, generator=generator(spec.seed, "background", game)).tolist()
    count = spec.game.p + spec.threat.delay + max(spec.game.batch - 1, 0)
    return [i for i in shuffled if i not in own][:count]


def _serve_background(bench: Workbench, serving: Serving, x: torch.Tensor, meter: Meter) -> None:
    start = serving.seconds
    serving.catch_up(x, lambda done: bench.report(f"background {done}/{len(x)}"))
    meter.defense_s += serving.seconds - start
    meter.background = serving.cost


@dataclass(frozen=True)
class _Answers:
    """Labels of some points, and what answering them took in all."""

    labels: list[int]
    steps: int
    seconds: float


def _probe(serving: Serving, x: torch.Tensor, company: torch.Tensor | None) -> _Answers:
    """Answers to each point of x as if it came next."""
    seconds, steps = serving.seconds, serving.defense.adaptation_steps
    labels = labels_of(serving.probe(x, company))
    return _Answers(labels, serving.defense.adaptation_steps - steps, serving.seconds - seconds)


def _craft(bench: Workbench, spec: RunSpec, oracle: GameOracle, places: list[int], meter: Meter) -> Crafted:
    """Proposed images for the victims at these places of the seeded order."""
    attack = bench.attack(spec)
    parts = []
    if spec.crafted_on_base:
        size = attack.block or spec.n
        for block, own in groupby(places, key=lambda place: place // size):
            parts.append(bench.crafted(spec, block).rows([place % size for place in own]))
    else:
        size = attack.block or len(places)
        for first in range(0, len(places), size):
            indices = [spec.order[place] for place in places[first : first + size]]
            x, y = bench.points(spec, indices)
            parts.append(craft(attack, oracle, x, y, spec, indices))
            meter.attack_s += float(parts[-1].seconds.sum())
    return Crafted.join(parts)

"""`probe`: victims are answered from one state, after a background.

A fresh defense serves p background points, the attacker observes its share and crafts its victims, `delay` more
background points are served, then the victims are answered from that one state, x and x' both.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar

import torch
from pydantic import Field

from bench.contracts import BLOCK, Attack
from bench.draws import generator
from bench.game.blocks import Blocks
from bench.game.chunks import Chunk
from bench.game.match import Match
from bench.game.protocols.protocol import Protocol
from bench.game.serving import seen_with
from bench.planning.spec import GameFacts, RunSpec
from bench.rows import Resume
from bench.values import Params


class ProbeParams(Params):
    """p: background points served before the attacker crafts; trials: games that share the victims out."""

    p: int = Field(default=50, ge=0)
    trials: int = Field(default=5, ge=1, le=10_000)


class Probe(Protocol):
    """A trial is a game with its own background, noise key and share of the victims."""

    Params: ClassVar[type[Params]] = ProbeParams
    facts: ClassVar[GameFacts] = GameFacts("trials", "state", splits=True, answers_clean=True, background=True)
    quick: ClassVar[dict[str, Any]] = {"p": 4, "trials": 1}

    def places(self, spec: RunSpec, game: int) -> list[int]:
        """Every `trials`-th victim, so that a smaller n is a prefix of a larger."""
        return [place for place in spec.places if place % self.params.trials == game]

    def others_served(self, spec: RunSpec) -> int:
        return int(self.params.p) + spec.threat.delay

    def card(self, spec: RunSpec) -> str:
        return f"crafted after {self.params.p} inputs, {self.params.trials} games with backgrounds of their own"

    def tag(self, spec: RunSpec) -> str:
        known = [f"known {spec.threat.known:g}"] if spec.threat.weights == "simulated" else []
        return ", ".join([f"p {self.params.p}", *known, f"delay {spec.threat.delay}"])

    def refuses(self, spec: RunSpec, attack: type[Attack]) -> str | None:
        p, delay, batch = self.params.p, spec.threat.delay, spec.game.batch
        victims, company = math.ceil(spec.n / self.params.trials), max(batch - 1, 0)
        needed = p + delay + victims + company
        if needed > spec.test_size:
            return (
                f"p {p} + delay {delay} + {victims} victims a trial"
                f"{f' + {company} points of company' if company else ''} = {needed}, but {spec.dataset.name} has "
                f"{spec.test_size} test points; lower game.p, threat.delay or n, or raise game.trials."
            )
        if spec.kind == "batch" and (p % batch or delay % batch):
            return (
                f"{spec.defense.name} answers batches of {batch}, so game.p ({p}) and threat.delay ({delay}) must be "
                f"multiples of it."
            )
        return None

    def background(self, spec: RunSpec, game: int) -> list[int]:
        """Test indices of one trial's background, in the order of service: p, then delay, then the rest of a batch.

        Disjoint from the trial's victims, also where only some are chosen; backgrounds of different trials may
        overlap. A longer delay extends a shorter.
        """
        own = {spec.order[place] for place in self.places(replace(spec, chosen=None), game)}
        shuffled = torch.randperm(spec.test_size, generator=generator(spec.seed, "background", game)).tolist()
        count = self.others_served(spec) + max(spec.game.batch - 1, 0)
        return [i for i in shuffled if i not in own][:count]

    def play(self, match: Match, resume: Resume) -> Iterator[Chunk]:
        spec, p = match.spec, self.params.p
        places = self.places(spec, match.number)
        if resume.rows >= len(places):
            return
        background, _ = match.points(self.background(spec, match.number))
        before, between, rest = background.tensor_split([p, p + spec.threat.delay])
        company = rest if spec.game.batch else None
        match.serve_background(before)
        seen = seen_with(spec.threat.known, p, generator(spec.seed, "known", match.number)).to(before.device)
        crafts = match.crafts(places, lambda: match.oracle(before[seen], company))
        crafted = crafts.at(places)
        match.serve_background(between)

        chunks, step = match.chunks(stores=False), BLOCK if spec.kind == "static" else 1
        for number, here in enumerate(Blocks(places, step)):
            first = number * step
            if first + len(here) <= resume.rows:
                continue
            group = match.group(first, here, crafted.rows(range(first, first + len(here))))
            clean = match.probe(group.x, company)
            neighbours = match.neighbours(group.served)
            same = torch.equal(group.served, group.x)
            answers = match.answered(group) or match.sent(group, company)
            answers = answers or (clean if same else match.probe(group.served, company))
            for row, image in match.rows(group, answers, neighbours, clean, after=resume.rows):
                chunks.add(row, image)
            yield from chunks.due()
        yield from chunks.rest()

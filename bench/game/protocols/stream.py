"""`stream`: every point is attacked and served in order, and the state carries on.

What the attack may see is the defense as it serves now.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from pydantic import Field

from bench.contracts import Attack
from bench.draws import generator
from bench.game.blocks import Blocks
from bench.game.chunks import Chunk
from bench.game.crafting import Crafts
from bench.game.match import Match
from bench.game.protocols.protocol import Protocol
from bench.planning.rules import protocols_with
from bench.planning.spec import GameFacts, RunSpec
from bench.rows import Resume
from bench.values import Params


class StreamParams(Params):
    """repeats: games over streams of the same points; games after the first permute the stream."""

    repeats: int = Field(default=1, ge=1, le=10_000)


class Stream(Protocol):
    """One stream of all n examples in each game, with a noise key of the game's own."""

    Params: ClassVar[type[Params]] = StreamParams
    facts: ClassVar[GameFacts] = GameFacts(games_key="repeats", shared="stream")
    quick: ClassVar[dict[str, Any]] = {"repeats": 1}

    def places(self, spec: RunSpec, game: int) -> list[int]:
        if game == 0:
            return spec.places
        return [int(i) for i in torch.randperm(spec.n, generator=generator(spec.seed, "order", game))]

    def card(self, spec: RunSpec) -> str:
        return "every input is attacked and served in order, the state carries on"

    def tag(self, spec: RunSpec) -> str:
        return ""

    def refuses(self, spec: RunSpec, attack: type[Attack]) -> str | None:
        threat, name, instead = spec.threat, spec.attack.name, f"use game.protocol={protocols_with(background=True)[0]}"
        if threat.weights == "simulated":
            return f"{name} simulates a defense from a background, and a stream has none; {instead}."
        if attack.block is None and spec.kind != "static" and spec.sees_state:
            return f"{name} crafts all images at once, and in a stream the state moves on; {instead}."
        return None

    def crafts(self, match: Match, places: list[int]) -> Crafts:
        """Images are crafted as late as the threat model needs and no later.

        Attacks that see the state of an online or batch defense craft for the points that come next. All others craft
        whole blocks of the run's examples.
        """
        late = match.spec.sees_state and match.spec.kind != "static"
        return match.crafts(match.spec.places, match.oracle, late=late)

    def play(self, match: Match, resume: Resume) -> Iterator[Chunk]:
        places = self.places(match.spec, match.number)
        if resume.rows >= len(places):
            return
        start = match.resumed(resume)
        crafts, chunks, step = self.crafts(match, places), match.chunks(stores=True), match.step
        if match.spec.kind == "batch" and match.spec.n % step:
            last = match.spec.n % step
            match.meter.flags["short-batch"] = f"the last batch of a game holds {last} of {step} points"
        for number, here in enumerate(Blocks(places, step)):
            first = number * step
            if first + len(here) <= start:
                continue
            group = match.group(first, here, crafts.at(here))
            neighbours = match.neighbours(group.served)
            answers = match.answered(group) or match.sent(group, moves=True) or match.serve(group.served)
            for row, image in match.rows(group, answers, neighbours, after=start):
                chunks.add(row, image)
            yield from chunks.due()
        yield from chunks.rest()

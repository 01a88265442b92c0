"""`poison`: the attacker's inputs are served among those of other users, whose answers are judged.

Nobody perturbs what the other users send: what they lose is what a defense loses by learning from its inputs. The
paired run of the attack `clean` serves the same inputs in the same order, the attacker's as they were before it changed
them.

The n examples of a run are the other users' inputs. Those of the attacker come from the end of the seeded order, so
they are the same for every n. `threat.share` says how many there are, `threat.place` where they are served:

before        all of them, then the others; the number is rounded, for a `batch` defense up to whole batches
within        in front of each batch of a `batch` defense, at least one
interleaved   alone (in batches of their own, of a `batch` defense), in between, as evenly as the share allows
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import count
from typing import ClassVar

from bench.contracts import Attack
from bench.game.chunks import Chunk
from bench.game.crafting import Crafted
from bench.game.match import Match
from bench.game.oracle import Around
from bench.game.protocols.stream import Stream
from bench.planning.spec import GameFacts, RunSpec
from bench.rows import Resume


@dataclass(frozen=True)
class Turn:
    """Inputs that are answered together: places in the seeded order, the attacker's first.

    others: places of the other users' inputs that the attacker knows if the threat model says so: those of the same
    batch, or those that are served before it sends again.
    """

    attackers: list[int]
    judged: list[int]
    others: list[int]


class Poison(Stream):
    """A stream in which the attacker's inputs move the state, and other users' answers count."""

    facts: ClassVar[GameFacts] = GameFacts(games_key="repeats", shared="stream", among=True)

    def places(self, spec: RunSpec, game: int) -> list[int]:
        return [place for turn in self.turns(spec, game) for place in (*turn.attackers, *turn.judged)]

    def turns(self, spec: RunSpec, game: int) -> list[Turn]:
        """The turns of one game, in their order."""
        judged, size, share = super().places(spec, game), max(spec.game.batch, 1), _share(spec)
        own = count(spec.test_size - 1, -1)  # `refuses` sees to it that there are enough
        if spec.threat.place == "before":
            needed = math.ceil(len(judged) * share / (1 - share) / size)
            sent = [Turn([next(own) for _ in range(size)], [], judged) for _ in range(needed)]
            return sent + [Turn([], part, []) for part in _parts(judged, size)]
        if spec.threat.place == "within":
            first = max(round(size * share), 1)
            return [
                Turn([next(own) for _ in range(first)], part, part) for part in _parts(judged, max(size - first, 1))
            ]
        turns: list[Turn] = []
        rest = _parts(judged, size)
        while rest:
            number = len(turns)
            if math.ceil((number + 1) * share) > math.ceil(number * share):
                turns.append(Turn([next(own) for _ in range(size)], [], rest[0]))
            else:
                turns.append(Turn([], rest.pop(0), []))
        return turns

    def card(self, spec: RunSpec) -> str:
        return "the attacker's inputs are served among those of other users, whose answers are judged"

    def tag(self, spec: RunSpec) -> str:
        return f"{spec.threat.share:.3g} {spec.threat.place}"

    def refuses(self, spec: RunSpec, attack: type[Attack]) -> str | None:
        threat, size, name = spec.threat, max(spec.game.batch, 1), spec.attack.name
        if threat.weights == "simulated":
            return f"{name} simulates a defense from a background, and among other users there is none."
        if threat.resubmits > 1:
            return f"{name} sends an image {threat.resubmits} times; among other users it sends each once."
        if threat.place == "within" and round(size * threat.share) >= size and size > 1:
            return f"threat.share {threat.share:g} leaves no place for others in a batch of {size}; lower it."
        needed = len(self.places(spec, 0))
        if needed > spec.test_size:
            return (
                f"{spec.n} inputs of other users and {needed - spec.n} of the attacker (threat.share "
                f"{threat.share:g}) are {needed}, but {spec.dataset.name} has {spec.test_size} test points; lower n or "
                f"threat.share."
            )
        return None

    def play(self, match: Match, resume: Resume) -> Iterator[Chunk]:
        spec = match.spec
        turns = self.turns(spec, match.number)
        if resume.rows >= sum(len(turn.attackers) + len(turn.judged) for turn in turns):
            return
        # what an attack was answered before is in no stored state: it plays again from the start
        start = 0 if match.attack.heeds_replies else match.resumed(resume)
        around = Around.nothing(*match.points(spec.indices[:1]), match.serving.columns)
        order = [place for turn in turns for place in turn.attackers]
        crafts = match.crafts(order, lambda: match.oracle(around=around), late=True)
        chunks, first = match.chunks(stores=not match.attack.heeds_replies), 0
        for turn in turns:
            here, sent = [*turn.attackers, *turn.judged], len(turn.attackers)
            if first + len(here) > start:
                x, y = match.points([spec.order[place] for place in here])
                around.x, around.y = match.points([spec.order[place] for place in turn.others])
                parts = [crafts.at(turn.attackers)] if sent else []
                group = match.group(first, here, Crafted.join([*parts, Crafted.untouched(x[sent:])]))
                neighbours = match.neighbours(group.served)
                answers = match.serve(group.served)
                assert answers.logits is not None
                if sent:
                    around.sent, around.labels = group.served[:sent], y[:sent]
                    around.logits = answers.logits[:sent].detach()
                for row, image in match.rows(group, answers, neighbours, after=max(start, resume.rows), poison=sent):
                    chunks.add(row, image)
                yield from chunks.due()
            first += len(here)
        yield from chunks.rest()


def _share(spec: RunSpec) -> Fraction:
    """The attacker's share, exactly as it was written: 0.3 is three tenths."""
    return Fraction(str(spec.threat.share))


def _parts(places: list[int], size: int) -> list[list[int]]:
    return [places[start : start + size] for start in range(0, len(places), size)]

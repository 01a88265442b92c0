"""`greedy-poison`: inputs chosen by simulation, after which the defense answers other users worst.

What a defense learns from an input need not be a function of it that has a gradient: RMC and KNN-AT choose neighbours.
This attack only tries. It is ours. For every input (or batch) that it sends, it serves each of some candidate images
`ahead` times to a copy of the deployed defense, lets the copy answer some of the others' inputs, and sends the
candidate after which the expected number of wrong answers is largest: the sum of sigmoid(-margin), which a point that
is lost already does not drive. What it chose moves the deployed defense, and the next choice starts from there.

Candidates are what it sent last, its own image, and in turn images of others and halfway blends of two of them, each as
far from its own image as the radius allows. So it can always go on as `repeat` does.

It knows the others' inputs with their labels, the defense as it is now, and what the defense was made from: more than a
real attacker would, who would use images like theirs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from attacks.steps import STEPPED, inside
from bench.contracts import Attack, DefenseInfo, Effort
from bench.contracts.oracle import Oracle, Simulation, margins
from bench.data.task import TaskFacts
from bench.draws import Draws
from bench.norms import Norm
from bench.threat import ThreatModel
from bench.values import Params


class GreedyPoisonParams(Params):
    """candidates: images that are tried for each input; ahead: how often each is served to the copy; victims: inputs of
    others whose answers are looked at."""

    candidates: int = Field(default=8, ge=1)
    ahead: int = Field(default=3, ge=1)
    victims: int = Field(default=8, ge=1)


class GreedyPoison(Attack):
    """Sends what harms others most of what it tries on a copy of the defense."""

    Params: ClassVar[type[Params]] = GreedyPoisonParams
    norms: ClassVar[tuple[Norm, ...]] = STEPPED
    block: ClassVar[int | None] = None
    needs_gradients: ClassVar[bool] = False
    heeds_replies: ClassVar[bool] = True
    quick: ClassVar[Mapping[str, Any]] = {"candidates": 2, "ahead": 1, "victims": 2}

    def declines(self, threat: ThreatModel, facts: TaskFacts, info: DefenseInfo) -> str | None:
        if threat.place == "within":
            return (
                "what it tries is answered before the others' inputs, not in one batch with them: give "
                "threat.place=before or threat.place=interleaved"
            )
        if info.abstains:
            return f"{info.name} refuses inputs, and a copy tells of a refusal only for the attacker's own images"
        return super().declines(threat, facts, info)

    def effort(self, threat: ThreatModel) -> Effort:
        own = self.params
        return Effort(passes=0.0, probes=own.candidates * own.victims, answers=own.candidates * own.ahead)

    def perturb(self, oracle: Oracle, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
        others, labels = oracle.others
        drawing = draws[0]
        chosen = torch.randperm(len(others), generator=drawing)[: self.params.victims]
        copy, victims, right = oracle.deployed(), others[chosen], labels[chosen]
        best, most = x, -1.0
        for candidate in islice(self._candidates(oracle, x, others, drawing), self.params.candidates):
            sent = inside(x, candidate.expand_as(x), oracle.threat.eps, oracle.threat.norm)
            harm = self._harm(copy.fork(), sent, victims, right)
            if harm > most:
                best, most = sent, harm
        return best

    def _harm(self, copy: Simulation, sent: Tensor, victims: Tensor, right: Tensor) -> float:
        """The expected number of wrong answers to victims (V, C, H, W) in [0, 1] of labels (V,), once the copy served
        `sent` (N, C, H, W)."""
        for _ in range(self.params.ahead):
            copy.predict(sent)
        return float(torch.sigmoid(-margins(copy.answers(victims), right).double()).sum())

    @staticmethod
    def _candidates(oracle: Oracle, x: Tensor, others: Tensor, drawing: torch.Generator) -> Iterator[Tensor]:
        """Images (1, C, H, W): see the module."""
        last, _ = oracle.received
        if len(last):
            yield last[:1]
        yield x[:1]
        while True:
            one, other = torch.randint(len(others), (2,), generator=drawing).tolist()
            yield others[one][None]
            yield (others[one] + others[other])[None] / 2

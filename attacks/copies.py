"""`pgd-skip-copies`: PGD on several simulated copies of the defense.

A defense that draws at random while it learns (as RMC+ does where it replaces rows of D') becomes another one with
every noise key. This attacker simulates several, each with draws of its own, and looks for an image that fools what
they have in common (an ensemble; Liu, Chen, Liu, Song: Delving into Transferable Adversarial Examples, ICLR 2017).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor, nn

from attacks.pgd import PGD, PGDParams
from attacks.wrappers import mean_of
from bench.contracts import DefenseInfo, Effort
from bench.contracts.oracle import Oracle
from bench.data.task import TaskFacts
from bench.draws import Draws
from bench.threat import ThreatModel
from bench.values import Params


class PGDOnCopiesParams(PGDParams):
    """copies: of the defense, each simulated with randomness of its own where it is private."""

    copies: int = Field(default=4, ge=1)


class PGDOnCopies(PGD):
    """PGD on the mean log-probabilities of several simulated copies: what a defense that draws at random may become."""

    Params: ClassVar[type[Params]] = PGDOnCopiesParams
    brings_network: ClassVar[bool] = True
    quick: ClassVar[Mapping[str, Any]] = {**PGD.quick, "copies": 2}

    def declines(self, threat: ThreatModel, facts: TaskFacts, info: DefenseInfo) -> str | None:
        if info.kind == "static":
            return f"{info.name} is static: a copy has no past to differ in; see eot"
        return super().declines(threat, facts, info)

    def effort(self, threat: ThreatModel) -> Effort:
        own = super().effort(threat)
        return replace(own, passes=own.passes * self.params.copies)

    def perturb(self, oracle: Oracle, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
        network = _MeanOfCopies([oracle.simulate().bare_proxy() for _ in range(self.params.copies)])
        with oracle.granting(network):
            return super().perturb(oracle, x, y, draws)


class _MeanOfCopies(nn.Module):
    """Mean log-probabilities (N, K) of several networks."""

    def __init__(self, networks: list[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: Tensor) -> Tensor:
        return mean_of(self.networks, x)

"""`pgd`, `pgd-skip`, `pgd-skip-partial`, `pgd-skip-delayed`, `pgd-skip-copies`: projected gradient descent on the
network that the oracle grants, or on several simulated copies.

Madry, Makelov, Schmidt, Tsipras, Vladu: Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018.
PGD-Skip and its forms: Wu, Yuan, Wu: Adversarial Robustness via Runtime Masking and Cleansing, ICML 2020.

One class serves all of them. They differ in the threat model alone: which weights the attacker has, how much of the
stream it sees, and how much later its images are served.

The loop is foolbox's, and the random starts are ours (see `bench.pgd`). In l1 the step and the projection are ours too
(see `bench.norms`): foolbox steps along the gradient and scales the image back into the ball, which is far weaker.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from bench.contracts import Attack, DefenseInfo, Effort
from bench.contracts.oracle import Oracle, margins
from bench.data.task import TaskFacts
from bench.draws import Draws
from bench.norms import DESCENDED, Norm, random_offset
from bench.pgd import pgd
from bench.threat import ThreatModel
from bench.values import Params


class PGDParams(Params):
    """steps: gradient steps; rel_step_size: step / eps; restarts: random starts, of which the image with the lowest
    margin is kept."""

    steps: int = Field(default=40, ge=1)
    rel_step_size: float = Field(default=0.0333333333, gt=0, allow_inf_nan=False)
    restarts: int = Field(default=1, ge=1)


class PGD(Attack):
    """Projected gradient descent with a random start."""

    Params: ClassVar[type[Params]] = PGDParams
    norms: ClassVar[tuple[Norm, ...]] = DESCENDED
    quick: ClassVar[Mapping[str, Any]] = {"steps": 10}

    def effort(self, threat: ThreatModel) -> Effort:
        return Effort(passes=self.params.steps * self.params.restarts)

    def perturb(self, oracle: Oracle, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
        model = oracle.model()
        threat, params = oracle.threat, self.params
        best = x
        worst = torch.full((len(x),), torch.inf, device=x.device)
        for restart in range(params.restarts):
            x_adv = pgd(
                model,
                x,
                y,
                eps=threat.eps,
                steps=params.steps,
                step_size=params.rel_step_size * threat.eps,
                norm=threat.norm,
                offset=random_offset(draws.sub(restart), tuple(x.shape[1:]), threat.eps, threat.norm),
            )
            if params.restarts == 1:
                return x_adv
            with torch.no_grad():
                margin = margins(model(x_adv), y)
            better = margin < worst
            best = torch.where(better.view(-1, 1, 1, 1), x_adv, best)
            worst = torch.minimum(worst, margin)
        return best


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
        return torch.stack([network(x).log_softmax(1) for network in self.networks]).mean(0)

"""`pgd`, `pgd-skip`, `pgd-skip-partial`, `pgd-skip-delayed`: projected gradient descent on the network that the oracle
grants.

Madry, Makelov, Schmidt, Tsipras, Vladu: Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018.
PGD-Skip and its forms: Wu, Yuan, Wu: Adversarial Robustness via Runtime Masking and Cleansing, ICML 2020.

One class serves all of them. They differ in the threat model alone: which weights the attacker has, how much of the
stream it sees, and how much later its images are served.

The loop is foolbox's, and the random starts are ours (see `bench.pgd`). In l1 the step and the projection are ours too
(see `bench.norms`): foolbox steps along the gradient and scales the image back into the ball, which is far weaker.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from bench.contracts import Attack, Effort
from bench.contracts.oracle import Oracle, margins
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

"""`cross-lipschitz`: training with the Cross-Lipschitz regulariser.

Hein and Andriushchenko: Formal Guarantees on the Robustness of a Classifier against Adversarial Manipulation, NIPS
2017, equation 6: Omega(f) = 1 / (n K^2) sum_i sum_{l, m} ||grad f_m(x_i) - grad f_l(x_i)||^2, f the logits. The loss is
the cross-entropy plus strength times that, over the batch.

The double sum is 2 K ||P J||_F^2 with P = I - 1 1^T / K, which takes the mean over the classes out of the Jacobian J.
So it is computed from the K gradients (`projections` 0), or estimated as in Hoffman et al. 2019 by `projections` random
directions v on the unit sphere: ||P J||_F^2 = K E ||(P v)^T J||^2. The estimate costs one backward pass a direction.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bench.values import Params
from defenses.jacobian import directions
from defenses.training import Step, TrainedBase, TrainedParams


class CrossLipschitzParams(TrainedParams):
    """strength of the penalty; projections: random directions per image and step, 0: exact."""

    strength: float = Field(default=0.05, ge=0, allow_inf_nan=False)
    projections: int = Field(default=1, ge=0)


class CrossLipschitz(TrainedBase):
    """Cross-Lipschitz regularisation."""

    Params: ClassVar[type[Params]] = CrossLipschitzParams

    def loss(self, network: nn.Module, x: Tensor, y: Tensor, step: Step) -> Tensor:
        x = x.requires_grad_(True)
        logits = network(x)
        penalty = cross_lipschitz(logits, x, self.params.projections, step.draws).mean()
        return cross_entropy(logits, y) + self.params.strength * penalty


def cross_lipschitz(logits: Tensor, x: Tensor, projections: int, draws: torch.Generator) -> Tensor:
    """1 / K^2 sum_{l, m} ||grad f_m - grad f_l||^2 per image, (N,), differentiable; logits (N, K) of x (N, C, H, W)."""
    count, classes = logits.shape
    directions_of_f = (
        [directions(count, classes, draws).to(logits) for _ in range(projections)]
        if projections
        else [row.expand(count, classes) for row in torch.eye(classes, device=x.device)]
    )
    total = logits.new_zeros(count)
    for v in directions_of_f:
        centred = v - v.mean(dim=1, keepdim=True)
        (gradient,) = torch.autograd.grad((logits * centred).sum(), x, create_graph=True)
        total = total + gradient.flatten(1).square().sum(1)
    squared = classes * total / projections if projections else total  # ||P J||_F^2
    return 2 * squared / classes

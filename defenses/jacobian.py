"""`jacobian`: training with a penalty on the Frobenius norm of the input-output Jacobian.

Jakubovitz and Giryes: Improving DNN Robustness to Adversarial Attacks using Jacobian Regularization, ECCV 2018; the
estimate by random projections is that of Hoffman, Roberts, Yaida: Robust Learning with Jacobian Regularization, 2019
(equations 6 to 8): for v uniform on the unit sphere of R^K, ||J||_F^2 = K E ||v^T J||^2. The loss is the cross-entropy
plus strength / 2 times the batch mean of that, J of the logits.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bench.values import Params
from defenses.training import Step, TrainedBase, TrainedParams


class JacobianParams(TrainedParams):
    """strength of the penalty; projections: random directions per image and step."""

    strength: float = Field(default=0.05, ge=0, allow_inf_nan=False)
    projections: int = Field(default=1, ge=1)


class Jacobian(TrainedBase):
    """Jacobian regularisation."""

    Params: ClassVar[type[Params]] = JacobianParams

    def loss(self, network: nn.Module, x: Tensor, y: Tensor, step: Step) -> Tensor:
        x = x.requires_grad_(True)
        logits = network(x)
        norm = jacobian_norm(logits, x, self.params.projections, step.draws).mean()
        return cross_entropy(logits, y) + 0.5 * self.params.strength * norm


def jacobian_norm(logits: Tensor, x: Tensor, projections: int, draws: torch.Generator) -> Tensor:
    """Estimate of ||d logits / d x||_F^2 per image, (N,), differentiable; logits (N, K) of x (N, C, H, W)."""
    count, classes = logits.shape
    total = logits.new_zeros(count)
    for _ in range(projections):
        v = directions(count, classes, draws).to(logits)
        (gradient,) = torch.autograd.grad((logits * v).sum(), x, create_graph=True)
        total = total + gradient.flatten(1).square().sum(1)
    return classes * total / projections


def directions(count: int, dim: int, draws: torch.Generator) -> Tensor:
    """(count, dim) float32, each row uniform on the unit sphere."""
    return nn.functional.normalize(torch.randn(count, dim, generator=draws), dim=1)

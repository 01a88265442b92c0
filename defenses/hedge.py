"""hedge: moves every input to where all classes are least likely together, and answers there.

Wu, Pan, Ren, Xu, Zhang, Xing: Attacking Adversarial Attacks as A Defense, 2021, algorithm 1: steps of the sign of the
gradient that raise the sum of the cross-entropies of all classes, within 8/255 of the input, from a random start. The
step of 0.007 is that of the authors' code, the 20 steps and the radius are the paper's.

Croce et al. (Evaluating the Adversarial Robustness of Adaptive Test-time Defenses, ICML 2022) find 65.5 % under images
made on its base, and 59.2 % in the worst case, which is what the base has.

The start of an input is drawn from (noise key, its pixels), so the defense is static. proxy: the shift held fixed on
the way back, with one start for all inputs; `unrolled` has the gradient through the steps.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from bench.contracts import Context, Defense, StaticDefense, in_blocks
from bench.contracts.base import Base
from bench.data.task import Task
from bench.draws import generator
from bench.models.frozen import frozen_copy
from bench.rows import image_hash
from bench.values import Params
from defenses.unrolling import Moved, leaf, straight_sign


class HedgeParams(Params):
    """steps; radius and step_size in pixels of [0, 1]."""

    steps: int = Field(default=20, ge=1)
    radius: float = Field(default=8 / 255, gt=0, allow_inf_nan=False)
    step_size: float = Field(default=0.007, gt=0, allow_inf_nan=False)


class Hedge(StaticDefense):
    """Answers for the image after steps that make no class likely."""

    Params: ClassVar[type[Params]] = HedgeParams
    randomised: ClassVar[bool] = True
    not_unrolled: ClassVar[str] = ""

    _network: nn.Module

    def fit(self, task: Task, base: Defense | None, context: Context) -> None:
        assert isinstance(base, Base)
        self._network = base.network
        self.noise_key = context.noise_key

    def predict(self, x: Tensor) -> Tensor:
        self.adaptation_steps += self.params.steps * len(x)
        return in_blocks(self.answer, x)

    def answer(self, x: Tensor) -> Tensor:
        starts = [_uniform(self.noise_key, "start", image_hash(point), like=point) for point in x]
        logits: Tensor = _Hedged(self._network, self.params, torch.stack(starts))(x).detach()
        return logits

    def proxy(self) -> nn.Module:
        return self._hedged(self.params.steps, 0)

    def unrolled(self, steps: int, served: int = 0, draw: int | None = None) -> nn.Module:
        return self._hedged(served or self.params.steps, steps, draw)

    def _hedged(self, steps: int, last: int, draw: int | None = None) -> nn.Module:
        params = self.params.model_copy(update={"steps": steps})
        return _Hedged(frozen_copy(self._network), params, self.noise_of(draw), last).eval()


def _uniform(*key: object, like: Tensor) -> Tensor:
    """Uniform numbers in [-1, 1) in the shape of a tensor."""
    return (torch.rand(like.shape, generator=generator(*key)) * 2 - 1).to(like)


class _Hedged(Moved):
    """The network after the steps, from given starts (N, C, H, W) in [-1, 1) or one that is drawn from a key."""

    def __init__(self, network: nn.Module, params: HedgeParams, starts: Tensor | int, last: int = 0) -> None:
        super().__init__(network, params.steps, last)
        self._params = params
        self._starts = starts

    def start(self, x: Tensor) -> Tensor:
        given = self._starts
        starts = given if isinstance(given, Tensor) else _uniform(given, "proxy", like=x[:1])
        return self._inside(x, starts * self._params.radius)

    def step(self, x: Tensor, shift: Tensor, number: int) -> Tensor:
        at = leaf(x + shift)
        loss = -self.network(at).log_softmax(1).sum()  # the cross-entropies of all classes, over all images
        return self._inside(x, shift + self._params.step_size * straight_sign(self.slope(loss, at)))

    def _inside(self, x: Tensor, shift: Tensor) -> Tensor:
        radius = self._params.radius
        return (x + shift.clamp(-radius, radius)).clamp(0, 1) - x

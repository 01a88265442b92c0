"""What hedge and ttc share: the base answers for the input after steps within a radius of it, from a random start.

The start of an input is drawn from (noise key, its pixels), so such a defense is static. proxy: the shift held fixed on
the way back, with one start for all inputs; `unrolled` has the gradient through the steps.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bench.contracts import Context, Defense, StaticDefense, in_blocks
from bench.contracts.base import Base
from bench.data.task import Task
from bench.draws import generator
from bench.models.frozen import frozen_copy
from bench.rows import image_hash
from defenses.unrolling import Moved


class MovedWithin(Moved):
    """A network at x + shift(x), within a radius and the box.

    params: steps; radius in pixels of [0, 1]; starts (N, C, H, W) in [-1, 1) in units of the radius, or the key that
    one start for all images is drawn from.
    """

    def __init__(self, network: nn.Module, params: Any, starts: Tensor | int, last: int = 0) -> None:
        super().__init__(network, params.steps, last)
        self.params = params
        self._starts = starts

    def start(self, x: Tensor) -> Tensor:
        given = self._starts
        starts = given if isinstance(given, Tensor) else _uniform(given, "proxy", like=x[:1])
        return self.inside(x, starts * self.params.radius)

    def inside(self, x: Tensor, shift: Tensor) -> Tensor:
        """The shift cut to the radius, and x + shift to [0, 1]."""
        radius = self.params.radius
        return (x + shift.clamp(-radius, radius)).clamp(0, 1) - x


class MovingDefense(StaticDefense):
    """Answers for the moved input. A subclass names the network that moves it."""

    randomised: ClassVar[bool] = True
    not_unrolled: ClassVar[str] = ""
    moved: ClassVar[type[MovedWithin]]

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
        logits: Tensor = self.moved(self._network, self.params, torch.stack(starts))(x).detach()
        return logits

    def proxy(self) -> nn.Module:
        return self.unrolled(0)

    def unrolled(self, steps: int, served: int = 0, draw: int | None = None) -> nn.Module:
        params = self.params.model_copy(update={"steps": served or self.params.steps})
        return self.moved(frozen_copy(self._network), params, self.noise_of(draw), steps).eval()


def _uniform(*key: object, like: Tensor) -> Tensor:
    """Uniform numbers in [-1, 1) in the shape of a tensor."""
    return (torch.rand(like.shape, generator=generator(*key)) * 2 - 1).to(like)

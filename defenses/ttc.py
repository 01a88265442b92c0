"""ttc: a counterattack on the features of an input that a little noise hardly moves.

Xing, Zhao, Sebe: CLIP is Strong Enough to Fight Back: Test-time Counterattacks towards Zero-shot Adversarial Robustness
of CLIP, CVPR 2025: an attacked image is falsely stable, so noise moves its features little. Where the relative move tau
is below 0.2, two steps of 1/255 within 4/255 push the features away from where they were; the shifts after each step
are averaged with weights exp(2 k). Elsewhere the noise stays. Constants are those of the authors' code.

Reading: the features are the penultimate ones of any network here, not CLIP's. The noise, the
proxy and `unrolled` are those of `defenses.moved`.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from bench.values import Params
from defenses.moved import MovedWithin, MovingDefense
from defenses.unrolling import State, Step, leaf, stepped, straight_sign


class TTCParams(Params):
    """steps; radius and step_size in pixels of [0, 1]; tau: relative move of the features below which an input is
    taken for attacked; sharpness: of the weights of later steps."""

    steps: int = Field(default=2, ge=1)
    radius: float = Field(default=4 / 255, gt=0, allow_inf_nan=False)
    step_size: float = Field(default=1 / 255, gt=0, allow_inf_nan=False)
    tau: float = Field(default=0.2, ge=0, allow_inf_nan=False)
    sharpness: float = Field(default=2.0, ge=0, allow_inf_nan=False)


class _Countered(MovedWithin):
    """The network after the counterattack."""

    def shift(self, x: Tensor) -> Tensor:
        """The weighted mean of the shifts after each step; the noise alone where it moves the features much."""
        params, last = self.params, min(self.last, self.steps)
        noise = self.start(x.detach())
        with torch.no_grad():
            before = self._features(x.detach())
            moved = (self._features(x.detach() + noise) - before).norm(dim=1) / before.norm(dim=1).clamp_min(1e-12)
        weights = (params.sharpness * torch.arange(self.steps + 1)).softmax(0).tolist()
        start: State = (noise, weights[0] * noise)
        weigh = self._weighed(weights)
        _, mean = stepped(weigh, x, start, self.steps, last)
        steady = (moved < params.tau).view(-1, *[1] * (x.dim() - 1))
        shift = torch.where(steady, mean, noise)
        return shift if self.last else shift.detach()

    def _weighed(self, weights: list[float]) -> Step:
        def step(x: Tensor, state: State, number: int) -> State:
            shift = self.step(x, state[0], None)
            return shift, state[1] + weights[number + 1] * shift

        return step

    def step(self, x: Tensor, shift: Tensor, fixed: Tensor | None) -> Tensor:
        at = leaf(x + shift)
        away = (self._features(at) - self._features(x)).square().sum()
        return self.inside(x, shift + self.params.step_size * straight_sign(self.slope(away, at)))

    def _features(self, x: Tensor) -> Tensor:
        features: Tensor = self.network.features(x)  # type: ignore[operator]
        return features


class TTC(MovingDefense):
    """Answers for the image after a counterattack on its features."""

    Params: ClassVar[type[Params]] = TTCParams
    moved: ClassVar[type[MovedWithin]] = _Countered

"""ttc: a counterattack on the features of an input that a little noise hardly moves.

Xing, Zhao, Sebe: CLIP is Strong Enough to Fight Back: Test-time Counterattacks towards Zero-shot Adversarial Robustness
of CLIP, CVPR 2025: an attacked image is falsely stable, so noise moves its features little. Where the relative move tau
is below 0.2, two steps of 1/255 within 4/255 push the features away from where they were; the shifts after each step
are averaged with weights exp(2 k). Elsewhere the noise stays. Constants are those of the authors' code.

Reading: the features are the penultimate ones of any network here, not CLIP's. The noise of an input is drawn from
(noise key, its pixels), so the defense is static. proxy: the shift held fixed on the way back, with one noise for all
inputs.
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
from defenses.unrolling import Moved, State, Step, leaf, stepped, straight_sign


class TTCParams(Params):
    """steps; radius and step_size in pixels of [0, 1]; tau: relative move of the features below which an input is
    taken for attacked; sharpness: of the weights of later steps."""

    steps: int = Field(default=2, ge=1)
    radius: float = Field(default=4 / 255, gt=0, allow_inf_nan=False)
    step_size: float = Field(default=1 / 255, gt=0, allow_inf_nan=False)
    tau: float = Field(default=0.2, ge=0, allow_inf_nan=False)
    sharpness: float = Field(default=2.0, ge=0, allow_inf_nan=False)


class TTC(StaticDefense):
    """Answers for the image after a counterattack on its features."""

    Params: ClassVar[type[Params]] = TTCParams
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
        noise = torch.stack([_noise(self.noise_key, image_hash(point), point) for point in x])
        logits: Tensor = _Countered(self._network, self.params, noise)(x).detach()
        return logits

    def proxy(self) -> nn.Module:
        return self._countered(self.params.steps, 0)

    def unrolled(self, steps: int, served: int = 0, draw: int | None = None) -> nn.Module:
        return self._countered(served or self.params.steps, steps, draw)

    def _countered(self, steps: int, last: int, draw: int | None = None) -> nn.Module:
        params = self.params.model_copy(update={"steps": steps})
        return _Countered(frozen_copy(self._network), params, self.noise_of(draw), last).eval()


def _noise(key: int, name: str, like: Tensor) -> Tensor:
    """Uniform numbers in [-1, 1) in the shape of a tensor."""
    return (torch.rand(like.shape, generator=generator(key, "noise", name)) * 2 - 1).to(like)


class _Countered(Moved):
    """The network after the counterattack, from given noise (N, C, H, W) in [-1, 1) or one that is drawn from a key."""

    def __init__(self, network: nn.Module, params: TTCParams, noise: Tensor | int, last: int = 0) -> None:
        super().__init__(network, params.steps, last)
        self._params = params
        self._given = noise

    def start(self, x: Tensor) -> Tensor:
        noise = self._given if isinstance(self._given, Tensor) else _noise(self._given, "proxy", x[:1])
        return self._inside(x, noise * self._params.radius)

    def shift(self, x: Tensor) -> Tensor:
        """The weighted mean of the shifts after each step; the noise alone where it moves the features much."""
        params, last = self._params, min(self.last, self.steps)
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
            shift = self.step(x, state[0], number)
            return shift, state[1] + weights[number + 1] * shift

        return step

    def step(self, x: Tensor, shift: Tensor, number: int) -> Tensor:
        at = leaf(x + shift)
        away = (self._features(at) - self._features(x)).square().sum()
        return self._inside(x, shift + self._params.step_size * straight_sign(self.slope(away, at)))

    def _features(self, x: Tensor) -> Tensor:
        features: Tensor = self.network.features(x)  # type: ignore[operator]
        return features

    def _inside(self, x: Tensor, shift: Tensor) -> Tensor:
        radius = self._params.radius
        return (x + shift.clamp(-radius, radius)).clamp(0, 1) - x

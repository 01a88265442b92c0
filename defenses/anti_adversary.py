"""anti-adversary: moves every input towards what the base takes it for, and answers there.

Alfarra, Perez, Thabet, Bibi, Torr, Ghanem: Combating Adversaries with Anti-Adversaries, AAAI 2022, algorithm 1:
gamma_{k+1} = gamma_k - alpha sign(grad of the cross-entropy of f(x + gamma_k) with f's own label of x), answer
f(x + gamma_K), with K = 2 and alpha = 0.15; x + gamma may leave the box, as there.

The label cannot change where the network is right about itself, so its robustness is the base's; what changes is the
gradient. Croce et al. (Evaluating the Adversarial Robustness of Adaptive Test-time Defenses, ICML 2022) find 81 % under
APGD on the defense and 62 % under images that are crafted on the base. proxy: the same steps, their signs held fixed;
`unrolled` has the gradient through them.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bench.contracts import Context, Defense, StaticDefense, in_blocks
from bench.contracts.base import Base
from bench.data.task import Task
from bench.models.frozen import frozen_copy
from bench.values import Params
from defenses.unrolling import Moved, leaf, straight_sign


class AntiAdversaryParams(Params):
    """steps, and step_size in pixels of [0, 1]."""

    steps: int = Field(default=2, ge=1)
    step_size: float = Field(default=0.15, gt=0, allow_inf_nan=False)


class AntiAdversary(StaticDefense):
    """Answers for the image after a few steps that lower the loss of its own first label."""

    Params: ClassVar[type[Params]] = AntiAdversaryParams
    not_unrolled: ClassVar[str] = ""

    _moved: _Countered

    def fit(self, task: Task, base: Defense | None, context: Context) -> None:
        assert isinstance(base, Base)
        self._moved = _Countered(base.network, self.params.step_size, self.params.steps).eval()
        self.noise_key = context.noise_key

    def predict(self, x: Tensor) -> Tensor:
        self.adaptation_steps += self.params.steps * len(x)
        return in_blocks(self.answer, x)

    def answer(self, x: Tensor) -> Tensor:
        logits: Tensor = self._moved(x).detach()
        return logits

    def proxy(self) -> nn.Module:
        return frozen_copy(self._moved)

    def unrolled(self, steps: int, served: int = 0, draw: int | None = None) -> nn.Module:
        network = frozen_copy(self._moved.network)
        return _Countered(network, self.params.step_size, served or self.params.steps, steps).eval()


class _Countered(Moved):
    """The network at x + gamma."""

    def __init__(self, network: nn.Module, step_size: float, steps: int, last: int = 0) -> None:
        super().__init__(network, steps, last)
        self._step_size = step_size

    def fixed(self, x: Tensor) -> Tensor:
        """The label of x itself, (N,)."""
        with torch.no_grad():
            label: Tensor = self.network(x).argmax(1)
        return label

    def step(self, x: Tensor, shift: Tensor, fixed: Tensor | None) -> Tensor:
        assert fixed is not None
        at = leaf(x + shift)
        loss = cross_entropy(self.network(at), fixed, reduction="sum")
        return shift - self._step_size * straight_sign(self.slope(loss, at))

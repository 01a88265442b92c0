"""hedge: moves every input to where all classes are least likely together, and answers there.

Wu, Pan, Ren, Xu, Zhang, Xing: Attacking Adversarial Attacks as A Defense, 2021, algorithm 1: steps of the sign of the
gradient that raise the sum of the cross-entropies of all classes, within 8/255 of the input, from a random start. The
step of 0.007 is that of the authors' code, the 20 steps and the radius are the paper's.

Croce et al. (Evaluating the Adversarial Robustness of Adaptive Test-time Defenses, ICML 2022) find 65.5 % under images
made on its base, and 59.2 % in the worst case, which is what the base has.

The start, the proxy and `unrolled` are those of `defenses.moved`.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from bench.values import Params
from defenses.moved import MovedWithin, MovingDefense
from defenses.unrolling import leaf, straight_sign


class HedgeParams(Params):
    """steps; radius and step_size in pixels of [0, 1]."""

    steps: int = Field(default=20, ge=1)
    radius: float = Field(default=8 / 255, gt=0, allow_inf_nan=False)
    step_size: float = Field(default=0.007, gt=0, allow_inf_nan=False)


class _Hedged(MovedWithin):
    """The network where no class is likely."""

    def step(self, x: Tensor, shift: Tensor, fixed: Tensor | None) -> Tensor:
        at = leaf(x + shift)
        loss = -self.network(at).log_softmax(1).sum()  # the cross-entropies of all classes, over all images
        return self.inside(x, shift + self.params.step_size * straight_sign(self.slope(loss, at)))


class Hedge(MovingDefense):
    """Answers for the image after steps that make no class likely."""

    Params: ClassVar[type[Params]] = HedgeParams
    moved: ClassVar[type[MovedWithin]] = _Hedged

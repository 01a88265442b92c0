"""`clean`: returns its input, so that the clean accuracy comes from an ordinary run."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from bench.contracts import Attack
from bench.contracts.oracle import Oracle
from bench.draws import Draws
from bench.norms import NORMS, Norm


class Clean(Attack):
    """No perturbation."""

    norms: ClassVar[tuple[Norm, ...]] = tuple(NORMS)
    needs_gradients: ClassVar[bool] = False

    def perturb(self, oracle: Oracle, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
        return x

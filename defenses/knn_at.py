"""`knn-at`: adversarial training at runtime on the neighbours in the clean training set.

The first idea of Wu, Yuan, Wu, ICML 2020 (slides: "KNN-based online adversarial training"), which they report not to
work: find the neighbours N(x; D) in the training set D itself, augment them with adversarial examples made from them at
runtime, fine-tune on both, answer. An attacked x has neighbours of mostly one wrong label, so the fine-tuning follows
the attacker; RMC searches an augmented set instead.

Readings: copies are made by PGD against the weights as they are when the input comes (`craft_steps` steps of
`craft_step_size` pixels, 0: 2.5 eps / steps, from a random start); weights carry over and are calibrated on K random
points of D and copies of them, as in RMC, so that when copies are made, and so what is searched, is all that tells the
two apart.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from bench.data.task import TaskFacts
from bench.values import Params
from defenses.bank import Bank
from defenses.bank_builder import BankRecipe, check_bank
from defenses.neighbours import IndexKind
from defenses.rmc import RMC, AdaptationParams


class KnnATParams(AdaptationParams):
    """craft_steps, craft_step_size and eps (pixels, linf) of the copies made at runtime; the index of D."""

    eps: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    craft_steps: int = Field(default=10, ge=1)
    craft_step_size: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    bank_size: int = Field(default=0, ge=0)
    index: IndexKind = "flat"
    probes: int = Field(default=16, ge=1)


class KnnAT(RMC):
    """Adapts to clean neighbours, and to adversarial copies of them."""

    Params: ClassVar[type[Params]] = KnnATParams
    not_unrolled: ClassVar[str] = "which neighbours it adapts to is a choice, not a function of its input"

    @classmethod
    def validate(cls, params: Any, facts: TaskFacts) -> None:
        check_bank(params, facts, copies=0)

    def _bank_recipe(self) -> BankRecipe:
        return BankRecipe(size=self.params.bank_size, index=self.params.index)

    def _training_points(self, bank: Bank, rows: NDArray[np.int64], draws: torch.Generator) -> tuple[Tensor, Tensor]:
        """The rows, and an adversarial copy of each against the present weights."""
        params = self.params
        x, y = self._points(bank, rows)
        x_adv = self._learner.attacked(x, y, params.eps, params.craft_steps, params.craft_step_size, draws)
        return torch.cat([x, x_adv]), torch.cat([y, y])

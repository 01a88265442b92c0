"""DeepNN: the majority vote of the K nearest clean training images, by theta_0's deep features.

The baseline of Wu, Yuan, Wu, ICML 2020 (after Papernot and McDaniel, Deep k-Nearest Neighbors, 2018, without the
credibility score). The slides do not give K; 20 is our reading. The vote and its relaxation: `defenses.vote`.
"""

from __future__ import annotations

from typing import Any, ClassVar

from bench.data.task import TaskFacts
from bench.errors import BadValue
from bench.values import Params
from defenses.bank_builder import BankRecipe
from defenses.vote import NearestVote, VoteParams


class DeepNN(NearestVote):
    """Answers with the labels of the nearest training images."""

    Params: ClassVar[type[Params]] = VoteParams

    @classmethod
    def validate(cls, params: Any, facts: TaskFacts) -> None:
        if params.k > facts.train_size:
            raise BadValue(
                f"defense.k is {params.k}, but {facts.name} has {facts.train_size} training images; give at most that."
            )

    def _recipe(self) -> BankRecipe:
        return BankRecipe()

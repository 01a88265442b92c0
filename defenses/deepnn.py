"""DeepNN: the majority vote of the K nearest clean training images, by theta_0's deep features.

The baseline of Wu, Yuan, Wu, ICML 2020 (after Papernot and McDaniel, Deep k-Nearest Neighbors, 2018, without the
credibility score). The slides do not give K; 20 is our reading. A tie goes to the smaller label. Logits are the log of
the smoothed vote, (votes + 1) / (K + classes).

The vote has no gradient. `proxy()` relaxes it: per class the nearest `proxy_neighbours / classes` images vote with
weights exp(-d^2 / (T s)), d the feature distance, s the mean squared distance of all of them, T `proxy_temperature`.
Every class is always in the sum: over the nearest images alone most gradients are exactly zero, since all of them carry
one label. For T -> 0 the relaxed vote is that of the single nearest neighbour.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from bench.bases import Base
from bench.contracts import Context, Defense, StaticDefense
from bench.data.task import Task, TaskFacts
from bench.errors import BadValue
from bench.models.frozen import frozen_copy
from bench.params import Params
from defenses.bank import BankBuilder, BankRecipe, features_of
from defenses.neighbours import Neighbours

#: log vote of a class without training images
NO_VOTE = -1e4


class DeepNNParams(Params):
    """k voters; proxy_neighbours and proxy_temperature of the relaxed vote."""

    k: int = Field(default=20, ge=1)
    proxy_neighbours: int = Field(default=1000, ge=1)
    proxy_temperature: float = Field(default=0.1, gt=0, allow_inf_nan=False)


class DeepNN(StaticDefense):
    """Answers with the labels of the nearest training images."""

    Params: ClassVar[type[Params]] = DeepNNParams

    @classmethod
    def validate(cls, params: Any, facts: TaskFacts) -> None:
        if params.k > facts.train_size:
            raise BadValue(
                f"defense.k is {params.k}, but {facts.name} has {facts.train_size} training images; give at most that."
            )

    def fit(self, task: Task, base: Defense | None, context: Context) -> None:
        assert isinstance(base, Base)
        bank = BankBuilder(BankRecipe(copies=0), task, base, context).build()
        self._network = base.network
        self._index = bank.index
        self._labels = bank.labels
        self._classes = task.facts.num_classes
        self.noise_key = context.noise_key

    def predict(self, x: Tensor) -> Tensor:
        """Features in padded blocks; searched one by one, so padding is never searched for."""
        votes = [self._votes(feature) for feature in features_of(self._network, x)]
        share = (np.array(votes).reshape(len(x), self._classes) + 1.0) / (self.params.k + self._classes)
        return torch.from_numpy(np.log(share)).to(x)

    def answer(self, x: Tensor) -> Tensor:
        return self.predict(x)

    def _votes(self, feature: NDArray[np.float32]) -> NDArray[np.int64]:
        rows = self._index.search(feature, self.params.k).ids
        return np.bincount(self._labels[rows], minlength=self._classes)

    def proxy(self) -> nn.Module:
        params = self.params
        return SoftKNN(
            frozen_copy(self._network), self._index.features, self._labels, self._classes, params.proxy_neighbours,
            params.proxy_temperature,
        )  # fmt: skip


class SoftKNN(nn.Module):
    """A differentiable vote over the nearest images of every class: (N, C, H, W) in [0, 1] -> log votes (N, K).

    features (M, D) float32 and labels (M,) of the images; neighbours: how many in all; temperature: see the module.
    """

    def __init__(
        self,
        network: nn.Module,
        features: NDArray[np.float32],
        labels: NDArray[np.int64],
        classes: int,
        neighbours: int,
        temperature: float,
    ) -> None:
        super().__init__()
        self.network = network
        self.temperature = temperature
        self.each = max(neighbours // classes, 1)
        self._classes = [Neighbours(np.ascontiguousarray(features[labels == label])) for label in range(classes)]

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.network.features(x)  # type: ignore[operator]
        queries = features.detach().cpu().numpy()
        squared = [self._distances(features, index, queries) for index in self._classes]
        scale = torch.cat(squared, dim=1).mean(dim=1, keepdim=True).detach() * self.temperature
        return torch.stack([_log_vote(part / scale) for part in squared], dim=1)

    def _distances(self, features: Tensor, index: Neighbours, queries: NDArray[np.float32]) -> Tensor:
        """Squared distances (N, each) to the nearest images of one class; (N, 0) where it has none."""
        if not len(index):
            return features.new_empty((len(features), 0))
        near = torch.from_numpy(index.features[index.batch(queries, self.each)]).to(features)
        return (features[:, None, :] - near).square().sum(dim=2)


def _log_vote(scaled: Tensor) -> Tensor:
    """log of the sum of exp(-d) over the images of one class: (N,) from (N, each)."""
    return torch.logsumexp(-scaled, dim=1) if scaled.shape[1] else scaled.new_full((len(scaled),), NO_VOTE)

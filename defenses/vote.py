"""What the retrieval defenses share: the vote of the nearest images of a bank, and its differentiable relaxation.

The vote: the labels of the K nearest images by theta_0's features. A tie goes to the smaller label. Logits are the log
of the smoothed vote, (votes + 1) / (K + classes).

The vote has no gradient. `proxy()` relaxes it: per class the nearest `proxy_neighbours / classes` images (at least 20)
take part with weights exp(-d^2 / (T s)), d the feature distance, s the mean squared distance of all of them, T
`proxy_temperature`; logits are the log of the sum of the weights per class. Every class is always in the sum: over the
nearest images alone most gradients are exactly zero, since all of them carry one label. For T -> 0 the relaxed vote is
that of the single nearest neighbour. Where outputs are averaged instead of labels counted, the same weights average
them.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from bench.contracts import Context, Defense, StaticDefense
from bench.contracts.base import Base
from bench.data.task import Task
from bench.models.frozen import frozen_copy
from bench.values import Params
from defenses.bank import Bank, features_of
from defenses.bank_builder import BankBuilder, BankRecipe
from defenses.neighbours import Neighbours, Ranking

#: log vote of a class without votes
NO_VOTE = -1e4
#: least images of a class that take part: with 5 the relaxation is a weaker attack than transfer from theta_0
FEWEST = 20


class VoteParams(Params):
    """k voters; proxy_neighbours and proxy_temperature of the relaxed vote."""

    k: int = Field(default=20, ge=1)
    proxy_neighbours: int = Field(default=1000, ge=1)
    proxy_temperature: float = Field(default=0.1, gt=0, allow_inf_nan=False)


class NearestVote(StaticDefense):
    """Answers with the vote of the nearest images of a bank. A subclass names the bank, and may weigh the votes."""

    #: features are made in blocks, and each point is searched for alone: a filled-up block would search for zeros
    in_blocks: ClassVar[bool] = False

    _bank: Bank
    _network: nn.Module
    _classes: int

    @abstractmethod
    def _recipe(self) -> BankRecipe:
        """The bank that is searched."""

    def _outputs(self, task: Task, context: Context) -> NDArray[np.float32] | None:
        """Weighted outputs (M, K) that are averaged over the neighbours; None: their labels are counted."""
        return None

    def pieces(self, task: Task, base: Defense | None, context: Context) -> list[str]:
        return self._builder(task, base, context).missing()

    def prepare(self, task: Task, base: Defense | None, context: Context, piece: str) -> None:
        self._builder(task, base, context).make_piece(piece)

    def _builder(self, task: Task, base: Defense | None, context: Context) -> BankBuilder:
        assert isinstance(base, Base)
        return BankBuilder(self._recipe(), task, base, context)

    def fit(self, task: Task, base: Defense | None, context: Context) -> None:
        assert isinstance(base, Base)
        self._bank = self._builder(task, base, context).build(getattr(self.params, "probes", 0))
        self._network = base.network
        self._classes = task.facts.num_classes
        self._averaged = self._outputs(task, context)
        self._soft: dict[str, list[_ClassIndex]] = {}
        self.noise_key = context.noise_key

    def answer(self, x: Tensor) -> Tensor:
        logits = [self._vote(self._bank.search(feature, self.params.k)) for feature in features_of(self._network, x)]
        return torch.from_numpy(np.array(logits).reshape(len(x), self._classes)).to(x)

    def _vote(self, near: Ranking) -> NDArray[np.float64]:
        """Log of the vote of the neighbours of one point, (K,)."""
        if self._averaged is None:
            votes = np.bincount(self._bank.labels[near.ids], minlength=self._classes)
            share: NDArray[np.float64] = (votes + 1.0) / (len(near.ids) + self._classes)
        else:
            share = self._averaged[near.ids].astype(np.float64).sum(axis=0)
            share = share / share.sum() if share.sum() > 0 else np.full(self._classes, 1 / self._classes)
        return np.log(np.maximum(share, np.exp(NO_VOTE / 100)))

    def neighbour_labels(self, x: Tensor) -> list[dict[str, list[int]]]:
        features = features_of(self._network, x)
        return [self._bank.histograms(feature, self.params.k, self._classes) for feature in features]

    def neighbour_images(self, x: Tensor, count: int) -> list[dict[str, tuple[Tensor, list[int]]]]:
        return [self._bank.shown(feature, count) for feature in features_of(self._network, x)]

    def proxy(self) -> nn.Module:
        params = self.params
        each = max(params.proxy_neighbours // self._classes, FEWEST)
        if "classes" not in self._soft:  # shared by all forks, and made for the first attacker that needs it
            self._soft["classes"] = class_indexes(self._bank.index, self._bank.labels, self._classes, self._averaged)
        return SoftKNN(frozen_copy(self._network), self._soft["classes"], each, params.proxy_temperature).eval()


class _ClassIndex:
    """The images of one class: the index of their features, and their outputs (rows, K) where outputs are averaged."""

    def __init__(self, features: NDArray[np.float32], outputs: NDArray[np.float32] | None) -> None:
        self.index = Neighbours(features)
        self.outputs = outputs


def class_indexes(
    index: Neighbours, labels: NDArray[np.int64], classes: int, outputs: NDArray[np.float32] | None = None
) -> list[_ClassIndex]:
    """One index per class over the rows of `index` with these labels (M,); outputs (M, K) as in `NearestVote`."""
    indexes = []
    for label in range(classes):
        rows = np.flatnonzero(labels == label)
        indexes.append(_ClassIndex(index.take(rows), None if outputs is None else outputs[rows]))
    return indexes


class SoftKNN(nn.Module):
    """A differentiable vote over the nearest images of every class: (N, C, H, W) in [0, 1] -> log votes (N, K).

    each: how many images of every class take part; temperature: see the module.
    """

    def __init__(self, network: nn.Module, classes: list[_ClassIndex], each: int, temperature: float) -> None:
        super().__init__()
        self.network = network
        self.each = each
        self.temperature = temperature
        self._classes = classes

    def __deepcopy__(self, memo: dict[int, Any]) -> SoftKNN:
        return SoftKNN(frozen_copy(self.network), self._classes, self.each, self.temperature)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.network.features(x)  # type: ignore[operator]
        queries = features.detach().cpu().numpy()
        near = [self._nearest(part, queries) for part in self._classes]
        squared = [self._distances(features, part, ids) for part, ids in zip(self._classes, near, strict=True)]
        scale = torch.cat(squared, dim=1).mean(dim=1, keepdim=True).detach() * self.temperature
        if self._classes[0].outputs is None:
            return torch.stack([_log_vote(part / scale) for part in squared], dim=1)
        outputs = [_gather(part.outputs, ids).to(features) for part, ids in zip(self._classes, near, strict=True)]
        weights = torch.softmax(-torch.cat(squared, dim=1) / scale, dim=1)
        averaged = (weights[:, :, None] * torch.cat(outputs, dim=1)).sum(dim=1)
        shares: Tensor = averaged / averaged.sum(dim=1, keepdim=True).clamp_min(1e-30)
        return shares.clamp_min(1e-30).log()

    def _nearest(self, part: _ClassIndex, queries: NDArray[np.float32]) -> NDArray[np.int64]:
        """Rows (N, each) of one class; (N, 0) if it has none."""
        if not len(part.index):
            return np.empty((len(queries), 0), np.int64)
        return part.index.batch(queries, self.each)

    @staticmethod
    def _distances(features: Tensor, part: _ClassIndex, ids: NDArray[np.int64]) -> Tensor:
        """Squared distances (N, each) to some images of one class."""
        if not ids.size:
            return features.new_empty((len(features), 0))
        near = torch.from_numpy(part.index.take(ids.ravel())).to(features).view(*ids.shape, -1)
        return (features[:, None, :] - near).square().sum(dim=2)


def _gather(outputs: NDArray[np.float32] | None, ids: NDArray[np.int64]) -> Tensor:
    assert outputs is not None
    return torch.from_numpy(outputs[ids])


def _log_vote(scaled: Tensor) -> Tensor:
    """log of the sum of exp(-d) over the images of one class: (N,) from (N, each)."""
    return torch.logsumexp(-scaled, dim=1) if scaled.shape[1] else scaled.new_full((len(scaled),), NO_VOTE)

"""WebNN: what the K nearest images of a very large bank say, by theta_0's deep features.

Dubey, van der Maaten, Yalniz, Li, Mahajan: Defense Against Adversarial Images using Web-Scale Nearest-Neighbor Search,
CVPR 2019. `weighting` says what they say, s_k the softmax output of theta_0 on neighbour k:

vote       the label of each counts once: the form of Wu, Yuan, Wu, ICML 2020, whose bank is the augmented set D';
           default
uniform    the mean of s_k
entropy    the mean of s_k weighted by |log K + sum_c s_kc log s_kc|: how far its entropy is from the largest (CBW-E)
diversity  weighted by sum_m (s_k(1) - s_k(m))^3 over the ranks m = 2 to 21, s_k(m) its m-th largest entry (CBW-D, with
           the authors' constants; over all ranks where there are fewer classes)

`bank_size` cuts the bank down to that many training images and their copies: "performance drops when using smaller
datasets". The default K is 50, as in Dubey et al. The relaxation for gradient attacks: `defenses.vote`.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from bench.cache import digest
from bench.contracts import Context, in_blocks
from bench.data.task import Task, TaskFacts
from bench.source import module_hash
from bench.values import Params
from defenses.array_file import new_array
from defenses.bank_builder import BankParams, BankRecipe, check_bank
from defenses.vote import NearestVote, VoteParams

#: taken when the module is loaded, as in `defenses.bank_builder`
_SOURCE = module_hash(__name__)

Weighting = Literal["vote", "uniform", "entropy", "diversity"]

#: ranks that CBW-D compares the largest entry with, and the power of the differences
DIVERSITY_RANKS = 20
DIVERSITY_POWER = 3


class WebNNParams(VoteParams, BankParams):
    """k voters and how they are weighted; how the bank is made; the relaxed vote."""

    k: int = Field(default=50, ge=1)
    weighting: Weighting = "vote"


class WebNN(NearestVote):
    """Answers with what the nearest images of the augmented set say."""

    Params: ClassVar[type[Params]] = WebNNParams

    @classmethod
    def validate(cls, params: Any, facts: TaskFacts) -> None:
        check_bank(params, facts, params.copies)

    def _recipe(self) -> BankRecipe:
        recipe: BankRecipe = self.params.bank_recipe()
        return recipe

    def _outputs(self, task: Task, context: Context) -> NDArray[np.float32] | None:
        """Softmax outputs of the whole bank times their weights, (M, K): made once, mapped from the cache."""
        weighting: Weighting = self.params.weighting
        if weighting == "vote":
            return None
        images, device = self._bank.images, context.device

        def build(folder: Path) -> None:
            with new_array(folder / "outputs.npy", np.float32, (len(images), self._classes)) as write:
                for start in range(0, len(images), 1000):
                    x = task.pixels(np.array(images[start : start + 1000]), device)
                    with torch.no_grad():
                        softmax = in_blocks(self._network, x).softmax(dim=1).cpu().numpy()
                    write(start, softmax * confidence(softmax, weighting)[:, None])

        key = digest([context.base_key, context.seed, asdict(self._recipe()), weighting, _SOURCE])
        folder = context.cache.get_or_build("outputs", key, build)
        return np.load(folder / "outputs.npy", mmap_mode="r")


def confidence(softmax: NDArray[np.float32], weighting: Weighting) -> NDArray[np.float32]:
    """Weight (N,) of each softmax output (N, K): see the module."""
    if weighting == "entropy":
        terms = softmax * np.log(np.maximum(softmax, 1e-30))
        return np.abs(np.log(softmax.shape[1]) + terms.sum(axis=1))
    if weighting == "diversity":
        ranked = -np.sort(-softmax, axis=1)
        gaps = ranked[:, :1] - ranked[:, 1 : 1 + DIVERSITY_RANKS]
        return (gaps**DIVERSITY_POWER).sum(axis=1)
    return np.ones(len(softmax), np.float32)

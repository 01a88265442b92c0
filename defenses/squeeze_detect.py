"""squeeze-detect: refuses an input whose answer changes much when the input is squeezed.

Xu, Evans, Qi: Feature Squeezing: Detecting Adversarial Examples in Deep Neural Networks, NDSS 2018, section 5: the
score is the largest l1 distance between the softmax of the image and that of its squeezed copies. Squeezers: fewer bits
of colour (5 for colour images, 1 for grey ones, as there), a median filter of 2 x 2, and for colour images non-local
means (search window, patch and strength of 256 levels: 13-3-2 for CIFAR-10, 11-3-4 for ImageNet). The threshold is the
quantile of the scores of legitimate images that leaves the stated share of false rejections (theirs: at most 5 %).

Readings: non-local means take most of the time of an answer and are left out unless `search` is given; the recipe
`paper` has them (see `defenses.non_local_means`). The legitimate images are a fixed sixth of the training images, which
the base may have learned by heart; the share of refused test images is measured beside every figure. Where a gradient
is asked for, the rounding of colours has that of the identity (BPDA; Athalye, Carlini, Wagner: Obfuscated Gradients
Give a False Sense of Security, ICML 2018).
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from bench.contracts import Context, Defense, StaticDefense, in_blocks, with_refusal
from bench.contracts.base import Base
from bench.data.task import Task, TaskFacts, fixed_order
from bench.errors import BadValue
from bench.models.frozen import frozen_copy
from bench.values import Params
from defenses.non_local_means import non_local_means, reaches
from defenses.transforms import median, reduced_bits

#: by how much a score above its threshold raises the logit of the refusal: scores lie in [0, 2]
SHARPNESS = 10.0


def _odd(side: int) -> int:
    if side and side % 2 == 0:
        raise ValueError("give an odd number: the pixel itself is in the middle")
    return side


class SqueezeDetectParams(Params):
    """false_rejections: of legitimate images, the share that may be refused; bits: of a colour (0: 5, and 1 for grey
    images); window: side of the median filter; search, patch: sides of the window and of the patches of non-local
    means (search 0: without them), of this strength in pixels of [0, 1]."""

    false_rejections: float = Field(default=0.05, ge=0, lt=1, allow_inf_nan=False)
    bits: int = Field(default=0, ge=0, le=8)
    window: int = Field(default=2, ge=2)
    search: Annotated[int, AfterValidator(_odd)] = Field(default=0, ge=0)
    patch: Annotated[int, AfterValidator(_odd)] = Field(default=3, ge=1)
    strength: float = Field(default=4 / 255, gt=0, allow_inf_nan=False)


class SqueezeDetect(StaticDefense):
    """Refuses inputs whose answer depends on details that squeezing removes."""

    Params: ClassVar[type[Params]] = SqueezeDetectParams
    abstains: ClassVar[bool] = True

    _squeezed: _Squeezed

    @classmethod
    def validate(cls, params: Any, facts: TaskFacts) -> None:
        side, reach = min(facts.image_shape[1:]), reaches(params.search, params.patch)
        if params.search and reach >= side:
            raise BadValue(
                f"defense.search {params.search} and defense.patch {params.patch} reach {reach} pixels beyond the edge "
                f"of an image, and those of {facts.name} are {side} wide; give smaller ones."
            )

    def fit(self, task: Task, base: Defense | None, context: Context) -> None:
        assert isinstance(base, Base)
        params = self.params
        bits = params.bits or (1 if task.facts.image_shape[0] == 1 else 5)
        self._squeezed = _Squeezed(base.network, bits, params).eval()
        chosen = fixed_order(f"thresholds of {task.facts.name}", len(task.train_labels))
        chosen = np.sort(chosen[: max(len(chosen) // 6, 1)])
        images = task.pixels(task.train_images[chosen], context.device)
        with torch.no_grad():
            scores = in_blocks(lambda x: self._squeezed.scored(x)[1], images)
        self._squeezed.threshold = threshold_at(scores, params.false_rejections)
        self.noise_key = context.noise_key

    def answer(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = self._squeezed(x)
        return logits

    def proxy(self) -> nn.Module:
        return frozen_copy(self._squeezed)


def threshold_at(scores: Tensor, false_rejections: float) -> float:
    """The smallest threshold above which at most this share of the scores (N,) of legitimate images lies."""
    ordered = scores.double().sort().values
    kept = len(ordered) - int(false_rejections * len(ordered))
    return float(ordered[kept - 1])


class _Squeezed(nn.Module):
    """Logits (N, K + 1): of the network, and of the refusal."""

    def __init__(self, network: nn.Module, bits: int, params: SqueezeDetectParams) -> None:
        super().__init__()
        self.network = network
        self.threshold = 2.0
        self._bits = bits
        self._params = params

    def forward(self, x: Tensor) -> Tensor:
        logits, scores = self.scored(x)
        return with_refusal(logits, SHARPNESS * (scores - self.threshold))

    def scored(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, K) and scores (N,) of images x (N, C, H, W)."""
        logits: Tensor = self.network(x)
        shares = logits.softmax(1)
        params = self._params
        squeezed = [reduced_bits(x, self._bits), median(x, params.window)]
        if params.search:
            squeezed.append(non_local_means(x, params.search, params.patch, params.strength))
        far = [(self.network(other).softmax(1) - shares).abs().sum(1) for other in squeezed]
        return logits, torch.stack(far).amax(0)

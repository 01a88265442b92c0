"""input-transform, random-transform: the base answers for a transformed input.

input-transform   Guo, Rana, Cisse, van der Maaten: Countering Adversarial Images using Input Transformations, ICLR
                  2018, section 3 (3 bits a colour, JPEG of quality 75), and the median filter of Xu, Evans, Qi, NDSS
                  2018: steps without a gradient. Broken by BPDA (Athalye, Carlini, Wagner, ICML 2018, section 5.1).
random-transform  Xie, Wang, Zhang, Zhou, Yuille: Mitigating Adversarial Effects Through Randomization, ICLR 2018:
                  resized to a random size and padded at a random place (there from 299 to at most 331 pixels). Broken
                  by EOT (Athalye, Carlini, Wagner, ICML 2018, section 5.3.2).

Readings: the transformations are applied in the order in which they are named, and the logits of `samples` draws are
averaged. A size is drawn from the image's up to 1.107 (331/299) of it. Networks that take images of one size alone get
the padded image resized to it. Every input has draws of its own, a function of the noise key and its pixels, so both
are static.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import AfterValidator, Field
from torch import Tensor, nn
from torch.nn.functional import interpolate

from bench.contracts import Context, Defense, StaticDefense
from bench.contracts.base import Base
from bench.data.task import Task
from bench.draws import generator
from bench.models.frozen import frozen_copy
from bench.rows import image_hash
from bench.values import Params
from defenses.transforms import jpeg, median, reduced_bits, resized_and_padded

STEPS = ("bits", "jpeg", "median")


def _known_steps(given: str) -> str:
    names = [name.strip() for name in given.split(",")]
    for name in names:
        if name not in STEPS:
            raise ValueError(f"no transformation is called {name!r}; give some of {', '.join(STEPS)}, with commas")
    return ",".join(names)


class InputTransformParams(Params):
    """transforms: of bits, jpeg and median, in this order, with commas; bits of a colour; quality of JPEG; window: side
    of the median filter."""

    transforms: Annotated[str, AfterValidator(_known_steps)] = "bits,jpeg"
    bits: int = Field(default=3, ge=1, le=8)
    quality: int = Field(default=75, ge=1, le=95)
    window: int = Field(default=3, ge=2)


class InputTransform(StaticDefense):
    """Answers for the image with fewer bits, through JPEG, or smoothed."""

    Params: ClassVar[type[Params]] = InputTransformParams
    differentiable: ClassVar[bool] = False

    _network: nn.Module

    def fit(self, task: Task, base: Defense | None, context: Context) -> None:
        assert isinstance(base, Base)
        self._network = base.network
        self.noise_key = context.noise_key

    def answer(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = self._network(self._changed(x))
        return logits

    def _changed(self, x: Tensor) -> Tensor:
        params = self.params
        for name in params.transforms.split(","):
            if name == "bits":
                x = reduced_bits(x, params.bits)
            elif name == "jpeg":
                x = jpeg(x, params.quality)
            else:
                x = median(x, params.window)
        return x

    def proxy(self) -> nn.Module:
        """The base without the transformation: what stands in for it in a backward pass (BPDA)."""
        return frozen_copy(self._network)


class RandomTransformParams(Params):
    """largest: of the sizes that are drawn, over the image's own; samples: draws whose logits are averaged."""

    largest: float = Field(default=1.107, gt=1, le=4, allow_inf_nan=False)
    samples: int = Field(default=1, ge=1)


class RandomTransform(StaticDefense):
    """Answers for the image at a random size and place."""

    Params: ClassVar[type[Params]] = RandomTransformParams
    randomised: ClassVar[bool] = True
    in_blocks: ClassVar[bool] = False

    _network: nn.Module

    def fit(self, task: Task, base: Defense | None, context: Context) -> None:
        assert isinstance(base, Base)
        self._network = base.network
        self.noise_key = context.noise_key
        self._classes = task.facts.num_classes

    def answer(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            parts = [self._placed(point[None], image_hash(point)) for point in x]
        return torch.cat(parts) if parts else x.new_zeros((0, self._classes))

    def _placed(self, x: Tensor, name: str) -> Tensor:
        draws = generator(self.noise_key, "transform", name)
        return _Placed(self._network, self.params.largest, self.params.samples, draws)(x)

    def proxy(self) -> nn.Module:
        """The base at sizes and places that are drawn once, the same for all inputs."""
        draws = generator(self.noise_key, "proxy")
        return _Placed(frozen_copy(self._network), self.params.largest, self.params.samples, draws).eval()


class _Placed(nn.Module):
    """Mean logits (N, K) of a network for images at sizes and places that are drawn when it is made."""

    def __init__(self, network: nn.Module, largest: float, samples: int, draws: torch.Generator) -> None:
        super().__init__()
        self.network = network
        self._largest = largest
        self._shares = torch.rand(samples, 3, generator=draws).tolist()

    def forward(self, x: Tensor) -> Tensor:
        own = x.shape[2]
        whole = max(round(own * self._largest), own + 1)
        logits = []
        for size, top, left in self._shares:
            side = own + int(size * (whole - own))
            rest = whole - side + 1
            placed = resized_and_padded(x, side, int(top * rest), int(left * rest), whole)
            logits.append(self.network(interpolate(placed, size=x.shape[2:], mode="bilinear", antialias=False)))
        return torch.stack(logits).mean(0)

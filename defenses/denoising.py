"""`feature-denoising`: denoising blocks between the layers of a network that is trained adversarially.

Xie, Wu, van der Maaten, Yuille, He: Feature Denoising for Improving Adversarial Robustness, CVPR 2019, section 4: a
block is y = x + W m(x), m a non-local mean with softmax weights over the positions of the feature map (the embedded
Gaussian version of equation 2 without its embeddings, scaled by the square root of the channels) and W a 1 x 1
convolution. Training is that of `pgd-at`.

A block stands after each layer that `after` names (dotted names of modules, as in `named_modules`), by default those
that the network itself names in `denoise_after`. W starts at zero, so that a network with given weights starts as it
was. A feature map of more than `positions` positions attends to its average-pooled self, as non-local networks do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from bench.data.task import TaskFacts
from bench.errors import BadValue
from bench.values import Params
from defenses.adversarial import PGDTraining, PGDTrainingParams

if TYPE_CHECKING:
    from bench.models.network import Network

#: most positions of a feature map that every position attends to
POSITIONS = 1024


class FeatureDenoisingParams(PGDTrainingParams):
    """after: names of the layers that a block follows, with commas; empty: those that the network names."""

    after: str = ""


class FeatureDenoising(PGDTraining):
    """PGD training of a network with denoising blocks."""

    Params: ClassVar[type[Params]] = FeatureDenoisingParams

    @classmethod
    def validate(cls, params: Any, facts: TaskFacts) -> None:
        super().validate(params, facts)
        cls(params).build(facts, 0)  # raises if a layer for a block does not exist

    def completed(self, network: Network, facts: TaskFacts) -> Network:
        named = [name.strip() for name in self.params.after.split(",") if name.strip()]
        places = named or list(network.denoise_after)
        if not places:
            raise BadValue(
                f"The network {self.params.model!r} names no place for a denoising block; give base.after the names of "
                f"layers, such as {', '.join(_layers(network)[:3])}."
            )
        return with_blocks(network, places, facts.image_shape)


def with_blocks(network: Network, places: list[str], image_shape: tuple[int, ...]) -> Network:
    """The network with a block after each named layer, which must give feature maps (N, C, H, W)."""
    modules = dict(network.named_modules())
    for name in places:
        if not name or name not in modules:
            raise BadValue(f"base.after names {name!r}, which is no layer; there are: {', '.join(_layers(network))}.")
    channels = _channels(network, places, image_shape)
    for name in places:
        parent, _, child = name.rpartition(".")
        setattr(modules[parent], child, nn.Sequential(modules[name], DenoisingBlock(channels[name])))
    return network


def _channels(network: Network, places: list[str], image_shape: tuple[int, ...]) -> dict[str, int]:
    """How many channels each named layer gives."""
    found: dict[str, Tensor] = {}
    modules = dict(network.named_modules())
    hooks = [
        modules[name].register_forward_hook(lambda module, args, out, name=name: found.update({name: out}))
        for name in places
    ]
    training = network.training
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, *image_shape))
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    for name in places:
        if name not in found or found[name].ndim != 4:
            raise BadValue(f"base.after names {name!r}, which gives no feature map; name a convolutional layer.")
    return {name: out.shape[1] for name, out in found.items()}


def _layers(network: nn.Module) -> list[str]:
    return [name for name, module in network.named_modules() if name and not list(module.children())]


class DenoisingBlock(nn.Module):
    """x + W m(x) for feature maps x (N, C, H, W); W is zero at first."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.mix.weight)
        nn.init.zeros_(self.mix.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.mix(non_local_mean(x))
        return x + mixed


def non_local_mean(x: Tensor) -> Tensor:
    """Mean over all positions j of x (N, C, H, W), weighted by softmax_j(x_i . x_j / sqrt(C)) for each position i."""
    count, channels, height, width = x.shape
    seen = x
    while seen.shape[2] * seen.shape[3] > POSITIONS:
        seen = nn.functional.avg_pool2d(seen, 2, ceil_mode=True)
    keys = seen.flatten(2).transpose(1, 2)
    mean = nn.functional.scaled_dot_product_attention(x.flatten(2).transpose(1, 2), keys, keys)
    return mean.transpose(1, 2).reshape(count, channels, height, width)

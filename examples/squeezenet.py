"""SqueezeNet 1.1 as a network of your own: `--set base.model=examples/squeezenet.py:build --set base.weights=FILE`.

A file like this one makes any network known to `bench`: a function of `num_classes` and `image_shape` that returns a
torch module. Pixels come in [0, 1], so the normalisation is part of the module. Features for retrieval are the input of
the last layer with weights, averaged over positions; return a `bench.Network` to say otherwise.

The layers are named as in torchvision, so that its weights, saved as safetensors, fit. The zoo has the same network:
`--base given --set base.model=zoo:imagenet-squeezenet1_1`.
"""

import torch
from torch import nn

from bench.models.published import SqueezeNet


class Normalised(SqueezeNet):
    """SqueezeNet for pixels in [0, 1]."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1), persistent=False)

    def forward(self, x):
        return super().forward((x - self.mean) / self.std)


def build(num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """A fresh SqueezeNet 1.1; `bench` fills it from base.weights."""
    return Normalised(num_classes)

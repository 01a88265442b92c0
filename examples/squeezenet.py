"""SqueezeNet 1.1 as a network of your own: `--set base.model=examples/squeezenet.py:build --set base.weights=FILE`.

A file like this one makes any network known to `bench`: a function of `num_classes` and `image_shape` that returns a
torch module. Pixels come in [0, 1], so the normalisation is part of the module. Features for retrieval are the input of
the last layer with weights, averaged over positions; return a `bench.Network` to say otherwise.

Iandola et al.: SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and < 0.5 MB model size, 2016; layers are
named as in torchvision, so that its weights, saved as safetensors, fit.
"""

import torch
from torch import nn


class Fire(nn.Module):
    """A 1 x 1 squeeze, then 1 x 1 and 3 x 3 convolutions side by side."""

    def __init__(self, channels: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x):
        x = self.squeeze(x).relu()
        return torch.cat([self.expand1x1(x).relu(), self.expand3x3(x).relu()], dim=1)


class SqueezeNet(nn.Module):
    """Eight fire modules between two convolutions."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        pool = {"kernel_size": 3, "stride": 2, "ceil_mode": True}
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 3, stride=2), nn.ReLU(), nn.MaxPool2d(**pool),
            Fire(64, 16, 64), Fire(128, 16, 64), nn.MaxPool2d(**pool),
            Fire(128, 32, 128), Fire(256, 32, 128), nn.MaxPool2d(**pool),
            Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256),
        )  # fmt: skip
        self.classifier = nn.Sequential(
            nn.Dropout(), nn.Conv2d(512, num_classes, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
        )
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1), persistent=False)

    def forward(self, x):
        return self.classifier(self.features((x - self.mean) / self.std)).flatten(1)


def build(num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """A fresh SqueezeNet 1.1; `bench` fills it from base.weights."""
    return SqueezeNet(num_classes)

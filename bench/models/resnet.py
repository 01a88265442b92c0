"""Residual networks for 32 x 32 images: the two sizes of the field.

ResNet-20: He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, CVPR 2016, section 4.2 (16, 32, 64
channels, n = 3), with 1 x 1 convolutions where the shape changes. ResNet-18: the same paper's blocks (64 to 512
channels, two a stage) with a 3 x 3 stem and no pooling before the stages, as is usual on CIFAR-10.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from bench.models.network import Network

#: mean and standard deviation of CIFAR-10's training pixels, per channel
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)


class _Block(nn.Module):
    """Two 3 x 3 convolutions with batch norm, and a shortcut."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))
        return (out + self.shortcut(x)).relu()


class ResNet(Network):
    """A stem, stages of `blocks` residual blocks (the first block of a later stage halves the image), a linear head."""

    denoise_after: ClassVar[tuple[str, ...]] = ("stages.1", "stages.2")
    mean: Tensor
    std: Tensor

    def __init__(
        self, num_classes: int, image_shape: tuple[int, int, int], widths: tuple[int, ...], blocks: int
    ) -> None:
        super().__init__()
        channels = image_shape[0]
        mean, std = (torch.tensor(v if channels == 3 else v[:1] * channels).view(1, -1, 1, 1) for v in (MEAN, STD))
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)
        self.stem = nn.Sequential(
            nn.Conv2d(channels, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        stages = []
        for stage, width in enumerate(widths):
            before = widths[max(stage - 1, 0)]
            stages.append(
                nn.Sequential(
                    *(_Block(before if i == 0 else width, width, 2 if i == 0 and stage else 1) for i in range(blocks))
                )
            )
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(widths[-1], num_classes)

    def features(self, x: Tensor) -> Tensor:
        maps: Tensor = self.stages(self.stem((x - self.mean) / self.std))
        return maps.mean(dim=(2, 3))


resnet20 = partial(ResNet, widths=(16, 32, 64), blocks=3)
resnet18 = partial(ResNet, widths=(64, 128, 256, 512), blocks=2)


class PlainCNN(Network):
    """Six 3 x 3 convolutions with batch norm, no shortcuts (after VGG): another architecture, for attacks that
    transfer.
    """

    denoise_after: ClassVar[tuple[str, ...]] = ("body.6", "body.13")

    def __init__(self, num_classes: int, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = image_shape[0]
        for width in (32, 64, 128):
            for _ in range(2):
                layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
                before = width
            layers.append(nn.MaxPool2d(2))
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(before, num_classes)

    def features(self, x: Tensor) -> Tensor:
        maps: Tensor = self.body(x)
        return maps.mean(dim=(2, 3))

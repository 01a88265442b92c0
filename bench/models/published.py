"""Architectures of networks that others trained and published: layers are named as in their files of weights."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import pad


class _PaddedBlock(nn.Module):
    """Two 3 x 3 convolutions with batch norm, whose shortcut has no weights (option A of the paper).

    Where the block halves the image, the shortcut takes every second pixel and fills new channels with zeros.
    """

    def __init__(self, before: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride, self.added = stride, (channels - before) // 2

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        return (out + pad(shortcut, (0, 0, 0, 0, self.added, self.added))).relu()


class PaddedResNet(nn.Module):
    """The residual networks of 6n + 2 layers for CIFAR-10: He, Zhang, Ren, Sun, CVPR 2016, section 4.2, option A."""

    def __init__(self, num_classes: int, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        before = 16
        for stage, width in enumerate((16, 32, 64), 1):
            layers = []
            for block in range(blocks):
                layers.append(_PaddedBlock(before, width, 2 if stage > 1 and block == 0 else 1))
                before = width
            setattr(self, f"layer{stage}", nn.Sequential(*layers))
        self.linear = nn.Linear(64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn1(self.conv1(x)).relu()
        for stage in (1, 2, 3):
            out = getattr(self, f"layer{stage}")(out)
        logits: Tensor = self.linear(out.mean(dim=(2, 3)))
        return logits


class _BiasedBlock(nn.Module):
    """Two 3 x 3 convolutions with biases and without batch norm, and a shortcut by convolution where shapes change."""

    def __init__(self, before: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, channels, 3, stride, 1)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1)
        self.shortcut = nn.Sequential()
        if stride != 1 or before != channels:
            self.shortcut = nn.Sequential(nn.Conv2d(before, channels, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv2(self.conv1(x).relu())
        return (out + self.shortcut(x)).relu()


class SmallResNet(nn.Module):
    """Few residual blocks without batch norm and a head of two linear layers, as networks to be verified have."""

    def __init__(self, num_classes: int, widths: Sequence[int], blocks: int) -> None:
        super().__init__()
        stem = widths[0] // 2
        self.conv1 = nn.Conv2d(3, stem, 3, 2, 1)
        before = stem
        for stage, width in enumerate(widths, 1):
            layers = [
                _BiasedBlock(before if block == 0 else width, width, 1 if block else 2) for block in range(blocks)
            ]
            setattr(self, f"layer{stage}", nn.Sequential(*layers))
            before = width
        side = 16 // 2 ** len(widths)
        self.stages = len(widths)
        self.linear1 = nn.Linear(before * side * side, 100)
        self.linear2 = nn.Linear(100, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(x).relu()
        for stage in range(1, self.stages + 1):
            out = getattr(self, f"layer{stage}")(out)
        logits: Tensor = self.linear2(self.linear1(out.flatten(1)).relu())
        return logits


def two_convolutions(
    num_classes: int, channels: int, widths: tuple[int, int], kernel: int, hidden: int, maps: int
) -> nn.Module:
    """Two strided convolutions and two linear layers; maps: pixels of a last feature map."""
    padding = kernel // 2 if kernel % 2 else 1
    return nn.Sequential(
        nn.Conv2d(channels, widths[0], kernel, 2, padding), nn.ReLU(),
        nn.Conv2d(widths[0], widths[1], kernel, 2, padding), nn.ReLU(),
        nn.Flatten(), nn.Linear(widths[1] * maps, hidden), nn.ReLU(), nn.Linear(hidden, num_classes),
    )  # fmt: skip


class Fire(nn.Module):
    """A 1 x 1 squeeze, then 1 x 1 and 3 x 3 convolutions side by side."""

    def __init__(self, channels: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(x).relu()
        return torch.cat([self.expand1x1(x).relu(), self.expand3x3(x).relu()], dim=1)


class SqueezeNet(nn.Module):
    """SqueezeNet 1.1: eight fire modules between two convolutions. Iandola et al. 2016."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        pool = partial(nn.MaxPool2d, kernel_size=3, stride=2, ceil_mode=True)
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 3, stride=2), nn.ReLU(), pool(),
            Fire(64, 16, 64), Fire(128, 16, 64), pool(),
            Fire(128, 32, 128), Fire(256, 32, 128), pool(),
            Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256),
        )  # fmt: skip
        self.classifier = nn.Sequential(
            nn.Dropout(), nn.Conv2d(512, num_classes, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x)).flatten(1)
        return logits


resnet20 = partial(PaddedResNet, blocks=3)
resnet56 = partial(PaddedResNet, blocks=9)
resnet2b = partial(SmallResNet, widths=(16,), blocks=2)
resnet4b = partial(SmallResNet, widths=(32, 32), blocks=2)
cnn_a = partial(two_convolutions, channels=3, widths=(16, 32), kernel=4, hidden=100, maps=64)
madry_tiny = partial(two_convolutions, channels=1, widths=(4, 8), kernel=5, hidden=128, maps=49)

"""The interface of a network: its features, and its logits as a function of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn


class Network(nn.Module, ABC):
    """A classifier with a penultimate layer that retrieval defenses search in.

    Subclasses take `num_classes` and `image_shape` (C, H, W), and normalise their input themselves: it is always
    pixels in [0, 1].
    """

    #: the last layer: features (N, D) -> logits (N, K)
    head: nn.Module
    #: layers (dotted names) that a denoising block may follow
    denoise_after: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """Penultimate features (N, D) of images x (N, C, H, W) in [0, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K) of images x (N, C, H, W) in [0, 1]: `head` on the features, unless a subclass differs."""
        logits: Tensor = self.head(self.features(x))
        return logits

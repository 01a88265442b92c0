"""The small networks: one for 8 x 8 digits, one for MNIST, and a third architecture for either."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from bench.models.network import Network


class _TwoConv(Network):
    """Two convolutions, one hidden layer of D features (after its ReLU), one linear head."""

    denoise_after: ClassVar[tuple[str, ...]] = ("body.1", "body.3")

    def __init__(self, body: nn.Sequential, width: int, dim: int, num_classes: int) -> None:
        super().__init__()
        self.body = body
        self.hidden = nn.Linear(width, dim)
        self.head = nn.Linear(dim, num_classes)

    def features(self, x: Tensor) -> Tensor:
        return self.hidden(self.body(x).flatten(1)).relu()


class DigitsCNN(_TwoConv):
    """conv 16 3x3, conv 32 3x3/2, fc 64: about 38k weights for (1, 8, 8)."""

    def __init__(self, num_classes: int, image_shape: tuple[int, int, int]) -> None:
        channels, height, width = image_shape
        body = nn.Sequential(
            nn.Conv2d(channels, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, padding=1), nn.ReLU()
        )
        super().__init__(body, 32 * ((height + 1) // 2) * ((width + 1) // 2), 64, num_classes)


class MnistCNN(_TwoConv):
    """conv 16 4x4/2, conv 32 4x4/2, fc 100: 166,406 weights for (1, 28, 28)."""

    def __init__(self, num_classes: int, image_shape: tuple[int, int, int]) -> None:
        channels, height, width = image_shape
        body = nn.Sequential(
            nn.Conv2d(channels, 16, 4, 2, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, padding=1), nn.ReLU()
        )
        super().__init__(body, 32 * (height // 4) * (width // 4), 100, num_classes)


class StridedCNN(Network):
    """Three 3x3/2 convolutions of 16, 32, 64 and the mean over positions: another architecture, to transfer from."""

    denoise_after: ClassVar[tuple[str, ...]] = ("body.1", "body.3")

    def __init__(self, num_classes: int, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, width in zip((image_shape[0], 16, 32), (16, 32, 64), strict=True):
            layers += [nn.Conv2d(before, width, 3, 2, padding=1), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(64, num_classes)

    def features(self, x: Tensor) -> Tensor:
        maps: Tensor = self.body(x)
        return maps.mean(dim=(2, 3))

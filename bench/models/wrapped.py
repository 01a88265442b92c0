"""Any classifier as a `Network`: its features are what its last layer with weights is given."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bench.models.network import Network


class Wrapped(Network):
    """A module (N, C, H, W) -> logits (N, K), normalised first if `mean` and `std` (per channel) are given.

    features: the input of the module's last layer with weights, averaged over positions where it is a feature map.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, module: nn.Module, mean: tuple[float, ...] | None = None, std: tuple[float, ...] | None = None
    ) -> None:
        super().__init__()
        self.module = module
        for name, values in (("mean", mean or (0.0,)), ("std", std or (1.0,))):
            self.register_buffer(name, torch.tensor(values).view(1, -1, 1, 1), persistent=False)

    def _last_layer(self) -> nn.Module:
        layers = [m for m in self.module.modules() if next(m.parameters(recurse=False), None) is not None]
        return layers[-1]

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.module((x - self.mean) / self.std)
        return logits

    def features(self, x: Tensor) -> Tensor:
        seen: list[Tensor] = []

        def note(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            seen.append(inputs[0])

        hook = self._last_layer().register_forward_pre_hook(note)
        try:
            self.forward(x)
        finally:
            hook.remove()
        return seen[-1].mean(dim=(2, 3)) if seen[-1].ndim == 4 else seen[-1].flatten(1)


class Selected(Network):
    """A network that answers among some of its outputs: logits (N, len(outputs)) in this order."""

    outputs: Tensor

    def __init__(self, network: Network, outputs: tuple[int, ...]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("outputs", torch.tensor(outputs), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits.index_select(1, self.outputs)

    def features(self, x: Tensor) -> Tensor:
        return self.network.features(x)

"""The layout of weights in memory."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def channels_last(network: AnyModule) -> AnyModule:
    """The network with its convolutions in the layout that processors are fastest in, in place.

    On a CPU a training step of ResNet-20 takes 1.35 times as long without, on a GPU every convolution converts its maps
    there and back. Last bits depend on the layout, so networks that are compared bit by bit need the same one.
    """
    if all(tensor.dim() != 5 for tensor in network.state_dict().values()):  # torch has another layout for volumes
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network

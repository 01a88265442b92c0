"""Networks that nobody trains any more."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn

AnyNetwork = TypeVar("AnyNetwork", bound=nn.Module)


def frozen_copy(network: AnyNetwork) -> AnyNetwork:
    """A copy of the network that nobody else holds, in evaluation mode, its weights without gradients."""
    return freeze(copy.deepcopy(network))


def freeze(network: AnyNetwork) -> AnyNetwork:
    """The network in evaluation mode, its weights without gradients."""
    network.eval()
    for weight in network.parameters():
        weight.requires_grad_(False)
    return network

"""Networks that are not trained any more."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn

AnyNetwork = TypeVar("AnyNetwork", bound=nn.Module)


def frozen_copy(network: AnyNetwork) -> AnyNetwork:
    """An independent copy of the network, in evaluation mode, with weights that take no gradients."""
    return freeze(copy.deepcopy(network))


def freeze(network: AnyNetwork) -> AnyNetwork:
    """The network in evaluation mode, its weights without gradients."""
    network.eval()
    for weight in network.parameters():
        weight.requires_grad_(False)
    return network

"""Networks that are not trained any more."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

from torch import Tensor, nn

from bench.errors import BadValue, one_line

AnyNetwork = TypeVar("AnyNetwork", bound=nn.Module)


def frozen_copy(network: AnyNetwork) -> AnyNetwork:
    """An independent copy of the network, in evaluation mode, with weights that take no gradients."""
    return freeze(independent_copy(network))


def freeze(network: AnyNetwork) -> AnyNetwork:
    """The network in evaluation mode, its weights without gradients."""
    network.eval()
    for weight in network.parameters():
        weight.requires_grad_(False)
    return network


def independent_copy(module: AnyNetwork) -> AnyNetwork:
    """A deep copy. What cannot be copied (a lock, an open file, a generator) is shared with the original."""
    try:
        return copy.deepcopy(module)
    except Exception:  # deepcopy raises whatever the class of a part does
        memo = _uncopied(module)
    try:
        return copy.deepcopy(module, memo)
    except Exception as error:  # likewise
        raise BadValue(
            f"The network {type(module).__name__} cannot be copied ({type(error).__name__}: {one_line(error)}); give "
            f"one without that part."
        ) from error


def _uncopied(module: nn.Module) -> dict[int, Any]:
    """The attributes of a module and of those inside it that cannot be copied, as a copy should have them, by id."""
    memo: dict[int, Any] = {}
    for part in module.modules():
        for value in vars(part).values():
            if isinstance(value, nn.Module | nn.Parameter | dict):
                continue
            try:
                copy.deepcopy(value, dict(memo))
            except Exception:  # likewise
                memo[id(value)] = value.detach() if isinstance(value, Tensor) else value
    return memo

"""A network that a program holds in memory: copied, put into evaluation mode, and made to answer with logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.errors import BadAnswer, BadValue, one_line
from bench.models.frozen import independent_copy
from bench.models.network import Network
from bench.models.wrapped import OUTPUTS, Outputs, Selected, Wrapped

#: images on which a network is tried before anything else
TRIED = 8
#: how far answers to the same image may differ, as a share of the largest logit
TOLERANCE = 1e-3


@dataclass(frozen=True)
class GivenNetwork:
    """A function of `num_classes` and `image_shape`, as the registry of networks wants one, that returns the network.

    module      a torch module, or any function from images (N, C, H, W) to logits
    normalize   (mean, std) of what the network wants, numbers or one per channel
    outputs     what it answers with; see `bench.models.wrapped`
    classes     for each label the number of its output, for a network of more classes; empty: all
    """

    module: Any
    normalize: tuple[Sequence[float], Sequence[float]] | None = None
    outputs: Outputs = "logits"
    classes: tuple[int, ...] = ()

    def __call__(self, num_classes: int, image_shape: tuple[int, int, int]) -> Network:
        module = self.module if isinstance(self.module, nn.Module) else Called(self.module)
        network = independent_copy(module).eval().cpu()
        if any(part.dtype in (torch.float16, torch.bfloat16) for part in (*network.parameters(), *network.buffers())):
            network.float()
        if self.normalize is not None or not isinstance(network, Network):
            mean, std = self.normalize or (None, None)
            network = Wrapped(network, mean, std, self.outputs)
        return Selected(network, self.classes) if self.classes else network


class Called(nn.Module):
    """A function as a module; arrays that it answers with become tensors."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        answer = self.function(x)
        return torch.from_numpy(answer).to(x.device) if isinstance(answer, np.ndarray) else answer


def given_network(
    model: Any, normalize: object = None, outputs: str = "logits", classes: Sequence[int] | None = None
) -> GivenNetwork:
    """The network with what the user says about it; `BadValue` where that cannot be."""
    if not callable(model):
        raise BadValue(f"model is a {type(model).__name__}; give a torch module, a function of images, or a name.")
    if isinstance(model, type):
        raise BadValue(f"model is the class {model.__name__}; give an object of it: {model.__name__}().")
    if outputs not in OUTPUTS:
        raise BadValue(f"outputs is {outputs!r}; give {' or '.join(OUTPUTS)}.")
    return GivenNetwork(model, _normalize(normalize), outputs, tuple(int(k) for k in classes or ()))


def _normalize(given: object) -> tuple[Sequence[float], Sequence[float]] | None:
    if given is None:
        return None
    try:
        mean, std = (tuple(np.asarray(part, dtype=np.float64).reshape(-1).tolist()) for part in given)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise BadValue("normalize is no pair; give (mean, std), each a number or one number per channel.") from None
    if not all(np.isfinite(values).all() and len(values) for values in (mean, std)) or min(std) <= 0:
        raise BadValue("normalize holds numbers that are not finite, or a std that is not above 0; give (mean, std).")
    return mean, std


def tried(make: GivenNetwork, x: Tensor) -> int:
    """How many classes the network answers with for images x (N, C, H, W) in [0, 1].

    Raises `BadValue` where it does not work on them, or where its answers are no function of the image alone.
    """
    x = x[:TRIED]
    network = _made(make, x)
    try:
        logits, again = _asked(network, x), _asked(network, x)
        apart = torch.cat([_asked(network, part) for part in x.split(max(len(x) // 2, 1))])
    except BadAnswer as error:
        raise BadValue(str(error)) from None
    except Exception as error:  # of somebody's network
        raise BadValue(
            f"The network does not answer images of shape {tuple(x.shape[1:])} with values in [0, 1]: "
            f"{type(error).__name__}: {one_line(error)}"
        ) from error
    if not torch.isfinite(logits).all():
        raise BadValue(
            "The network answers with values that are not finite (NaN or infinite), so nothing can be judged."
        )
    if not _same(logits, again):
        raise BadValue(
            "The network answers the same images differently when it is asked twice: a dropout that is active in "
            "evaluation mode, or noise. Turn it off, or write a Defense with randomised = True."
        )
    if len(x) > 1 and not _same(logits, apart):
        raise BadValue(
            "The network's answer to an image depends on the other images beside it: a batch norm that computes its "
            "statistics anew in evaluation mode. Let it use stored ones, or write a BatchDefense."
        )
    if make.outputs == "logits" and _probabilities(logits):
        raise BadValue(
            "The network answers with probabilities (each row lies in [0, 1] and sums to 1), whose gradients vanish; "
            "leave out its softmax, or give outputs='probabilities'."
        )
    return logits.shape[1]


def adapts(make: GivenNetwork, x: Tensor) -> None:
    """`BadValue` for a network whose copies compute with the weights of the original: adapting them does nothing."""
    network = _made(make, x)
    before = _asked(network, x[:TRIED])
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(weight.abs().mean() + 0.1)
    if next(network.parameters(), None) is None or _same(before, _asked(network, x[:TRIED])):
        raise BadValue(
            "The network's answers do not depend on the weights that a defense would adapt: it has none, or its "
            "forward uses those of another object (a function or a lambda that holds the original). Make them its own."
        )


def _made(make: GivenNetwork, x: Tensor) -> Network:
    _, channels, height, width = x.shape
    return make(0, (channels, height, width))


def _asked(network: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = network(x.clone())
    if logits.ndim != 2 or len(logits) != len(x):
        raise BadAnswer(
            f"the network answered {len(x)} images with the shape {tuple(logits.shape)}; logits are (N, K)."
        )
    return logits


def _same(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= TOLERANCE * max(float(a.abs().max()), 1e-6))


def _probabilities(logits: Tensor) -> bool:
    if logits.shape[1] == 2 and bool((logits[:, 0] == 0).all()):  # of one score: a sigmoid lies in (0, 1)
        return len(logits) > 1 and bool(((logits[:, 1] > 0) & (logits[:, 1] < 1)).all())
    return bool(((logits >= 0) & (logits <= 1)).all() and ((logits.sum(1) - 1).abs() < 1e-4).all())

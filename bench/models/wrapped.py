"""Any classifier as a `Network`: its answers as logits, and the input of its last layer as features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bench.errors import BadAnswer
from bench.models.network import Network

#: what a module answers with: logits, or probabilities, which are turned into logits by their logarithm
Outputs = Literal["logits", "probabilities"]
OUTPUTS: tuple[Outputs, ...] = ("logits", "probabilities")
#: what is added to a probability before its logarithm: the smallest normal float32
TINY = torch.finfo(torch.float32).tiny


class Wrapped(Network):
    """A module (N, C, H, W) -> logits (N, K), normalised first if `mean` and `std` (per channel) are given.

    The module may answer with an object that has `.logits`, with a tuple or a mapping whose first value they are, or
    with one score (N,) of the second of two classes. It is handed a copy of its input, which it may change.

    features: the input of the last layer with weights that an answer goes through, averaged over positions where it is
    a feature map, and the first token where it is a row of tokens.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        module: nn.Module,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        outputs: Outputs = "logits",
    ) -> None:
        super().__init__()
        self.module = module
        self.outputs = outputs
        #: the name of the layer whose input is the features; found when they are first asked for
        self._last: str | None = None
        for name, values in (("mean", mean or (0.0,)), ("std", std or (1.0,))):
            self.register_buffer(name, torch.tensor(values).view(1, -1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return as_logits(self._answer(x), self.outputs)

    def _answer(self, x: Tensor) -> Any:
        try:
            return self.module(self._normalised(x))
        except RuntimeError as error:
            if torch.is_grad_enabled() or "grad" not in str(error):
                raise
        with torch.enable_grad():  # it computes gradients itself
            return _scores(self.module(self._normalised(x))).detach()

    def _normalised(self, x: Tensor) -> Tensor:
        """A new tensor: the module may change it in place."""
        channels = self.mean.shape[1]
        if channels not in (1, x.shape[1]):  # else they would be broadcast, and grey images become coloured ones
            raise BadAnswer(f"the network is normalised for {channels} channels, but the images have {x.shape[1]}")
        return (x - self.mean) / self.std

    def features(self, x: Tensor) -> Tensor:
        layers = {name: layer for name, layer in self.module.named_modules() if _has_weights(layer)}
        wanted = layers if self._last is None else {self._last: layers[self._last]}
        seen: dict[str, Tensor] = {}

        def noting(name: str) -> Any:
            def note(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
                if inputs and isinstance(inputs[0], Tensor):
                    seen.pop(name, None)  # the order is that of the last calls
                    seen[name] = inputs[0]

            return note

        hooks = [layer.register_forward_hook(noting(name)) for name, layer in wanted.items()]
        try:
            self._answer(x)
        finally:
            for hook in hooks:
                hook.remove()
        if not seen:
            raise BadAnswer(
                f"no layer of {type(self.module).__name__} is called with a tensor, so it has no features to search "
                f"by; give a bench.Network, whose features() says what they are."
            )
        inner = [name for name in seen if not any(_inside(other, name) for other in seen)]
        self._last = inner[-1]
        return _flat(seen[self._last])


def _inside(name: str, outer: str) -> bool:
    """Whether a layer of this dotted name lies inside another; "" is the whole module."""
    return name != outer and (not outer or name.startswith(f"{outer}."))


def _has_weights(layer: nn.Module) -> bool:
    return next(layer.parameters(recurse=False), None) is not None or type(layer).__module__.startswith("torch.ao.nn")


def _flat(features: Tensor) -> Tensor:
    """Features as (N, D)."""
    if features.ndim == 4:
        return features.mean(dim=(2, 3))
    return features[:, 0] if features.ndim == 3 else features.flatten(1)


def as_logits(answer: Any, outputs: Outputs = "logits") -> Tensor:
    """Logits (N, K) of what a module answered with; `BadAnswer` where it holds none."""
    scores = _scores(answer)
    if scores.ndim == 2 and scores.shape[1] == 1:
        scores = scores[:, 0]
    if scores.ndim == 1:  # the score of the second of two classes
        scores = torch.stack([1 - scores if outputs == "probabilities" else torch.zeros_like(scores), scores], dim=1)
    scores = scores.float()
    return (scores + TINY).log() if outputs == "probabilities" else scores


def _scores(answer: Any) -> Tensor:
    given = getattr(answer, "logits", answer)
    if isinstance(given, Mapping):
        given = given.get("logits", next(iter(given.values()), None))
    elif isinstance(given, tuple | list) and given:
        given = given[0]
    if not isinstance(given, Tensor) or given.ndim not in (1, 2):
        shape = f"the shape {tuple(given.shape)}" if isinstance(given, Tensor) else f"a {type(given).__name__}"
        raise BadAnswer(
            f"the network answered with {shape}; logits are a tensor (N, K), or scores (N,) of two classes."
        )
    return given


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

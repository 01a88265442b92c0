"""dent: adapts a scale and a shift of every channel to each batch, by lowering the entropy of its answers.

Wang, Ju, Shelhamer, Wagner, Darrell: Fighting Gradients with Gradients: Dynamic Defenses against Adversarial Attacks,
2021: model adaptation by the affine modulation of normalisation layers, optimised by Adam on the mean entropy of the
batch, afresh for every batch. Without their input adaptation (a smoothing of the image).

Readings: where a network has no batch norm, the modulation follows its convolutions and its hidden linear layers; the
number of steps (6 there) and the learning rate (0.006) are theirs, the batch is smaller than their 128 to 512. The
answers of a point depend on its batch: a `batch` defense. `unrolled` is in float32, whatever the precision.
"""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from bench.contracts import BatchDefense, Context, Defense, shallow_fork
from bench.contracts.base import Base
from bench.data.task import Task
from bench.errors import BadAnswer
from bench.models.frozen import freeze, frozen_copy
from bench.values import Params, State
from defenses.precision import Precision, computing, lowered
from defenses.unrolling import Adam, AdaptedByAdam


class DentParams(Params):
    """batch_size: points that are answered together; steps and lr of Adam for each batch, in this precision."""

    batch_size: int = Field(default=10, ge=2)
    steps: int = Field(default=6, ge=1)
    lr: float = Field(default=0.006, gt=0, allow_inf_nan=False)
    precision: Precision = "float32"


class Dent(BatchDefense):
    """Lowers the entropy of each batch's answers before it gives them. Each batch starts from the base again."""

    Params: ClassVar[type[Params]] = DentParams
    not_unrolled: ClassVar[str] = ""

    _start: nn.Module

    def __init__(self, params: Any = None) -> None:
        super().__init__(params)
        self.batch_size = self.params.batch_size

    def fit(self, task: Task, base: Defense | None, context: Context) -> None:
        assert isinstance(base, Base)
        self._start = modulated(base.network)
        if not any(isinstance(part, Modulation) for part in self._start.modules()):
            raise BadAnswer(
                f"dent has nothing to adapt in a {type(base.network).__name__} without batch norm, convolutions and "
                f"hidden linear layers; give it another base"
            )
        self.noise_key = context.noise_key

    def answer_batch(self, x: Tensor) -> Tensor:
        network = self._adapted(x)
        with torch.no_grad(), computing("float32"):
            logits: Tensor = network(x)
        return logits

    @torch.enable_grad()  # the caller may have switched gradients off
    def _adapted(self, x: Tensor) -> nn.Module:
        """The network with its modulation adapted to the batch x (B, C, H, W)."""
        network = copy.deepcopy(self._start)
        weights = [weight for part in network.modules() if isinstance(part, Modulation) for weight in part.parameters()]
        optimiser = torch.optim.Adam(weights, lr=self.params.lr)
        precision = self.params.precision
        with computing(precision):
            for _ in range(self.params.steps):
                optimiser.zero_grad(set_to_none=True)
                entropy(lowered(network, x, precision)).mean().backward()
                optimiser.step()
        self.adaptation_steps += self.params.steps * len(x)  # all answers of a batch are ready at the same time
        return freeze(network)

    def snapshot(self) -> State:
        return State()

    def restore(self, state: State) -> None:
        if state.tensors or state.facts:
            raise ValueError("Nothing of dent carries over, so it cannot restore a state that holds something.")

    def fork(self, noise_key: int | None = None) -> Defense:
        twin: Dent = shallow_fork(self)
        twin.noise_key = self.noise_key if noise_key is None else noise_key
        return twin

    def proxy(self) -> nn.Module:
        """The network before it adapts to a batch: what it adapts to is not known yet."""
        return frozen_copy(self._start)

    def unrolled(self, steps: int, served: int = 0, draw: int | None = None) -> nn.Module:
        network, adam = frozen_copy(self._start), Adam(self.params.lr)
        own = [f"{name}.{weight}" for name, part in network.named_modules() if isinstance(part, Modulation)
               for weight in ("scale", "shift")]  # fmt: skip
        return AdaptedByAdam(
            network, own, adam, served or self.params.steps, steps, lambda logits: entropy(logits).mean()
        )

    def proxy_for(self, x: Tensor, draw: int | None = None) -> nn.Module:
        return self._adapted(x[-self.batch_size :])


def entropy(logits: Tensor) -> Tensor:
    """Entropy (N,) of the softmax of logits (N, K), in nats."""
    log_shares = logits.log_softmax(1)
    return -(log_shares.exp() * log_shares).sum(1)


class Modulation(nn.Module):
    """A scale and a shift of every channel of (N, C, ...), at first 1 and 0."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))
        self.shift = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        shape = (1, -1, *[1] * (x.dim() - 2))
        return x * self.scale.view(shape) + self.shift.view(shape)


def modulated(network: nn.Module) -> nn.Module:
    """A frozen copy of the network with a modulation, whose weights take gradients, after every layer that has one."""
    network = frozen_copy(network)
    layers = {name: layer for name, layer in network.named_modules() if _channels(layer)}
    norms = {name: layer for name, layer in layers.items() if isinstance(layer, nn.BatchNorm2d)}
    for name, layer in (norms or dict(list(layers.items())[:-1])).items():  # the last gives the logits
        parent, _, own = name.rpartition(".")
        place = next(layer.parameters()).device
        setattr(network.get_submodule(parent), own, nn.Sequential(layer, Modulation(_channels(layer)).to(place)))
    return network.eval()


def _channels(layer: nn.Module) -> int:
    """The number of output channels of a layer; 0 if no modulation follows it."""
    for kind, name in ((nn.BatchNorm2d, "num_features"), (nn.Conv2d, "out_channels"), (nn.Linear, "out_features")):
        if isinstance(layer, kind):
            return int(getattr(layer, name))
    return 0

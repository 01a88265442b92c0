"""tent: adapts the scale and the shift of every batch norm to each batch, by lowering the entropy of its answers.

Wang, Shelhamer, Liu, Olshausen, Darrell: Tent: Fully Test-time Adaptation by Entropy Minimization, ICLR 2021: batch
norm normalises by the statistics of the batch, and one step of Adam (rate 1e-3, batches of 200, for CIFAR-10) is taken
on the mean entropy; the answers are those before the step, and the weights carry over to the next batch. It was
proposed for shifted data, not against attacks: an attacker who sends a part of a batch moves the answers to all of it
(Wu et al.: Uncovering Adversarial Risks of Test-Time Adaptation, ICML 2023).

norm = median: the mean of a channel over the batch is replaced by its median, and the variance is that around the
median (Park, Kim, Jung, Choo: MedBN: Robust Test-Time Adaptation against Malicious Test Samples, CVPR 2024; that the
median is over images and positions together is our reading).

proxy: the network as it is now; what it is given is a batch. proxy_for: with the statistics of the batch that comes
next.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from bench.contracts import BatchDefense, Context, Defense, shallow_fork
from bench.contracts.base import Base
from bench.data.task import Task
from bench.errors import BadAnswer
from bench.models.frozen import freeze, frozen_copy
from bench.values import Params, State
from defenses.dent import entropy
from defenses.precision import Precision, computing, lowered
from defenses.unrolling import Adam


class TentParams(Params):
    """batch_size: points that are answered together; steps and lr of Adam for each batch, in this precision; norm: what
    batch norm normalises by, mean and variance (`batch`) or the median and the variance around it (`median`)."""

    batch_size: int = Field(default=200, ge=2)
    steps: int = Field(default=1, ge=1)
    lr: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    norm: Literal["batch", "median"] = "batch"
    precision: Precision = "float32"


class Tent(BatchDefense):
    """Lowers the entropy of its answers from batch to batch. The adapted weights and Adam's moments are the state."""

    Params: ClassVar[type[Params]] = TentParams

    _network: nn.Module
    _names: list[str]
    #: adapted weights, then Adam's two moments of each; never written in place
    _state: tuple[Tensor, ...]
    _steps: int

    def __init__(self, params: object = None) -> None:
        super().__init__(params)
        self.batch_size = self.params.batch_size

    def fit(self, task: Task, base: Defense | None, context: Context) -> None:
        assert isinstance(base, Base)
        self._network = with_batch_statistics(base.network, self.params.norm)
        self._names = [
            f"{name}.{weight}"
            for name, part in self._network.named_modules()
            if isinstance(part, BatchStatistics)
            for weight in ("weight", "bias")
        ]
        if not self._names:
            raise BadAnswer(
                f"tent has nothing to adapt in a {type(base.network).__name__} without batch norm; give a network that "
                f"has it, such as --set base.model=cifar-resnet20"
            )
        own = dict(self._network.named_parameters())
        self._state = self._adam.start([own[name].detach().clone() for name in self._names])
        self._steps = 0
        self.noise_key = context.noise_key

    @property
    def _adam(self) -> Adam:
        return Adam(self.params.lr)

    @torch.enable_grad()  # the caller may have switched gradients off
    def answer_batch(self, x: Tensor) -> Tensor:
        count, precision = len(self._names), self.params.precision
        for _ in range(self.params.steps):
            weights = [part.detach().requires_grad_(True) for part in self._state[:count]]
            with computing(precision):
                loss = entropy(lowered(_Called(self._network, self._names, weights), x, precision)).mean()
                gradients = torch.autograd.grad(loss, weights)
            with torch.no_grad():
                before, self._state = self._state, self._adam.step(self._state, gradients, self._steps)
            self._steps += 1
        self.adaptation_steps += self.params.steps * len(x)  # all answers of a batch are ready at the same time
        with torch.no_grad(), computing("float32"):
            return _Called(self._network, self._names, before[:count])(x)

    def snapshot(self) -> State:
        return State({str(i): part.clone() for i, part in enumerate(self._state)}, {"steps": self._steps})

    def restore(self, state: State) -> None:
        device = self._state[0].device
        self._state = tuple(state.tensors[str(i)].clone().to(device) for i in range(len(self._state)))
        self._steps = int(state.facts["steps"])

    def fork(self, noise_key: int | None = None) -> Defense:
        twin: Tent = shallow_fork(self)
        twin.noise_key = self.noise_key if noise_key is None else noise_key
        return twin

    def proxy(self) -> nn.Module:
        network = frozen_copy(self._network)
        with torch.no_grad():
            for name, part in zip(self._names, self._state, strict=False):
                network.get_parameter(name).copy_(part)
        return network

    def proxy_for(self, x: Tensor, draw: int | None = None) -> nn.Module:
        network = self.proxy()
        with torch.no_grad():
            for part in network.modules():
                if isinstance(part, BatchStatistics):
                    part.keep = True
            network(x[-self.batch_size :])
        return network


class _Called(nn.Module):
    """A network with other values of some of its weights."""

    def __init__(self, network: nn.Module, names: list[str], values: object) -> None:
        super().__init__()
        self._given = dict(zip(names, values, strict=True))  # type: ignore[call-overload]
        self._called = [network]  # in a list: its weights are not this module's

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = functional_call(self._called[0], self._given, (x,))
        return logits


class BatchStatistics(nn.Module):
    """Batch norm by the statistics of the batch (N, C, H, W) that it is given.

    keep: the statistics of the next batch are kept, and used from then on.
    """

    def __init__(self, norm: nn.BatchNorm2d, kind: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(norm.weight.detach().clone())
        self.bias = nn.Parameter(norm.bias.detach().clone())
        self._eps = norm.eps
        self._kind = kind
        self.keep = False
        self._kept: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        centre, spread = self._statistics(x) if self._kept is None else self._kept
        if self.keep and self._kept is None:
            self._kept = centre.detach(), spread.detach()
        shape = (1, -1, 1, 1)
        scale = self.weight / (spread + self._eps).sqrt()
        return x * scale.view(shape) + (self.bias - centre * scale).view(shape)

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The centre and the variance around it (C,) of each channel."""
        values = x.transpose(0, 1).flatten(1)
        centre = values.median(1).values if self._kind == "median" else values.mean(1)
        return centre, (values - centre[:, None]).square().mean(1)


def with_batch_statistics(network: nn.Module, kind: str) -> nn.Module:
    """A frozen copy of the network whose batch norms use the statistics of their batch."""
    changed = frozen_copy(network)
    for name, part in list(changed.named_modules()):
        if isinstance(part, nn.BatchNorm2d) and part.affine:
            parent, _, own = name.rpartition(".")
            setattr(changed.get_submodule(parent), own, BatchStatistics(part, kind))
    return freeze(changed)

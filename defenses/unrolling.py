"""Adaptation as a function of the input: logits through which a gradient flows back over the last steps of adaptation.

A state (a tuple of tensors: weights and moments, or a shift of the input) is stepped `steps` times. The gradient goes
through the last `last` of these steps, as if the earlier ones did not depend on the input. Each differentiable step is
checkpointed: its inner passes are computed again on the way back instead of being kept.

Chen, Rubanova, Bettencourt, Duvenaud: Training Deep Nets with Sublinear Memory Cost, 2016, is the source of the
checkpoints; Croce et al.: Evaluating the Adversarial Robustness of Adaptive Test-time Defenses, ICML 2022, of attacks
through the steps. A sign has no gradient: on the way back it is the gradient over its mean magnitude (a
straight-through estimate, BPDA of Athalye, Carlini, Wagner, ICML 2018; our reading).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

State = tuple[Tensor, ...]
#: (input, state, number of the step) -> next state; differentiable in input and state
Step = Callable[[Tensor, State, int], State]


@torch.enable_grad()  # steps differentiate; the caller may have switched gradients off
def stepped(step: Step, x: Tensor, state: State, steps: int, last: int) -> State:
    """The state after `steps` steps on x, a function of x through the last `last` of them."""
    for number in range(steps):
        if number < steps - last or not x.requires_grad:
            state = tuple(part.detach() for part in step(x.detach(), state, number))
        else:
            state = checkpoint(_flat(step, number), x, *state, use_reentrant=False)
    return state


def _flat(step: Step, number: int) -> Callable[..., State]:
    """The step with its state as arguments, as checkpoints take it."""
    return lambda x, *state: step(x, state, number)


def straight_sign(gradient: Tensor) -> Tensor:
    """The sign of gradient (N, ...); on the way back, the gradient over its mean magnitude in each example."""
    scale = gradient.detach().abs().flatten(1).mean(1).clamp_min(1e-30)
    slope = gradient / scale.view(-1, *[1] * (gradient.dim() - 1))
    return slope + (gradient.sign() - slope).detach()


@dataclass(frozen=True)
class Adam:
    """Adam with its usual constants, as a function of weights and moments (Kingma and Ba 2015, algorithm 1)."""

    lr: float
    first: float = 0.9
    second: float = 0.999
    tiny: float = 1e-8

    def start(self, weights: Sequence[Tensor]) -> State:
        """The state before the first step: the weights, and moments of 0."""
        zeros = [torch.zeros_like(weight) for weight in weights]
        return (*weights, *zeros, *zeros)

    def step(self, state: State, gradients: Sequence[Tensor], number: int) -> State:
        """The state after step `number` (from 0)."""
        count = len(gradients)
        weights, means, squares = state[:count], state[count : 2 * count], state[2 * count :]
        means = tuple(self.first * m + (1 - self.first) * g for m, g in zip(means, gradients, strict=True))
        squares = tuple(self.second * s + (1 - self.second) * g * g for s, g in zip(squares, gradients, strict=True))
        grown, spread = 1 - self.first ** (number + 1), 1 - self.second ** (number + 1)
        moved = tuple(
            w - self.lr * (m / grown) / (_root(s / spread) + self.tiny)
            for w, m, s in zip(weights, means, squares, strict=True)
        )
        return (*moved, *means, *squares)


def _root(square: Tensor) -> Tensor:
    """The square root, whose slope at 0 is 0: that of a weight without any gradient would be infinite."""
    zero = square == 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, square).sqrt())


class AdaptedByAdam(nn.Module):
    """Logits (B, K) of a batch (B, C, H, W) by a network whose named weights first took steps of Adam on it.

    loss: scalar, from logits (B, K). last: see `stepped`; 0 for a forward pass alone.
    """

    def __init__(
        self, network: nn.Module, names: Sequence[str], adam: Adam, steps: int, last: int,
        loss: Callable[[Tensor], Tensor],
    ) -> None:  # fmt: skip
        super().__init__()
        self.network = network
        self._names = list(names)
        self._adam = adam
        self._steps = steps
        self._last = last
        self._loss = loss

    def forward(self, x: Tensor) -> Tensor:
        own = dict(self.network.named_parameters())
        start = self._adam.start([own[name].detach() for name in self._names])
        state = stepped(self._step, x, start, self._steps, self._last)
        return self._called(x, state)

    def _step(self, x: Tensor, state: State, number: int) -> State:
        count = len(self._names)
        weights = tuple(part if part.requires_grad else part.requires_grad_(True) for part in state[:count])
        loss = self._loss(self._called(x, weights))
        further = x.requires_grad or any(part.grad_fn is not None for part in state)
        gradients = torch.autograd.grad(loss, weights, create_graph=further)
        return self._adam.step((*weights, *state[count:]), gradients, number)

    def _called(self, x: Tensor, state: State) -> Tensor:
        weights = dict(zip(self._names, state[: len(self._names)], strict=True))
        logits: Tensor = functional_call(self.network, weights, (x,))
        return logits


class Moved(nn.Module):
    """A network at x + shift(x), where the shift (N, C, H, W) follows from a few steps. A subclass implements `step`.

    last: through how many steps a gradient flows; 0: the shift is held fixed on the way back.
    """

    def __init__(self, network: nn.Module, steps: int, last: int = 0) -> None:
        super().__init__()
        self.network = network
        self.steps = steps
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x + self.shift(x))
        return logits

    def shift(self, x: Tensor) -> Tensor:
        """The shift (N, C, H, W) of x (N, C, H, W) in [0, 1]."""
        fixed = self.fixed(x.detach())

        def step(x: Tensor, state: State, number: int) -> State:
            return (self.step(x, state[0], fixed),)

        (shift,) = stepped(step, x, (self.start(x.detach()),), self.steps, min(self.last, self.steps))
        return shift if self.last else shift.detach()

    def start(self, x: Tensor) -> Tensor:
        """The shift (N, C, H, W) of x before the first step."""
        return torch.zeros_like(x)

    def fixed(self, x: Tensor) -> Tensor | None:
        """What all steps on x use, found once."""
        return None

    @abstractmethod
    def step(self, x: Tensor, shift: Tensor, fixed: Tensor | None) -> Tensor:
        """The next shift (N, C, H, W); gradients are on, and taken with `slope`."""

    @staticmethod
    def slope(loss: Tensor, at: Tensor) -> Tensor:
        """The gradient of a loss at a point, itself differentiable where the point depends on the input."""
        (gradient,) = torch.autograd.grad(loss, at, create_graph=at.grad_fn is not None)
        return gradient


def leaf(x: Tensor) -> Tensor:
    """A point at which a gradient can be taken: x itself where it depends on the input, else a new one."""
    return x if x.requires_grad else x.detach().requires_grad_(True)

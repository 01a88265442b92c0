"""PGD in linf against a network that changes: the copies made at runtime, and the examples of adversarial training.

On a CPU the work is `bench.pgd.pgd`. With a recorder one step of the same ascent is recorded for a shape and repeated:
x' = clip(x + clip(x' + a sign(grad) - x, -eps, eps), 0, 1), with eps and a in tensors, so that a growing radius needs
no new recording. The recording reads the weights where they are, so it follows them.

Source: Madry et al.: Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018, equation 2.1 ff.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from bench.pgd import pgd, summed_cross_entropy
from defenses.precision import InPrecision, Precision, computing
from defenses.recording import Body, Forward, Recorder, Repeated


class Crafting:
    """Makes adversarial images against `network` with its present weights, in evaluation mode and in this precision."""

    def __init__(self, network: nn.Module, precision: Precision, recorder: Recorder | None) -> None:
        self._network = network
        self._precision: Precision = precision
        self._recorder = recorder
        self._recorded: dict[tuple[int, ...], _Ascent] = {}

    def __call__(self, x: Tensor, y: Tensor, eps: float, steps: int, step_size: float, offset: Tensor | None) -> Tensor:
        """As `bench.pgd.pgd` in linf: images (N, C, H, W) within eps of x in [0, 1], from x + offset or from x."""
        with computing(self._precision), held(self._network):
            if self._recorder is None:
                model = InPrecision(self._network, self._precision)
                return pgd(model, x, y, eps=eps, steps=steps, step_size=step_size, offset=offset)
            if tuple(x.shape) not in self._recorded:
                self._recorded[tuple(x.shape)] = _Ascent(self._network, self._precision, x, self._recorder)
            return self._recorded[tuple(x.shape)].run(x, y, eps, steps, step_size, offset)


class _Ascent:
    """One step of PGD over tensors of its own, for images like x (N, C, H, W), recorded."""

    def __init__(self, network: nn.Module, precision: Precision, x: Tensor, recorder: Recorder) -> None:
        self._x, self._adv = x.detach().clone(), x.detach().clone()
        self._y = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        self._eps, self._step = (x.new_zeros(()) for _ in range(2))

        def body_with(forward: Forward) -> Body:
            @torch.enable_grad()
            def body() -> None:
                given = self._adv.detach().requires_grad_(True)
                images = given
                if given.device.type == "cuda":
                    images = given.contiguous(memory_format=torch.channels_last)
                loss = summed_cross_entropy(forward(network, images, precision), self._y)
                (gradient,) = torch.autograd.grad(loss, given)
                moved = self._adv + self._step * gradient.sign()
                moved = self._x + torch.clamp(moved - self._x, -self._eps, self._eps)
                self._adv.copy_(moved.clamp(0, 1))

            return body

        self._again = Repeated(recorder, body_with, [self._adv])

    def run(self, x: Tensor, y: Tensor, eps: float, steps: int, step_size: float, offset: Tensor | None) -> Tensor:
        self._x.copy_(x)
        self._y.copy_(y)
        self._eps.fill_(eps)
        self._step.fill_(step_size)
        self._adv.copy_(x if offset is None or not eps else (x + offset.to(x.device)).clamp(0, 1))
        for _ in range(steps if eps else 0):
            self._again()
        return self._adv.clone()


@contextmanager
def held(network: nn.Module) -> Iterator[None]:
    """Put the network into evaluation mode without gradients of its weights; restore both at the end."""
    training = network.training
    taught = [weight for weight in network.parameters() if weight.requires_grad]
    network.eval()
    network.requires_grad_(False)
    try:
        yield
    finally:
        for weight in taught:
            weight.requires_grad_(True)
        network.train(training)

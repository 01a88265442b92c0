"""Projected gradient descent: foolbox's loop with our draws. One engine for attacks, banks and adversarial training.

foolbox draws its random start from torch's global generator; here each example's start comes from a generator of its
own, so that an image is a function of (seed, example index) and of nothing else.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache, partial
from typing import Any, ClassVar

import eagerpy as ep
import foolbox
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bench.errors import UnknownName
from bench.norms import DESCENDED, Ball, Norm, ball_of

#: this code shapes images: see `bench.source`
SHAPES_ROWS = True

#: what is ascended: a scalar from the network's output for N images and their labels (N,)
Loss = Callable[[Tensor, Tensor], Tensor]

summed_cross_entropy: Loss = partial(cross_entropy, reduction="sum")


class _GivenStart:
    """foolbox's descent that starts at x + `offset` (N, C, H, W), in the ball, and ascends `loss`."""

    ball: ClassVar[Ball]

    def __init__(self, steps: int, step_size: float, offset: Tensor | None, loss: Loss) -> None:
        super().__init__(abs_stepsize=step_size, steps=steps, random_start=offset is not None)  # type: ignore[call-arg]
        self._offset = offset
        self._loss = loss

    def get_loss_fn(self, model: Any, labels: Any) -> Any:
        return lambda inputs: ep.astensor(self._loss(model(inputs).raw, labels.raw))

    def get_random_start(self, x0: Any, epsilon: float) -> Any:
        return x0 + ep.astensor(self._offset)

    def normalize(self, gradients: Any, *, x: Any, bounds: Any) -> Any:
        if self.ball.ascent is None:
            return super().normalize(gradients, x=x, bounds=bounds)  # type: ignore[misc]
        return ep.astensor(self.ball.ascent(gradients.raw, x.raw))

    def project(self, x: Any, x0: Any, epsilon: float) -> Any:
        if self.ball.project is None:
            return super().project(x, x0, epsilon)  # type: ignore[misc]
        return x0 + ep.astensor(self.ball.project((x - x0).raw, epsilon))


def foolbox_attack(name: str, norm: Norm) -> Any:
    """foolbox's class for an attack such as `FastGradientAttack` in a norm; `UnknownName` where it has none."""
    ball = ball_of(norm)
    if not ball.prefix:
        raise UnknownName("norm within a radius", norm, DESCENDED)
    return getattr(foolbox.attacks, f"{ball.prefix}{name}")


@cache
def _engine(norm: Norm) -> Any:
    """foolbox's descent in this norm with our start, and with the norm's own step and projection where it has them."""
    parents = (_GivenStart, foolbox_attack("ProjectedGradientDescentAttack", norm))
    return type("OurStart", parents, {"ball": ball_of(norm)})


@torch.enable_grad()  # whoever asks a defense that crafts images may do so without gradients
def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    steps: int,
    step_size: float,
    norm: Norm = "linf",
    offset: Tensor | None = None,
    loss: Loss = summed_cross_entropy,
) -> Tensor:
    """Adversarial images (N, C, H, W) for x in [0, 1] and labels y (N,): ascent on the loss within eps of x.

    step_size in pixel units of the norm; the start is x + offset (N, C, H, W), or x for None. Madry et al. 2018.
    The weights of `model` should not require gradients: they would be computed for nothing.
    """
    if eps == 0:
        return x.clone()
    engine = _engine(norm)(steps, step_size, None if offset is None else offset.to(x.device), loss)
    images: Tensor = engine.run(as_foolbox(model, x), x, foolbox.criteria.Misclassification(y), epsilon=eps)
    return images.detach()


def as_foolbox(model: nn.Module, x: Tensor) -> Any:
    """The model as foolbox takes it, for images like x in [0, 1]; it is put into evaluation mode."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # foolbox warns of a model in training mode even where it has just left it
        return foolbox.PyTorchModel(model.eval(), bounds=(0, 1), device=x.device)

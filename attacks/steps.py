"""A step of a gradient attack and the way back into the ball, for attacks whose loop is our own."""

from __future__ import annotations

from torch import Tensor

from bench.norms import Norm

#: the norms of these functions
STEPPED: tuple[Norm, ...] = ("linf", "l2")


def unit(gradient: Tensor, norm: Norm) -> Tensor:
    """The steepest direction (N, ...) of length 1 along gradients (N, ...)."""
    return gradient.sign() if norm == "linf" else gradient / _lengths(gradient)


def within_radius(offset: Tensor, eps: float, norm: Norm) -> Tensor:
    """Offsets (N, ...), each moved to the nearest point of the ball of radius eps around 0."""
    if norm == "linf":
        return offset.clamp(-eps, eps)
    return offset * (eps / _lengths(offset)).clamp(max=1)


def inside(x: Tensor, x_adv: Tensor, eps: float, norm: Norm) -> Tensor:
    """x_adv (N, C, H, W) moved into the ball of radius eps around x, then into [0, 1]."""
    return (x + within_radius(x_adv - x, eps, norm)).clamp(0, 1)


def _lengths(values: Tensor) -> Tensor:
    """The l2 norm of each of values (N, ...), as (N, 1, ...); above 0."""
    length = values.flatten(1).norm(dim=1).clamp_min(1e-12)
    return length.view(-1, *[1] * (values.dim() - 1))

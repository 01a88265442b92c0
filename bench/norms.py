"""The norms: how each measures a perturbation, and what attacks need of its ball. A norm is one entry of `NORMS`.

A perturbation delta = x' - x is (N, C, H, W), in units of [0, 1] pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.errors import UnknownName

if TYPE_CHECKING:
    from torch import Tensor

    from bench.draws import Draws

#: this code shapes images: see `bench.source`
SHAPES_ROWS = True

#: the name of an entry of `NORMS`
Norm = str


@dataclass(frozen=True)
class Ball:
    """A norm and the ball around an image.

    distance  (N,) from delta (N, C, H, W), in delta's type
    p         the exponent by which `torch.cdist` and other libraries know it
    slack     by how much a correct attack may exceed the radius, since it computes in float32
    prefix    of the names of its attacks in foolbox, and its name in AutoAttack; "": no attack stays within a radius
    uniform   offsets (N, *shape) that are uniform in the ball of radius eps, one per example; None: no attack draws
    surface   offsets (N, ...) in the ball, moved out to its surface; None likewise
    ascent    a step of PGD, of length 1, from the gradient at x and x, both (N, C, H, W); None: foolbox's step
    project   offsets (N, C, H, W), each moved to the nearest point of the ball of radius eps; None: foolbox's
    """

    distance: Callable[[Tensor], Tensor]
    p: float
    slack: float
    prefix: str = ""
    uniform: Callable[[Draws, tuple[int, ...], float], Tensor] | None = None
    surface: Callable[[Tensor, float], Tensor] | None = None
    ascent: Callable[[Tensor, Tensor], Tensor] | None = None
    project: Callable[[Tensor, float], Tensor] | None = None


def _uniform_linf(draws: Draws, shape: tuple[int, ...], eps: float) -> Tensor:
    return draws.uniform(shape, -eps, eps)


def _uniform_l2(draws: Draws, shape: tuple[int, ...], eps: float) -> Tensor:
    # the direction of a normal vector with two coordinates more, cut to the ball's dimension, is uniform in the ball
    # (Voelker, Gosmann, Stewart: Efficiently sampling vectors and coordinates from the n-sphere and n-ball, 2017)
    size = math.prod(shape)
    normal = draws.normal((size + 2,))
    ball = (normal / normal.norm(dim=1, keepdim=True))[:, :size]
    return ball.view(len(draws), *shape) * eps


def _uniform_l1(draws: Draws, shape: tuple[int, ...], eps: float) -> Tensor:
    # Laplace numbers over the sum of their magnitudes and one exponential more are uniform in the ball
    # (Barthe, Guedon, Mendelson, Naor: A probabilistic approach to the geometry of the l_p^n-ball, 2005)
    size = math.prod(shape)
    magnitudes = -(-draws.uniform((size + 1,))).log1p()
    signed = draws.uniform((size,), -1, 1).sign() * magnitudes[:, :size]
    return (signed / magnitudes.sum(1, keepdim=True)).view(len(draws), *shape) * eps


def _outwards(p: float) -> Callable[[Tensor, float], Tensor]:
    """Scales each offset (N, ...) to the length eps."""

    def scale(offset: Tensor, eps: float) -> Tensor:
        length = offset.flatten(1).norm(p=p, dim=1)
        return offset * (eps / length).view(-1, *[1] * (offset.dim() - 1))

    return scale


def _ascent_l1(gradient: Tensor, x: Tensor) -> Tensor:
    # The steepest step moves the coordinate of the largest gradient alone. As Tramer and Boneh do (Adversarial Training
    # and Robustness for Multiple Perturbations, 2019), one step moves 1 % of the coordinates, and none out of the box.
    stuck = ((x <= 0) & (gradient < 0)) | ((x >= 1) & (gradient > 0))
    free = gradient.masked_fill(stuck, 0).flatten(1)
    smallest_kept = free.abs().topk(max(1, free.shape[1] // 100), dim=1).values[:, -1:]
    step = free.sign() * (free.abs() >= smallest_kept)
    return (step / step.abs().sum(1, keepdim=True).clamp(min=1)).view_as(gradient)


def _project_l1(offset: Tensor, eps: float) -> Tensor:
    # Every magnitude shrinks by the same amount, to 0 at least (Duchi, Shalev-Shwartz, Singer, Chandra: Efficient
    # Projections onto the l1-Ball for Learning in High Dimensions, ICML 2008, figure 1)
    size = offset.flatten(1).abs()
    largest = size.sort(dim=1, descending=True).values
    excess = largest.cumsum(1) - eps
    counts = size.new_ones(size.shape[1]).cumsum(0)
    kept = (largest * counts > excess).sum(1, keepdim=True)  # coordinates that stay above 0
    shrink = (excess.gather(1, kept - 1) / kept).clamp(min=0)  # 0 in the ball
    return offset.sign() * (size - shrink).clamp(min=0).view_as(offset)


#: in the order of tables; l0 counts pixels that changed in any channel
NORMS: dict[Norm, Ball] = {
    "linf": Ball(
        distance=lambda delta: delta.abs().flatten(1).amax(1),
        p=math.inf,
        slack=1e-6,
        prefix="Linf",
        uniform=_uniform_linf,
        surface=lambda offset, eps: offset.sign() * eps,  # a corner
    ),
    "l2": Ball(
        distance=lambda delta: delta.flatten(1).square().sum(1).sqrt(),
        p=2.0,
        slack=1e-5,
        prefix="L2",
        uniform=_uniform_l2,
        surface=_outwards(2.0),
    ),
    "l1": Ball(
        distance=lambda delta: delta.flatten(1).abs().sum(1),
        p=1.0,
        slack=1e-4,
        prefix="L1",
        uniform=_uniform_l1,
        surface=_outwards(1.0),
        ascent=_ascent_l1,
        project=_project_l1,
    ),
    "l0": Ball(distance=lambda delta: (delta != 0).flatten(2).any(1).to(delta.dtype).sum(1), p=0.0, slack=0.0),
}

#: norms in which foolbox and AutoAttack descend within a radius
DESCENDED = tuple(name for name, ball in NORMS.items() if ball.prefix)


def ball_of(norm: Norm) -> Ball:
    """The entry of a norm; `UnknownName` where there is none."""
    if norm not in NORMS:
        raise UnknownName("norm", norm, NORMS)
    return NORMS[norm]


def random_offset(draws: Draws, shape: tuple[int, ...], eps: float, norm: Norm) -> Tensor:
    """Uniform offsets (N, *shape) in the ball of radius eps, one per example; `UnknownName` for norms without."""
    uniform = ball_of(norm).uniform
    if uniform is None:
        raise UnknownName("norm with random points", norm, DESCENDED)
    return uniform(draws, shape, eps)


def on_surface(offset: Tensor, eps: float, norm: Norm) -> Tensor:
    """Offsets (N, C, H, W) in the ball of radius eps, moved out to its surface; `UnknownName` for norms without."""
    surface = ball_of(norm).surface
    if surface is None:
        raise UnknownName("norm with random points", norm, DESCENDED)
    return surface(offset, eps)

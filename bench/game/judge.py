"""The judge alone decides whether a proposal may be served. It measures the distances itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.errors import BadImage
from bench.norms import NORMS, Norm
from bench.threat import ThreatModel

BOX = 1e-6


@dataclass(frozen=True)
class Ruling:
    """What the judge decides for one example.

    distance   of the proposed image to x, by norm, in pixel units (l0: pixels changed in any channel); NaN where the
               image is not finite
    violation  why the clean x is served instead of the proposal; "" if the proposal is served
    """

    distance: dict[Norm, float]
    violation: str


def as_images(x: Tensor, proposed: object) -> Tensor:
    """The images that an attack returned for x (N, C, H, W), as they would be served: float32, detached.

    Raises `BadImage` if they are no float tensor of x's shape.
    """
    if not isinstance(proposed, Tensor) or not proposed.is_floating_point():
        raise BadImage(f"The attack returned {type(proposed).__name__}; it must return a float tensor of images.")
    if proposed.shape != x.shape:
        raise BadImage(f"The attack returned images of shape {tuple(proposed.shape)} for inputs of {tuple(x.shape)}.")
    return proposed.detach().to(torch.float32)


def distances(x: Tensor, x_adv: Tensor) -> dict[Norm, Tensor]:
    """Distance of each x_adv to its x, both (N, C, H, W) in [0, 1], by norm: (N,) float64."""
    delta = x_adv.double() - x.double()
    return {norm: ball.distance(delta) for norm, ball in NORMS.items()}


def rule(x: Tensor, x_adv: Tensor, threat: ThreatModel, bounded: bool = True) -> list[Ruling]:
    """A ruling per example of x and x_adv (N, C, H, W). `bounded` is False for `minimal` attacks, which have no eps."""
    measured = distances(x, x_adv)
    finite = torch.isfinite(x_adv).flatten(1).all(1)
    low, high = x_adv.flatten(1).amin(1), x_adv.flatten(1).amax(1)
    rulings = []
    for i in range(len(x)):
        distance: dict[Norm, float] = {norm: float(values[i]) for norm, values in measured.items()}
        reason = ""
        if not finite[i]:
            reason = "not finite"
        elif low[i] < -BOX or high[i] > 1 + BOX:
            reason = f"pixels from {float(low[i]):.6g} to {float(high[i]):.6g}, outside [0, 1]"
        elif bounded and distance[threat.norm] > threat.eps + NORMS[threat.norm].slack:
            reason = f"{threat.norm} distance {distance[threat.norm]:.6g} above eps {threat.eps:.6g}"
        rulings.append(Ruling(distance, reason))
    return rulings


def admitted(x: Tensor, x_adv: Tensor, rulings: list[Ruling]) -> Tensor:
    """What is served: x_adv, and the clean x wherever the proposal is a violation."""
    keep = torch.tensor([not ruling.violation for ruling in rulings], device=x.device)
    return torch.where(keep.view(-1, 1, 1, 1), x_adv, x)

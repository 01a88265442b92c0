"""`diffhammer`: an attack on a defense that draws at random, for attackers who send an image again and again.

Wang, Zhang, Li, Wang, Wang, Wu: DiffHammer: Rethinking the Robustness of Diffusion-Based Adversarial Purification,
NeurIPS 2024. The mean over all draws (EOT) is spent on draws that no perturbation breaks, and an attacker who may send
an image ten times needs one draw alone. So the draws are weighted by how far they can be broken, in rounds of
expectation and maximisation: start along the gradient of the draw with the largest loss; then weigh each draw by the
sigmoid of the loss that it is expected to have after a step in that direction, to the first order, and step along the
weighted sum of the gradients; five rounds for each step of the attack.

Readings: a step is along the sign of that sum (linf) or the sum over its length (l2). The losses are the cross-entropy,
the negative margin and the ratio of differences (DLR, Croce and Hein 2020), each with restarts of its own; the
image is kept that breaks most draws, then the one with the smallest margin in any draw. New draws are taken in every
step. A defense that carries its state along is adapted to the unperturbed example once for each draw, as in `eot`; one
that can be unrolled is differentiated through its last steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from attacks.steps import STEPPED, inside, unit
from attacks.unrolled import UnrolledDraws
from attacks.wrappers import Drawn, drawn, undrawn
from bench.contracts import Attack, DefenseInfo, Effort
from bench.contracts.oracle import Oracle, margins
from bench.data.task import TaskFacts
from bench.draws import Draws
from bench.norms import Norm, random_offset
from bench.threat import ThreatModel
from bench.values import Params


class DiffHammerParams(Params):
    """steps of rel_step_size x eps, restarts for each loss; draws of the defense in each step; rounds of reweighting;
    sharpness: what the expected loss is multiplied by in the sigmoid; losses: one of three, or all; through: adaptation
    steps that the gradient goes through, if the defense can be unrolled."""

    steps: int = Field(default=40, ge=1)
    rel_step_size: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    restarts: int = Field(default=1, ge=1)
    draws: int = Field(default=10, ge=1)
    rounds: int = Field(default=5, ge=1)
    sharpness: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    losses: Literal["all", "cross-entropy", "margin", "dlr"] = "all"
    through: int = Field(default=2, ge=1)


class DiffHammer(Attack):
    """Gradients of many draws, weighted by how far each can be broken."""

    Params: ClassVar[type[Params]] = DiffHammerParams
    brings_network: ClassVar[bool] = True
    norms: ClassVar[tuple[Norm, ...]] = STEPPED
    quick: ClassVar[Mapping[str, Any]] = {"steps": 2, "draws": 2, "losses": "margin"}

    def declines(self, threat: ThreatModel, facts: TaskFacts, info: DefenseInfo) -> str | None:
        return undrawn(info) or super().declines(threat, facts, info)

    def effort(self, threat: ThreatModel) -> Effort:
        own = self.params
        runs = own.restarts * len(self._losses())
        return Effort(passes=runs * own.steps * own.draws * 4 / 3, probes=own.draws)

    def _losses(self) -> list[str]:
        return list(LOSSES) if self.params.losses == "all" else [self.params.losses]

    def perturb(self, oracle: Oracle, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
        copy = oracle.deployed() if oracle.threat.weights == "adapted" else oracle.simulate()
        network: Drawn = drawn(oracle, copy, x, self.params.draws)
        if not oracle.info.not_unrolled:
            network = UnrolledDraws(copy, self.params.draws, self.params.through)
        recorded = oracle.recorded(network)
        best = _Best(x)
        for name in self._losses():
            for restart in range(self.params.restarts):
                self._climb(recorded, network, x, y, oracle.threat, draws.sub(name).sub(restart), LOSSES[name], best)
        return best.images

    def _climb(
        self, recorded: nn.Module, network: Drawn, x: Tensor, y: Tensor, threat: ThreatModel, draws: Draws, loss: Any,
        best: _Best,
    ) -> None:  # fmt: skip
        eps, norm, own = threat.eps, threat.norm, self.params
        offset = random_offset(draws, tuple(x.shape[1:]), eps, norm).to(x)
        x_adv = (x + offset).clamp(0, 1)
        for _ in range(own.steps):
            network.redraw()
            losses, gradients, gaps = self._at(recorded, network, x_adv, y, loss)
            best.keep(x_adv, gaps)
            direction = self._direction(losses, gradients, own.rel_step_size * eps, norm)
            x_adv = inside(x, x_adv + own.rel_step_size * eps * direction, eps, norm)
        network.redraw()
        with torch.no_grad():
            best.keep(x_adv, self._gaps(recorded, network, x_adv, y))

    def _at(
        self, recorded: nn.Module, network: Drawn, x: Tensor, y: Tensor, loss: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Losses (D, N), their gradients (D, N, C, H, W) and margins (D, N) of all draws at x (N, C, H, W)."""
        losses, gradients, gaps = [], [], []
        for _ in network.each():
            with torch.enable_grad():
                at = x.detach().requires_grad_(True)
                logits = recorded(at)
                each = loss(logits, y)
                (gradient,) = torch.autograd.grad(each.sum(), at)
            losses.append(each.detach())
            gradients.append(gradient)
            gaps.append(margins(logits.detach(), y))
        return torch.stack(losses), torch.stack(gradients), torch.stack(gaps)

    def _gaps(self, recorded: nn.Module, network: Drawn, x: Tensor, y: Tensor) -> Tensor:
        return torch.stack([margins(recorded(x), y) for _ in network.each()])

    def _direction(self, losses: Tensor, gradients: Tensor, step: float, norm: Norm) -> Tensor:
        """The direction (N, C, H, W) of length 1 after all rounds, from losses (D, N) and gradients (D, N, C, H, W)."""
        rows = torch.arange(losses.shape[1])
        direction = unit(gradients[losses.argmax(0), rows], norm)
        for _ in range(self.params.rounds):
            gain = (gradients * direction).flatten(2).sum(2)
            weights = torch.sigmoid(self.params.sharpness * (losses + step * gain))
            direction = unit((weights[:, :, None, None, None] * gradients).sum(0), norm)
        return direction


class _Best:
    """The images (N, C, H, W) that break most draws; of equal ones, those with the smallest margin in any draw."""

    def __init__(self, x: Tensor) -> None:
        self.images = x.clone()
        self._broken = torch.full((len(x),), -1.0, device=x.device)
        self._least = torch.full((len(x),), torch.inf, device=x.device)

    def keep(self, x: Tensor, gaps: Tensor) -> None:
        """x (N, C, H, W) with its margins (D, N)."""
        broken, least = (gaps < 0).to(gaps).mean(0), gaps.amin(0)
        better = (broken > self._broken) | ((broken == self._broken) & (least < self._least))
        self.images[better] = x[better]
        self._broken, self._least = broken.where(better, self._broken), least.where(better, self._least)


def _dlr(logits: Tensor, y: Tensor) -> Tensor:
    """The difference of logits ratio (N,), without gradient through its scale where the scale is 0."""
    ordered = logits.sort(1, descending=True).values
    third = ordered[:, min(2, logits.shape[1] - 1)]
    return -margins(logits, y) / (ordered[:, 0] - third).clamp_min(1e-6)


#: losses (N,) that are ascended, from logits (N, K) and labels (N,)
LOSSES: dict[str, Any] = {
    "cross-entropy": lambda logits, y: cross_entropy(logits, y, reduction="none"),
    "margin": lambda logits, y: -margins(logits, y),
    "dlr": _dlr,
}

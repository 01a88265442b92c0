"""`dia`, `rttdp`, `repeat`: inputs that harm the answers to other users' inputs, which nobody perturbs.

dia     Wu, Jia, Qi, Wang, Sehwag, Mahloujifar, Mittal: Uncovering Adversarial Risks of Test-Time Adaptation, ICML 2023:
        the attacker has a place in the batch (10 of 200), the network and the others' inputs with their labels, and
        moves its own images by 500 steps of 1/255 so that the others' cross-entropy rises, through the statistics of
        the batch. From grey where nothing bounds it, else within the radius of its own images.
rttdp   Su, Ding, Zhao, Liu, Xiong, Jia, Wang, Xu: On the Adversarial Risk of Test Time Adaptation: An Investigation
        into Realistic Test-Time Data Poisoning, ICLR 2025: the attacker has the network as trained, follows the
        deployed one by what comes back to its own inputs, and knows nothing of the others; its batches lie between
        theirs.
repeat  the attacker sends one image of its own again and again: what no gradient is needed for.

Readings. dia: the gradient goes through the adaptation where the defense can be unrolled, else through the network as
it is now, as in the paper; the last image counts; `goal = one` moves the first of the others to a class that is drawn.
`goal = margins` is ours: the others' margins fall, each cut at the median magnitude, since the cross-entropy is spent
on points that are lost already.
rttdp: the surrogate is the trained network with the batch's statistics (for more than one image) and its scales and
shifts fitted to the returned probabilities by Adam at 1e-3; networks without batch norm have all their weights of one
dimension fitted. `balanced` moves every image to the class after its own, with low entropy; `notch` to the uniform
distribution over all classes but its own. Their consistency of the features is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, kl_div, one_hot

from attacks.steps import STEPPED, within_radius
from bench.contracts import Attack, Effort
from bench.contracts.defense import DefenseInfo
from bench.contracts.oracle import Oracle, margins
from bench.data.task import TaskFacts
from bench.draws import Draws
from bench.norms import Norm, ball_of
from bench.pgd import Loss, pgd
from bench.threat import ThreatModel
from bench.values import Params


class DIAParams(Params):
    """steps of this size in pixels of [0, 1]; goal: raise the loss of all others of the batch, lower their margins, or
    move one of them to another class; through: adaptation steps that the gradient goes through, if the defense can be
    unrolled."""

    steps: int = Field(default=500, ge=1)
    step_size: float = Field(default=0.00392156862745098, gt=0, allow_inf_nan=False)
    goal: Literal["all", "margins", "one"] = "all"
    through: int = Field(default=2, ge=1)


class DIA(Attack):
    """Distribution invading attack: images that shift what a batch is normalised by and adapted to."""

    Params: ClassVar[type[Params]] = DIAParams
    brings_network: ClassVar[bool] = True
    block: ClassVar[int | None] = None
    quick: ClassVar[Mapping[str, Any]] = {"steps": 3}

    def declines(self, threat: ThreatModel, facts: TaskFacts, info: DefenseInfo) -> str | None:
        if info.kind != "batch":
            return f"{info.name} answers no batches, and its images harm those that share a batch with them"
        if threat.place != "within":
            return f"its images are made for the batch that they share: give threat.place=within, not {threat.place}"
        if not threat.others or threat.weights != "adapted":
            return "it needs the network as it is now (threat.weights adapted) and threat.others true"
        return super().declines(threat, facts, info)

    def effort(self, threat: ThreatModel) -> Effort:
        return Effort(passes=self.params.steps / max(threat.share, 0.01))

    def perturb(self, oracle: Oracle, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
        others, labels = oracle.others
        network = _Others(oracle.deployed().of_batches(self.params.through), others)
        radius = oracle.threat.eps
        free = radius >= float(ball_of(oracle.threat.norm).distance(torch.ones_like(x[:1])))
        return pgd(
            network, x, y, eps=radius, steps=self.params.steps, step_size=self.params.step_size,
            norm=oracle.threat.norm, offset=0.5 - x if free else None,
            loss=self._loss(labels, draws, oracle.info.abstains),
        )  # fmt: skip

    def _loss(self, labels: Tensor, draws: Draws, abstains: bool) -> Loss:
        """What is ascended, from the logits (M, columns) of the others; a refusal is no class to move one to."""
        if self.params.goal == "all":
            return lambda logits, _: cross_entropy(logits, labels, reduction="sum")
        if self.params.goal == "margins":
            return lambda logits, _: -_cut(margins(logits, labels)).sum()
        shift = torch.rand((), generator=draws[0]).item()

        def towards_one(logits: Tensor, _: Tensor) -> Tensor:
            classes = logits.shape[1] - abstains
            target = (labels[:1] + 1 + int(shift * (classes - 1))) % classes
            return -cross_entropy(logits[:1], target)

        return towards_one


def _cut(values: Tensor) -> Tensor:
    """values (M,), cut at their median magnitude."""
    bound = float(values.detach().abs().median())
    return values.clamp(-bound, bound)


class _Others(nn.Module):
    """From the attacker's images (A, C, H, W) to the logits of the others in its batch, (M, columns)."""

    def __init__(self, network: nn.Module, others: Tensor) -> None:
        super().__init__()
        self.network = network
        self._others = others

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(torch.cat([x, self._others]))
        return logits[len(x) :]


class RTTDPParams(Params):
    """steps of PGD, of rel_step_size x eps; fit_steps and fit_lr of Adam, which fits the surrogate to what came back;
    goal: see the module."""

    steps: int = Field(default=40, ge=1)
    rel_step_size: float = Field(default=0.0333333333, gt=0, allow_inf_nan=False)
    fit_steps: int = Field(default=10, ge=0)
    fit_lr: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    goal: Literal["balanced", "notch"] = "balanced"


class RTTDP(Attack):
    """Realistic test-time data poisoning: batches of wrong answers that the defense learns from."""

    Params: ClassVar[type[Params]] = RTTDPParams
    block: ClassVar[int | None] = None
    heeds_replies: ClassVar[bool] = True
    quick: ClassVar[Mapping[str, Any]] = {"steps": 3, "fit_steps": 2}

    def effort(self, threat: ThreatModel) -> Effort:
        return Effort(passes=self.params.steps + self.params.fit_steps)

    def perturb(self, oracle: Oracle, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
        params, radius = self.params, oracle.threat.eps
        surrogate = _Surrogate(oracle.model(), batched=len(x) > 1)
        sent, logits = oracle.received
        if len(sent):
            surrogate.fit(sent, logits.softmax(1), params.fit_steps, params.fit_lr)
        return pgd(
            surrogate, x, y, eps=radius, steps=params.steps, step_size=params.rel_step_size * radius,
            norm=oracle.threat.norm, loss=_balanced if params.goal == "balanced" else _notch,
        )  # fmt: skip


def _balanced(logits: Tensor, y: Tensor) -> Tensor:
    return -cross_entropy(logits, (y + 1) % logits.shape[1], reduction="sum")


def _notch(logits: Tensor, y: Tensor) -> Tensor:
    other = 1 - one_hot(y, logits.shape[1]).to(logits)
    return -cross_entropy(logits, other / other.sum(1, keepdim=True), reduction="sum")


class _Surrogate(nn.Module):
    """The trained network with weights of its own for scales and shifts; batched: it uses the batch's statistics."""

    def __init__(self, network: nn.Module, batched: bool) -> None:
        super().__init__()
        self.eval()
        # in a list: its weights are not this module's, and foolbox's eval() leaves it the batch's statistics
        self._network = [network]
        norms = {name: part for name, part in network.named_modules() if isinstance(part, nn.BatchNorm2d)}
        for part in norms.values() if batched else ():
            part.train()
            part.momentum = 0.0  # what it was trained with stays as it is
        own = dict(network.named_parameters())
        chosen = [f"{name}.{weight}" for name in norms for weight in ("weight", "bias") if f"{name}.{weight}" in own]
        chosen = chosen or [name for name, weight in own.items() if weight.dim() == 1]
        self._values = {name: own[name].detach().clone() for name in chosen}

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = functional_call(self._network[0], self._values, (x,))
        return logits

    @torch.enable_grad()
    def fit(self, x: Tensor, shares: Tensor, steps: int, lr: float) -> None:
        """Fit its weights to probabilities (N, K) that came back for x (N, C, H, W)."""
        values = [value.requires_grad_(True) for value in self._values.values()]
        if not values or not steps:
            return
        optimiser = torch.optim.Adam(values, lr=lr)
        for _ in range(steps):
            optimiser.zero_grad(set_to_none=True)
            kl_div(self(x).log_softmax(1), shares, reduction="batchmean").backward()
            optimiser.step()
        self._values = {name: value.detach() for name, value in self._values.items()}


class Repeat(Attack):
    """The attacker's first image, sent in place of all its others, as far as the radius allows."""

    norms: ClassVar[tuple[Norm, ...]] = STEPPED
    block: ClassVar[int | None] = None
    needs_gradients: ClassVar[bool] = False
    heeds_replies: ClassVar[bool] = True

    def perturb(self, oracle: Oracle, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
        sent, _ = oracle.received
        first = sent[:1] if len(sent) else x[:1]
        return x + within_radius(first - x, oracle.threat.eps, oracle.threat.norm)

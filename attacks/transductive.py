"""`fpa`, `gmsa-avg`, `gmsa-min`: attacks on a defense that adapts to the input before it answers.

Chen, Wu, Guo, Liang, Jha: Towards Evaluating the Robustness of Neural Networks Learned by Transduction, ICLR 2022. The
attacker simulates the defense and searches an image that fools the network *after* it has adapted to that image:

    F_0 = the network before it adapts
    x_r = the image in the ball that maximises a loss over F_0 .. F_r
    F_{r+1} = the network after it has adapted to x_r

fpa       fixed point attack: the loss of the last network F_r
gmsa-avg  greedy model space attack: the mean of the losses of F_0 .. F_r
gmsa-min  greedy model space attack: the smallest of the losses of F_0 .. F_r

As in the authors' attack on RMC, the points are attacked in their order. The rounds for a point end once the copy
answers x_r wrong. Then the best image is served to the copy, and the next point starts from the state after that. The
whole sequence is finally served once to a fresh defense, whose randomness the attacker does not know (protocol
`replay`).

An attacker who knows that the defense draws at random (as RMC+ does where it replaces rows of D') may simulate several
copies with draws of their own: the networks of all enter the loss, and the rounds end once all copies answer wrong
(`copies`, ours).

Deviation: the paper compares the accuracies of a batch; here each example keeps the image of its lowest margin.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bench.contracts import BLOCK, Attack, Effort
from bench.contracts.oracle import Oracle, Simulation, margins
from bench.draws import Draws
from bench.norms import DESCENDED, Norm, random_offset
from bench.pgd import pgd
from bench.threat import ThreatModel
from bench.values import Params


class TransductiveParams(Params):
    """rounds: of attack and adaptation, at most; steps: of PGD in each round; rel_step_size: step / eps; copies: of the
    simulated defense, each with randomness of its own where it is private."""

    rounds: int = Field(default=10, ge=1)
    steps: int = Field(default=40, ge=1)
    rel_step_size: float = Field(default=0.0333333333, gt=0, allow_inf_nan=False)
    copies: int = Field(default=1, ge=1)


class TransductiveAttack(Attack):
    """Attacks the networks that a simulated defense adapts to. A subclass combines their losses."""

    Params: ClassVar[type[Params]] = TransductiveParams
    brings_network: ClassVar[bool] = True
    norms: ClassVar[tuple[Norm, ...]] = DESCENDED
    block: ClassVar[int | None] = None
    #: the loss uses the networks of all rounds so far, not only those of the last
    cumulates: ClassVar[bool] = True
    quick: ClassVar[Mapping[str, Any]] = {"steps": 10, "rounds": 2}

    @abstractmethod
    def over(self, losses: Tensor) -> Tensor:
        """The loss to maximise (N,), from the losses (S, N) of the networks so far, oldest first, of all copies."""

    def effort(self, threat: ThreatModel) -> Effort:
        # each round asks the copy for its answer and for its next network; the copy is served the best image
        rounds = self.params.rounds
        networks = rounds * (rounds + 1) / 2 if self.cumulates else rounds
        copies = self.params.copies
        return Effort(passes=self.params.steps * networks * copies, probes=2.0 * rounds * copies, answers=float(copies))

    def perturb(self, oracle: Oracle, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
        copies = [oracle.simulate() for _ in range(self.params.copies)]
        images, kind = x.clone(), copies[0].kind
        together = {"static": BLOCK, "online": 1, "batch": copies[0].batch_size}[kind]
        for first in range(0, len(x), together):
            rows = list(range(first, min(first + together, len(x))))
            oracle.report(f"crafting example {rows[-1] + 1} of {len(x)}")
            with oracle.about(rows):
                images[rows] = self._attacked(oracle, copies, x[rows], y[rows], draws.of(rows))
                for copy in copies if kind != "static" else ():
                    copy.predict(images[rows])
        return images

    def _attacked(self, oracle: Oracle, copies: list[Simulation], x: Tensor, y: Tensor, draws: Draws) -> Tensor:
        """Images for x (N, C, H, W): those of the lowest margin on the copy that stands best."""
        threat, params = oracle.threat, self.params
        networks: list[nn.Module] = [copy.proxy() for copy in copies]
        best, lowest = x.clone(), torch.full((len(x),), torch.inf, device=x.device)
        for round_ in range(params.rounds):
            x_adv = pgd(
                _Stacked(networks),
                x,
                y,
                eps=threat.eps,
                steps=params.steps,
                step_size=params.rel_step_size * threat.eps,
                norm=threat.norm,
                offset=random_offset(draws.sub(round_), tuple(x.shape[1:]), threat.eps, threat.norm),
                loss=self._loss,
            )
            margin = torch.stack([margins(copy.answers(x_adv), y) for copy in copies]).amax(0)
            better = margin < lowest
            best[better], lowest[better] = x_adv[better], margin[better]
            if copies[0].kind == "static" or bool((lowest < 0).all()):
                break  # a static defense does not adapt, and another round would be the same; or all are fooled
            networks = [*(networks if self.cumulates else []), *(copy.proxy_for(x_adv) for copy in copies)]
        return best

    def _loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """The sum of `over` over the examples, from the logits (N, S, K) of all networks."""
        losses = torch.stack([cross_entropy(part, y, reduction="none") for part in logits.unbind(1)])
        return self.over(losses).sum()


class _Stacked(nn.Module):
    """Logits (N, S, K) of several networks for the same images."""

    def __init__(self, networks: list[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([network(x) for network in self.networks], dim=1)


class FPA(TransductiveAttack):
    """Fixed point attack: the loss of the last round's network, or the mean over its copies."""

    cumulates: ClassVar[bool] = False

    def over(self, losses: Tensor) -> Tensor:
        return losses.mean(0)


class GMSAAvg(TransductiveAttack):
    """Greedy model space attack on the mean of the losses."""

    def over(self, losses: Tensor) -> Tensor:
        return losses.mean(0)


class GMSAMin(TransductiveAttack):
    """Greedy model space attack on the smallest of the losses: it looks for an image that fools all networks so far."""

    def over(self, losses: Tensor) -> Tensor:
        return losses.amin(0)

"""`fgsm` and `bim`: the fast gradient sign method and its iteration, from foolbox.

fgsm  Goodfellow, Shlens, Szegedy: Explaining and Harnessing Adversarial Examples, ICLR 2015. One step of length eps
      along the sign of the gradient of the cross-entropy; in l2 and l1 along the gradient.
bim   Kurakin, Goodfellow, Bengio: Adversarial Examples in the Physical World, 2016. Many small steps, each followed by
      a projection onto the ball. Unlike PGD, it starts at the image itself.

In l1, foolbox steps along the gradient and scales an image back into the ball. The steps of `pgd` are stronger there.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import foolbox
from pydantic import Field
from torch import Tensor

from bench.contracts import Attack, Effort
from bench.contracts.oracle import Oracle
from bench.draws import Draws
from bench.norms import DESCENDED, Norm
from bench.pgd import as_foolbox, foolbox_attack
from bench.threat import ThreatModel
from bench.values import Params


class FoolboxAttack(Attack):
    """A deterministic attack of foolbox within a radius. A subclass names the attack."""

    norms: ClassVar[tuple[Norm, ...]] = DESCENDED

    @abstractmethod
    def engine(self, norm: Norm, eps: float) -> Any:
        """foolbox's attack for this norm and radius."""

    def perturb(self, oracle: Oracle, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
        threat = oracle.threat
        if threat.eps == 0:
            return x
        criterion = foolbox.criteria.Misclassification(y)
        found: Tensor = self.engine(threat.norm, threat.eps).run(
            as_foolbox(oracle.model(), x), x, criterion, epsilon=threat.eps
        )
        return found.detach()


class FGSM(FoolboxAttack):
    """One step along the sign of the gradient (l2, l1: along the gradient)."""

    def engine(self, norm: Norm, eps: float) -> Any:
        return foolbox_attack("FastGradientAttack", norm)(random_start=False)


class BIMParams(Params):
    """steps: gradient steps; rel_step_size: step / eps."""

    steps: int = Field(default=40, ge=1)
    rel_step_size: float = Field(default=0.0333333333, gt=0, allow_inf_nan=False)


class BIM(FoolboxAttack):
    """Many small steps that start at the image itself."""

    Params: ClassVar[type[Params]] = BIMParams
    quick: ClassVar[Mapping[str, Any]] = {"steps": 10}

    def effort(self, threat: ThreatModel) -> Effort:
        return Effort(passes=self.params.steps)

    def engine(self, norm: Norm, eps: float) -> Any:
        step_size = self.params.rel_step_size * eps
        made = foolbox_attack("BasicIterativeAttack", norm)
        return made(abs_stepsize=step_size, steps=self.params.steps, random_start=False)

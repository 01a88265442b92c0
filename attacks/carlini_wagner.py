"""`cw-l2`: the smallest l2 perturbation that fools the network, from foolbox.

Carlini, Wagner: Towards Evaluating the Robustness of Neural Networks, IEEE S&P 2017, section V. Adam minimises the
squared l2 norm plus c times the margin, over the arctanh of the pixels; a binary search finds c.

Deviations: foolbox returns a black image where it finds no adversarial image; here the input is returned instead. The
input is also returned where the network is wrong on it already. The perturbation may have any length: the judge serves
an image of a minimal attack at any distance, and the metrics apply the radius.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import foolbox
import torch
from foolbox.attacks import L2CarliniWagnerAttack
from pydantic import Field
from torch import Tensor

from bench.contracts import Attack, Effort
from bench.contracts.oracle import Oracle, margins
from bench.draws import Draws
from bench.norms import Norm
from bench.pgd import as_foolbox
from bench.threat import ThreatModel
from bench.values import Params


class CWParams(Params):
    """binary_search_steps: values of c that are tried; steps, step_size: of Adam for each c; initial_const: the first
    c; confidence: margin by which the network must be fooled."""

    binary_search_steps: int = Field(default=9, ge=1)
    steps: int = Field(default=300, ge=1)
    step_size: float = Field(default=0.05, gt=0, allow_inf_nan=False)
    initial_const: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    confidence: float = Field(default=0.0, ge=0, allow_inf_nan=False)


class CarliniWagnerL2(Attack):
    """Carlini and Wagner's l2 attack."""

    Params: ClassVar[type[Params]] = CWParams
    kind: ClassVar[Literal["budget", "minimal"]] = "minimal"
    norm: ClassVar[Norm] = "l2"
    quick: ClassVar[Mapping[str, Any]] = {"steps": 10}

    def effort(self, threat: ThreatModel) -> Effort:
        return Effort(passes=self.params.binary_search_steps * self.params.steps)

    def perturb(self, oracle: Oracle, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
        params, model = self.params, oracle.model()
        engine = L2CarliniWagnerAttack(
            binary_search_steps=params.binary_search_steps,
            steps=params.steps,
            stepsize=params.step_size,
            initial_const=params.initial_const,
            confidence=params.confidence,
        )
        found: Tensor = engine.run(as_foolbox(model, x), x, foolbox.criteria.Misclassification(y)).detach()
        with torch.no_grad():
            keep = (margins(model(x), y) < 0) | (found == 0).flatten(1).all(1)
        return torch.where(keep.view(-1, 1, 1, 1), x, found)

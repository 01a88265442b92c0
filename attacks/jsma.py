"""`jsma`: the smallest number of changed pixels, found by saliency maps, from the Adversarial Robustness Toolbox (ART).

Papernot, McDaniel, Jha, Fredrikson, Celik, Swami: The Limitations of Deep Learning in Adversarial Settings, EuroS&P
2016, as ART implements it. Each step adds `theta` to the two features that raise the logit of the target most. It stops
when the network answers the target, or when the share `gamma` of the pixels has changed.

Deviations: ART attacks one target class. Here each of the `targets` most likely other classes is a target in turn, and
the attack returns the image that fools the network with the fewest changed pixels, or the input where none does. ART
counts features, which are channels of pixels; `gamma` is a share of the pixels, and no more pixels than that change.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from art.attacks.evasion import SaliencyMapMethod
from pydantic import Field
from torch import Tensor

from attacks.art import as_art, seeded
from bench.contracts import Attack, Effort
from bench.contracts.oracle import Oracle, margins
from bench.draws import Draws
from bench.norms import Norm
from bench.threat import ThreatModel
from bench.values import Params


class JSMAParams(Params):
    """theta: what a step adds to a feature, in units of [0, 1] pixels; gamma: largest share of the pixels that may
    change; targets: number of other classes that are tried."""

    theta: float = Field(default=1.0, gt=0, le=1, allow_inf_nan=False)
    gamma: float = Field(default=0.25, gt=0, le=1, allow_inf_nan=False)
    targets: int = Field(default=9, ge=1)


class JSMA(Attack):
    """The saliency map attack of Papernot et al. on several targets."""

    Params: ClassVar[type[Params]] = JSMAParams
    kind: ClassVar[Literal["budget", "minimal"]] = "minimal"
    norm: ClassVar[Norm] = "l0"

    def effort(self, threat: ThreatModel) -> Effort:
        # each of its steps differentiates every class, and it takes many: a hundred in all is a guess
        return Effort(passes=100.0 * self.params.targets)

    def perturb(self, oracle: Oracle, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
        params, model = self.params, oracle.model()
        with torch.no_grad():
            logits = model(x)
        classes = logits.shape[1]
        engine = SaliencyMapMethod(
            as_art(model, x, classes), theta=params.theta, gamma=gamma_of_features(params.gamma, x.shape),
            batch_size=len(x), verbose=False,
        )  # fmt: skip
        best = x.clone()
        fewest = torch.where(margins(logits, y) < 0, 0.0, torch.inf).to(x.device)
        others = logits.scatter(1, y[:, None], -torch.inf).argsort(dim=1, descending=True)
        for rank in range(min(params.targets, classes - 1)):
            target = others[:, rank].cpu().numpy()
            with seeded(draws, f"target {rank}"):
                found = torch.from_numpy(engine.generate(x.cpu().numpy(), y=np.eye(classes)[target])).to(x)
            with torch.no_grad():
                fooled = margins(model(found), y) < 0
            changed = (found != x).any(dim=1).flatten(1).sum(1).float()
            better = fooled & (changed < fewest)
            best = torch.where(better.view(-1, 1, 1, 1), found, best)
            fewest = torch.where(better, changed, fewest)
        return best


def gamma_of_features(share: float, shape: torch.Size) -> float:
    """The `gamma` of ART at which at most `share` of the pixels of images (N, C, H, W) change, or two pixels.

    ART changes two features a step and stops after the step that exceeds its gamma. So two pixels are kept for that
    step.
    """
    channels, pixels = shape[1], shape[2] * shape[3]
    most = int(share * pixels) - 2
    return max(most, 1) / (channels * pixels)

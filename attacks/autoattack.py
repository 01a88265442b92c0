"""`autoattack`: the standard ensemble of parameter-free attacks, in its authors' implementation (pyautoattack).

Croce, Hein: Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free Attacks, ICML
2020. The parts are APGD on the cross-entropy, APGD on the targeted difference of logits ratio (DLR), targeted FAB and
Square. They form a cascade: each part attacks the examples that no earlier part has broken. All parts attack the
network that the threat model grants. Square queries that network too, not the deployed defense.

Deviations: the cascade is ours. So each part draws from the examples' own seeds, and only the parts query the network.
(The cascade of the library also checks the network; here `bench audit` does that.) The targeted DLR needs four classes.
With fewer, untargeted APGD on the cross-entropy with random restarts replaces it.

In l1 (Croce, Hein: Mind the Box, ICML 2021) APGD starts with larger radii, as in the library. The standard version of
the library uses 5 restarts and 5 target classes in l1; here `attack.restarts` and `attack.target_classes` set them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from pyautoattack.fab_pt import FABAttack_PT
from pyautoattack.square import SquareAttack
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from attacks.art import seeded
from bench.contracts import Attack, Effort
from bench.contracts.oracle import Oracle, margins
from bench.draws import Draws, seed_of
from bench.norms import DESCENDED, Norm, ball_of
from bench.threat import ThreatModel
from bench.values import Params

PARTS = ("apgd-ce", "apgd-t", "fab-t", "square")


def _known_parts(given: str) -> str:
    names = [name.strip() for name in given.split(",")]
    for name in names:
        if name not in PARTS:
            raise ValueError(f"no part is called {name!r}; give some of {', '.join(PARTS)}, with commas")
    return ",".join(names)


#: names of parts, with commas
Parts = Annotated[str, AfterValidator(_known_parts)]


class AutoAttackParams(Params):
    """parts: the parts to run, in this order, separated by commas; steps: of APGD and FAB; restarts: of APGD-CE;
    target_classes: number of classes that the targeted parts try, most likely first; square_queries: queries of Square
    per example."""

    parts: Parts = "apgd-ce,apgd-t,fab-t,square"
    steps: int = Field(default=100, ge=2)
    restarts: int = Field(default=1, ge=1)
    target_classes: int = Field(default=9, ge=1)
    square_queries: int = Field(default=5000, ge=1)


class AutoAttack(Attack):
    """Runs the parts in order, each on the examples that are not yet broken."""

    Params: ClassVar[type[Params]] = AutoAttackParams
    norms: ClassVar[tuple[Norm, ...]] = DESCENDED
    quick: ClassVar[Mapping[str, Any]] = {"steps": 10, "square_queries": 50}

    def effort(self, threat: ThreatModel) -> Effort:
        params = self.params
        targeted = params.steps * params.target_classes
        passes = {
            "apgd-ce": params.steps * params.restarts,
            "apgd-t": targeted,
            "fab-t": targeted,
            "square": params.square_queries / 3,  # forwards only
        }
        return Effort(passes=sum(passes[part] for part in params.parts.split(",")))

    def perturb(self, oracle: Oracle, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
        threat = oracle.threat
        if threat.eps == 0:
            return x
        model = oracle.model()
        x_adv = x.clone()
        with torch.no_grad():
            logits = model(x)
        left = torch.nonzero(margins(logits, y) >= 0).flatten().tolist()
        for part in self.params.parts.split(","):
            if not left:
                break
            with oracle.about(left), seeded(draws, part), _cuda_generators_kept(x):
                engine = self._engine(part, model, x, logits.shape[1], threat.norm, threat.eps, draws)
                tried = engine.perturb(x[left].clone(), y[left].clone()).detach()
                with torch.no_grad():
                    fooled = margins(model(tried), y[left]) < 0
            for i, row in enumerate(left):
                if fooled[i]:
                    x_adv[row] = tried[i]
            left = [row for i, row in enumerate(left) if not fooled[i]]
        return x_adv

    def _engine(
        self, part: str, model: nn.Module, x: Tensor, classes: int, norm: Norm, eps: float, draws: Draws
    ) -> Any:
        params = self.params
        targets = min(params.target_classes, classes - 1)
        shared: dict[str, Any] = {
            "norm": ball_of(norm).prefix,
            "eps": eps,
            "seed": seed_of(draws.seed, draws.purpose, part, *draws.indices) % 2**32,
            "device": x.device,
            "verbose": False,
        }
        if part == "square":
            return SquareAttack(model, p_init=0.8, n_queries=params.square_queries, resc_schedule=False, **shared)
        if part == "fab-t":
            return FABAttack_PT(model, n_iter=params.steps, targeted=True, n_target_classes=targets, **shared)
        if part == "apgd-t" and classes > 3:
            return APGDAttack_targeted(
                model, n_iter=params.steps, n_target_classes=targets, use_largereps=norm == "l1", **shared
            )
        restarts = params.restarts if part == "apgd-ce" else targets
        return APGDAttack(
            model, n_iter=params.steps, n_restarts=restarts, loss="ce", use_largereps=norm == "l1", **shared
        )


def _cuda_generators_kept(x: Tensor) -> Any:
    """Restore torch's global generators afterwards, also those of a GPU: the library seeds them."""
    return torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else [])

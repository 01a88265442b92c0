"""`autoattack`: the standard ensemble without parameters to tune, from its authors' implementation (pyautoattack).

Croce, Hein: Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free Attacks, ICML
2020: APGD on the cross-entropy, APGD on the targeted difference of logits ratio (DLR), targeted FAB, Square. A cascade:
each part attacks what the parts before left unfooled of the network that the threat model grants. Square asks that
network, not the deployed defense.

Ours, not theirs: the cascade, so that each part draws from the examples' own seeds, and so that nothing but the parts
asks the network (the library's own also runs its checks of the network, which `bench audit` does here). With fewer than
four classes there is no targeted DLR, and untargeted APGD on the cross-entropy with random restarts stands in for it.

In L1 (Croce, Hein: Mind the Box, ICML 2021) APGD begins with larger radii, as theirs does; their standard version takes
5 restarts and 5 target classes there: `attack.restarts`, `attack.target_classes`.
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


class AutoAttackParams(Params):
    """parts: of the ensemble, in their order, with commas; steps of APGD and FAB; restarts of APGD-CE; target_classes:
    of the targeted parts, most likely first; square_queries: of Square, for each example."""

    parts: Annotated[str, AfterValidator(_known_parts)] = "apgd-ce,apgd-t,fab-t,square"
    steps: int = Field(default=100, ge=2)
    restarts: int = Field(default=1, ge=1)
    target_classes: int = Field(default=9, ge=1)
    square_queries: int = Field(default=5000, ge=1)


class AutoAttack(Attack):
    """The parts in turn, each on what is left."""

    Params: ClassVar[type[Params]] = AutoAttackParams
    norms: ClassVar[tuple[Norm, ...]] = DESCENDED
    quick: ClassVar[Mapping[str, Any]] = {"steps": 10, "square_queries": 50}

    def effort(self, threat: ThreatModel) -> Effort:
        params = self.params  # APGD once and once for each target, FAB for each target; Square passes forwards only
        passes = params.steps * (params.restarts + 2 * params.target_classes) + params.square_queries / 3
        return Effort(passes=passes)

    def perturb(self, oracle: Oracle, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
        threat = oracle.threat
        if threat.eps == 0:
            return x
        model = oracle.model()
        found = x.clone()
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
                    found[row] = tried[i]
            left = [row for i, row in enumerate(left) if not fooled[i]]
        return found

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
    """The library seeds torch's global generators, those of a GPU too; afterwards they are as before."""
    return torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else [])

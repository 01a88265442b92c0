"""`unrolled`, `apgd-unrolled`: a gradient attack through the last steps of the defense's adaptation to the input.

Croce, Gowal, Brunner, Shelhamer, Hein, Cemgil: Evaluating the Adversarial Robustness of Adaptive Test-time Defenses,
ICML 2022: APGD with 100 steps on the defense itself, differentiated through its adaptation; Hedge with 5 steps attacked
where 20 are served, and with the mean over draws where it is random.

unrolled       a wrapper: the attack inside gets the unrolled network. It has the parameters of both
apgd-unrolled  APGD on the cross-entropy inside (the first part of AutoAttack), with restarts

The point of a batch defense is attacked in its batch: with the company that it will have, or, where all points of a
batch are attacked in one call, with what the attack last tried for the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor, nn

from attacks.autoattack import AutoAttack, AutoAttackParams, Parts
from attacks.wrappers import Drawn, MeanOfDraws, OneDraw
from bench.contracts import DefenseInfo, Effort
from bench.contracts.oracle import Oracle, Simulation
from bench.data.task import TaskFacts
from bench.threat import ThreatModel
from bench.values import Params


class UnrolledParams(Params):
    """through: adaptation steps that the gradient goes through, the last ones; served: steps that the attacked copy
    takes (0: as many as an answer takes); draws: of the defense's randomness in every pass, whose log-probabilities
    are averaged."""

    through: int = Field(default=4, ge=1)
    served: int = Field(default=0, ge=0)
    draws: int = Field(default=1, ge=1)


class Unrolled(OneDraw):
    """The attack inside differentiates the defense through its adaptation."""

    name: ClassVar[str] = "unrolled"
    Params: ClassVar[type[Params]] = UnrolledParams

    def declines(self, threat: ThreatModel, facts: TaskFacts, info: DefenseInfo) -> str | None:
        if info.not_unrolled:
            return f"{info.name} cannot be unrolled: {info.not_unrolled}"
        return super().declines(threat, facts, info)

    def effort(self, threat: ThreatModel) -> Effort:
        inside, params = self._attack().effort(threat), self.params
        # a step and the way back through it take about five passes, and are computed twice (checkpoints)
        return Effort(passes=inside.passes * params.draws * (1 + 10 * params.through), probes=inside.probes)

    def network(self, oracle: Oracle, copy: Simulation, x: Tensor) -> nn.Module:
        params = self.params
        if params.draws == 1:
            return copy.unrolled(params.through, params.served)
        return MeanOfDraws(self.drawn(oracle, copy, x, 1))

    def drawn(self, oracle: Oracle, copy: Simulation, x: Tensor, count: int) -> Drawn:
        params = self.params
        return UnrolledDraws(copy, count * params.draws, params.through, params.served)


class UnrolledDraws(Drawn):
    """The unrolled defense in each of its draws. through, served: see `UnrolledParams`."""

    def __init__(self, copy: Simulation, count: int, through: int, served: int = 0) -> None:
        super().__init__(copy, count)
        self._given = through, served

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self._copy.unrolled(*self._given, self.draw)(x)
        return logits


class _APGD(AutoAttack):
    """APGD on the cross-entropy alone."""

    class Params(AutoAttackParams):  # the parts of the ensemble that differ from its own defaults
        """Parameters of AutoAttack, of which only APGD on the cross-entropy is run."""

        parts: Parts = "apgd-ce"

    quick: ClassVar[Mapping[str, Any]] = {"steps": 4}


APGDUnrolled = Unrolled.around(_APGD)

"""The contract of an attack: it proposes images, and the harness does the rest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor

from bench.contracts.defense import BLOCK, DefenseInfo
from bench.draws import Draws
from bench.norms import Norm
from bench.threat import ThreatModel
from bench.values import Params

if TYPE_CHECKING:
    from bench.contracts.oracle import Oracle
    from bench.data.task import TaskFacts


#: the protocol of attacks that do not name one
DEFAULT_PROTOCOL = "stream"


@dataclass(frozen=True)
class Effort:
    """What an attack takes for one example, roughly.

    passes   of one image forwards and backwards through a network; a forward pass alone counts a third
    probes   answers to a question, by the deployed defense or by a simulated copy
    answers  inputs that a simulated copy serves
    """

    passes: float = 1.0
    probes: float = 0.0
    answers: float = 0.0


class Attack(ABC):
    """Proposes images. The harness does not clip them; it judges them and counts what the attack spends.

    An attack keeps nothing between calls. What the attacker remembers is in the oracle.
    """

    Params: ClassVar[type[Params]] = Params
    #: fields of the threat model that define the attack, further ones that a request may set, and the default
    #: protocol; arguments of `register_attack` take precedence
    preset: ClassVar[Mapping[str, Any]] = {}
    free: ClassVar[tuple[str, ...]] = ()
    protocol: ClassVar[str] = DEFAULT_PROTOCOL
    #: `budget`: stays within the threat's eps; `minimal`: seeks the smallest perturbation in its own norm
    kind: ClassVar[Literal["budget", "minimal"]] = "budget"
    #: its own norm, and all norms that it can run in (empty: its own)
    norm: ClassVar[Norm] = "linf"
    norms: ClassVar[tuple[Norm, ...]] = ()
    #: examples per call, in blocks of the seeded order; None: all examples of the game in one call
    block: ClassVar[int | None] = BLOCK
    #: it differentiates the network that the oracle grants
    needs_gradients: ClassVar[bool] = True
    #: what it sends depends on the answers to what it sent before (`Oracle.received`)
    heeds_replies: ClassVar[bool] = False
    #: it makes its own network of copies of the defense, and so would pass over one that a wrapper around it gives
    brings_network: ClassVar[bool] = False
    recipe_family: ClassVar[str] = ""
    #: parameter values for `bench check`, which needs few steps: a runtime defense answers slowly
    quick: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, params: Any = None) -> None:
        self.params: Any = params if params is not None else self.Params()

    def declines(self, threat: ThreatModel, facts: TaskFacts, info: DefenseInfo) -> str | None:
        """Why this attack cannot run here; None if it can."""
        norms = self.norms or (self.norm,)
        if threat.norm not in norms:
            return f"it has no {threat.norm} form (it has: {', '.join(norms)})"
        if self.needs_gradients and threat.weights in ("simulated", "adapted") and not info.differentiable:
            return f"{info.name} has no differentiable proxy"
        return None

    def effort(self, threat: ThreatModel) -> Effort:
        """What the attack takes for one example, so that an audit can estimate its time beforehand."""
        return Effort(passes=1.0 if threat.weights != "none" else 0.0, probes=threat.queries)

    @abstractmethod
    def perturb(self, oracle: Oracle, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
        """Adversarial images (N, C, H, W) in [0, 1] for x (N, C, H, W) with labels y (N,)."""

"""`bpda` and `eot`: what stands in for a network that has no useful gradient, around any attack that differentiates.

A wrapper is named with what it wraps: `bpda:pgd-skip`, `eot:autoattack-skip`. It has the threat model, the protocol and
the parameters of the attack inside; alone, `bpda` and `eot` wrap `pgd-skip`.

bpda  Backward Pass Differentiable Approximation: forward through the defense itself (its answers, adaptation and vote
      included), backward through its proxy.
      Athalye, Carlini, Wagner: Obfuscated Gradients Give a False Sense of Security, ICML 2018, section 4.1.
eot   Expectation Over Transformation: the mean of the log-probabilities over draws of the defense's randomness.
      Athalye, Engstrom, Ilyas, Kwok: Synthesizing Robust Adversarial Examples, ICML 2018, equation 2.
      A static defense is drawn anew at every forward. One that adapts is drawn once for each example, as it would adapt
      to the example itself: to adapt at every step of an attack would cost an answer each.

Both need a copy of the defense, so they decline where the threat model grants none.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from pydantic import Field, create_model
from torch import Tensor, nn

from bench.contracts import Attack, DefenseInfo, Effort
from bench.contracts.oracle import Oracle, Simulation
from bench.data.task import TaskFacts
from bench.draws import Draws
from bench.threat import ThreatModel
from bench.values import Params


class Wrapper(Attack):
    """An attack around another, which gets a network of the wrapper's making instead of the granted one."""

    #: the attack inside; set by `around`
    inside: ClassVar[type[Attack]]

    @classmethod
    def around(cls, inside: type[Attack]) -> type[Attack]:
        """This wrapper around an attack, with the parameters of both."""
        kept = {name: getattr(inside, name) for name in ("kind", "norm", "norms", "block", "needs_gradients")}
        params = inside.Params
        if cls.Params.model_fields:
            params = create_model(f"{cls.__name__}{inside.__name__}Params", __base__=(cls.Params, inside.Params))
        quick = {**inside.quick, **cls.quick}
        own = {**kept, "inside": inside, "Params": params, "quick": quick}
        return type(f"{cls.__name__}{inside.__name__}", (cls,), own)

    def declines(self, threat: ThreatModel, facts: TaskFacts, info: DefenseInfo) -> str | None:
        if not self.inside.needs_gradients:
            return "what it wraps differentiates nothing"
        if threat.weights not in ("adapted", "simulated") or not threat.bank:
            return "it needs a copy of the defense, and the threat model grants none (threat.weights, threat.bank)"
        return self._attack().declines(threat, facts, info)

    def _attack(self) -> Attack:
        own = {name: getattr(self.params, name) for name in self.inside.Params.model_fields}
        return self.inside(self.inside.Params(**own))

    def perturb(self, oracle: Oracle, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
        copy = oracle.deployed() if oracle.threat.weights == "adapted" else oracle.simulate()
        with oracle.granting(self.network(oracle, copy, x)):
            return self._attack().perturb(oracle, x, y, draws)

    @abstractmethod
    def network(self, oracle: Oracle, copy: Simulation, x: Tensor) -> nn.Module:
        """What the attack inside differentiates, from a copy of the defense and the examples x (N, C, H, W)."""


class BPDA(Wrapper):
    """Forward the defense, backward its proxy."""

    def effort(self, threat: ThreatModel) -> Effort:
        inside = self._attack().effort(threat)
        return replace(inside, probes=inside.probes + inside.passes)

    def network(self, oracle: Oracle, copy: Simulation, x: Tensor) -> nn.Module:
        return _StraightThrough(copy)


class _StraightThrough(nn.Module):
    """The copy's answers, with the gradient of its proxy."""

    def __init__(self, copy: Simulation) -> None:
        super().__init__()
        self._copy = copy
        self._proxy = copy.bare_proxy()

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():  # a defense that adapts differentiates while it answers, whoever asks
            answers = self._copy.probe(x.detach()).detach()
        if not (x.requires_grad and torch.is_grad_enabled()):
            return answers
        relaxed: Tensor = self._proxy(x)
        return relaxed + (answers - relaxed).detach()


class EOTParams(Params):
    """samples: draws of the defense's randomness that a forward averages over."""

    samples: int = Field(default=10, ge=1)


class EOT(Wrapper):
    """The mean over draws."""

    Params: ClassVar[type[Params]] = EOTParams
    quick: ClassVar[Mapping[str, Any]] = {"samples": 2}

    def effort(self, threat: ThreatModel) -> Effort:
        inside, samples = self._attack().effort(threat), self.params.samples
        return replace(inside, passes=inside.passes * samples, probes=inside.probes + samples)

    def declines(self, threat: ThreatModel, facts: TaskFacts, info: DefenseInfo) -> str | None:
        if not info.randomised:
            return f"{info.name} is not randomised, so that every draw is the same"
        if info.kind == "batch":
            return f"{info.name} adapts to a batch, and in which one an example will come is not known"
        return super().declines(threat, facts, info)

    def network(self, oracle: Oracle, copy: Simulation, x: Tensor) -> nn.Module:
        if copy.kind == "static":
            return _Redrawn(copy, self.params.samples)
        return _DrawnOnce(oracle, copy, self.params.samples, x)


class _Redrawn(nn.Module):
    """Log of probabilities, averaged over draws that are new at every forward."""

    def __init__(self, copy: Simulation, samples: int) -> None:
        super().__init__()
        self._copy = copy
        self._samples = samples
        self._drawn = 0

    def forward(self, x: Tensor) -> Tensor:
        draws = range(self._drawn, self._drawn + self._samples)
        self._drawn += self._samples
        return _mean([self._copy.bare_proxy(x, draw) for draw in draws], x)


class _DrawnOnce(nn.Module):
    """Log of probabilities, averaged over networks that are adapted to each example once for every draw."""

    def __init__(self, oracle: Oracle, copy: Simulation, samples: int, x: Tensor) -> None:
        super().__init__()
        self._oracle = oracle
        self._networks = [[copy.bare_proxy(point, draw) for draw in range(samples)] for point in x.split(1)]

    def forward(self, x: Tensor) -> Tensor:
        whose = self._oracle.whose(x).tolist()
        return torch.cat([_mean(self._networks[row], x[i : i + 1]) for i, row in enumerate(whose)])


def _mean(networks: list[Any], x: Tensor) -> Tensor:
    """Mean log-probabilities (N, K) of several networks for images x (N, C, H, W)."""
    return torch.stack([network(x).log_softmax(1) for network in networks]).mean(0)

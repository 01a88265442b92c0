"""`bpda` and `eot`: wrappers that give a gradient attack another network where the granted one has no useful gradient.

The name of a wrapper contains the attack inside: `bpda:pgd-skip`, `eot:autoattack-skip`. A wrapper has the threat
model, the protocol and the parameters of the attack inside. The names `bpda` and `eot` alone wrap `pgd-skip`.

bpda  Backward Pass Differentiable Approximation. The forward pass goes through the defense itself, with its adaptation
      and its vote; the backward pass goes through its proxy.
      Athalye, Carlini, Wagner: Obfuscated Gradients Give a False Sense of Security, ICML 2018, section 4.1.
eot   Expectation Over Transformation. The mean of the log-probabilities over draws of the defense's randomness.
      Athalye, Engstrom, Ilyas, Kwok: Synthesizing Robust Adversarial Examples, ICML 2018, equation 2.
      A static defense is drawn again in every forward pass. A defense that adapts is drawn once for each example and
      adapts to the unperturbed example: to adapt at every step of an attack would cost as much as an answer each time.

Both need a copy of the defense. Where the threat model grants none, they decline.

Two wrappers, of these and `unrolled`, compose in one order:

eot:bpda       the mean over draws, each with the forward pass of that draw's answer and the backward pass of its proxy
eot:unrolled   the mean over draws of the unrolled defense: `samples` times its own `draws`
bpda:unrolled  forward by the defense itself, backward through its unrolled adaptation (of fewer steps, where `served`
               says so)

In the other order the outer one would have nothing left to do, so it declines and names the order.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
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
    """An attack around another attack, which gets the network of the wrapper instead of the granted one."""

    brings_network: ClassVar[bool] = True
    name: ClassVar[str]
    #: names of the wrappers that may stand between this one and an attack
    composes_with: ClassVar[tuple[str, ...]] = ()
    #: the attack inside; set by `around`
    inside: ClassVar[type[Attack]]

    @classmethod
    def around(cls, inside: type[Attack]) -> type[Attack]:
        """This wrapper around an attack, with the parameters of both."""
        kept = {name: getattr(inside, name) for name in ("kind", "norm", "norms", "block", "needs_gradients")}
        params = inside.Params
        if cls.Params.model_fields and not issubclass(inside.Params, cls.Params):  # else it declines
            params = create_model(f"{cls.__name__}{inside.__name__}Params", __base__=(cls.Params, inside.Params))
        quick = {**inside.quick, **cls.quick}
        own = {**kept, "inside": inside, "Params": params, "quick": quick}
        return type(f"{cls.__name__}{inside.__name__}", (cls,), own)

    def declines(self, threat: ThreatModel, facts: TaskFacts, info: DefenseInfo) -> str | None:
        if not self.inside.needs_gradients:
            return "the attack inside uses no gradients"
        if issubclass(self.inside, Wrapper):
            inner = self.inside.name
            if inner == self.name:
                return f"the attack inside is {inner} already: leave the outer {inner} out"
            if inner not in self.composes_with:
                return f"{self.name} goes inside {inner}: give {inner}:{self.name}:ATTACK"
        elif self.inside.brings_network:
            return "the attack inside makes its own network of the defense, so a wrapper around it would do nothing"
        if threat.weights not in ("adapted", "simulated") or not threat.bank:
            return "it needs a copy of the defense, and the threat model grants none (threat.weights, threat.bank)"
        return self._attack().declines(threat, facts, info)

    def _attack(self) -> Attack:
        own = {name: getattr(self.params, name) for name in self.inside.Params.model_fields}
        return self.inside(self.inside.Params(**own))

    def _innermost(self) -> Attack:
        """The attack inside all wrappers."""
        inside = self._attack()
        return inside._innermost() if isinstance(inside, Wrapper) else inside

    def perturb(self, oracle: Oracle, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
        copy = oracle.deployed() if oracle.threat.weights == "adapted" else oracle.simulate()
        with oracle.granting(self.network(oracle, copy, x)):
            return self._innermost().perturb(oracle, x, y, draws)

    def _drawn_inside(self, oracle: Oracle, copy: Simulation, x: Tensor, count: int) -> Drawn:
        """What is inside in each of `count` draws, for the examples x (N, C, H, W) in [0, 1]: of a wrapper its network,
        else the proxy."""
        inside = self._attack()
        return (inside.drawn if isinstance(inside, OneDraw) else drawn)(oracle, copy, x, count)

    @abstractmethod
    def network(self, oracle: Oracle, copy: Simulation, x: Tensor) -> nn.Module:
        """The network for the attack inside, made from a copy of the defense and the examples x (N, C, H, W)."""


class OneDraw(Wrapper):
    """A wrapper whose network is of one draw of the defense's randomness, so that `eot` may go around it."""

    @abstractmethod
    def drawn(self, oracle: Oracle, copy: Simulation, x: Tensor, count: int) -> Drawn:
        """Its network in each of `count` draws, for the examples x (N, C, H, W)."""


class BPDA(OneDraw):
    """Forward pass through the defense, backward pass through its proxy."""

    name: ClassVar[str] = "bpda"
    composes_with: ClassVar[tuple[str, ...]] = ("unrolled",)

    def declines(self, threat: ThreatModel, facts: TaskFacts, info: DefenseInfo) -> str | None:
        """A defense without a gradient is what it is for: the proxy stands in for it."""
        return super().declines(threat, facts, replace(info, differentiable=True))

    def effort(self, threat: ThreatModel) -> Effort:
        inside = self._attack().effort(threat)
        return replace(inside, probes=inside.probes + self._innermost().effort(threat).passes)

    def network(self, oracle: Oracle, copy: Simulation, x: Tensor) -> nn.Module:
        inside = self._attack()
        proxy = inside.network(oracle, copy, x) if isinstance(inside, Wrapper) else copy.bare_proxy()
        return _StraightThrough(copy, proxy)

    def drawn(self, oracle: Oracle, copy: Simulation, x: Tensor, count: int) -> Drawn:
        return _StraightThroughDraws(copy, self._drawn_inside(oracle, copy, x, count))


def _straight_through(x: Tensor, answer: Callable[[Tensor], Tensor], proxy: nn.Module) -> Tensor:
    """Logits (N, K) of the answers to x (N, C, H, W), with the gradient of a proxy."""
    with torch.enable_grad():  # a defense that adapts needs gradients to answer, also under no_grad
        answers = answer(x.detach()).detach()
    if not (x.requires_grad and torch.is_grad_enabled()):
        return answers
    relaxed: Tensor = proxy(x)
    return relaxed + (answers - relaxed).detach()


class _StraightThrough(nn.Module):
    """The copy's answers, with the gradient of a proxy."""

    def __init__(self, copy: Simulation, proxy: nn.Module) -> None:
        super().__init__()
        self._copy = copy
        self._proxy = proxy

    def forward(self, x: Tensor) -> Tensor:
        return _straight_through(x, self._copy.probe, self._proxy)


class EOTParams(Params):
    """samples: draws of the defense's randomness; a forward pass averages over them."""

    samples: int = Field(default=10, ge=1)


class EOT(Wrapper):
    """The mean of the log-probabilities over draws of the defense's randomness."""

    name: ClassVar[str] = "eot"
    composes_with: ClassVar[tuple[str, ...]] = ("bpda", "unrolled")
    Params: ClassVar[type[Params]] = EOTParams
    quick: ClassVar[Mapping[str, Any]] = {"samples": 2}

    def effort(self, threat: ThreatModel) -> Effort:
        inside, samples = self._attack().effort(threat), self.params.samples
        return replace(inside, passes=inside.passes * samples, probes=(inside.probes + 1) * samples)

    def declines(self, threat: ThreatModel, facts: TaskFacts, info: DefenseInfo) -> str | None:
        return undrawn(info) or super().declines(threat, facts, info)

    def network(self, oracle: Oracle, copy: Simulation, x: Tensor) -> nn.Module:
        return MeanOfDraws(self._drawn_inside(oracle, copy, x, self.params.samples))


def undrawn(info: DefenseInfo) -> str | None:
    """Why the networks of several draws of a defense are not to be had (see `drawn`); None if they are."""
    if not info.randomised:
        return f"{info.name} is not randomised: all draws are the same"
    if info.kind == "batch":
        return f"{info.name} adapts to a batch, and the attacker does not know the batch of an example"
    return None


def mean_of(networks: Iterable[Callable[[Tensor], Tensor]], x: Tensor) -> Tensor:
    """Mean log-probabilities (N, K) of networks for images x (N, C, H, W) in [0, 1]."""
    return torch.stack([network(x).log_softmax(1) for network in networks]).mean(0)


class MeanOfDraws(nn.Module):
    """Mean log-probabilities (N, K) over all draws, in every forward pass over others, if they are drawn again."""

    def __init__(self, network: Drawn) -> None:
        super().__init__()
        self._network = network

    def forward(self, x: Tensor) -> Tensor:
        mean = mean_of(self._network.each(), x)
        self._network.redraw()
        return mean


def drawn(oracle: Oracle, copy: Simulation, x: Tensor, count: int) -> Drawn:
    """The networks of `count` draws of a copy's randomness, for the examples x (N, C, H, W)."""
    return _Redrawn(copy, count) if copy.kind == "static" else _DrawnOnce(oracle, copy, count, x)


class Drawn(nn.Module):
    """One network for each of `count` draws; `number` says which one answers next."""

    def __init__(self, copy: Simulation, count: int) -> None:
        super().__init__()
        self._copy = copy
        self.count = count
        self.number = 0
        self._before = 0

    @property
    def draw(self) -> int:
        """The draw of the copy's randomness that answers next."""
        return self._before + self.number

    def each(self) -> Iterator[Drawn]:
        """Itself, once for each draw, which answers while it is the last one given."""
        for number in range(self.count):
            self.number = number
            yield self

    def redraw(self) -> None:
        """Go on to other draws, if there is a network for more."""
        self._before += self.count


class _Redrawn(Drawn):
    """Of a static defense: as many draws as one likes."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self._copy.bare_proxy(x, self.draw)(x)
        return logits


class _DrawnOnce(Drawn):
    """Of one that adapts: for each example, one network per draw, adapted to the example."""

    def __init__(self, oracle: Oracle, copy: Simulation, count: int, x: Tensor) -> None:
        super().__init__(copy, count)
        self._oracle = oracle
        self._networks = [[copy.bare_proxy(point, draw) for draw in range(count)] for point in x.split(1)]

    def redraw(self) -> None:
        """There are no others."""

    def forward(self, x: Tensor) -> Tensor:
        whose = self._oracle.whose(x).tolist()
        return torch.cat([self._networks[row][self.number](x[i : i + 1]) for i, row in enumerate(whose)])


class _StraightThroughDraws(Drawn):
    """The copy's answers in each draw, with the gradient of that draw's network among `proxies`."""

    def __init__(self, copy: Simulation, proxies: Drawn) -> None:
        super().__init__(copy, proxies.count)
        self._proxies = proxies

    def redraw(self) -> None:
        self._proxies.redraw()

    def forward(self, x: Tensor) -> Tensor:
        self._proxies.number = self.number
        draw = self._proxies.draw
        return _straight_through(x, lambda points: self._copy.probe(points, draw), self._proxies)

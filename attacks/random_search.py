"""`random-search`: random points in the ball; it uses the answers of the network and no gradients.

If random search is stronger than a gradient attack, the gradient attack is broken (Carlini et al.: On Evaluating
Adversarial Robustness, 2019, section 4.3; Athalye, Carlini, Wagner: Obfuscated Gradients Give a False Sense of
Security, ICML 2018, section 3.1). Half of the points are uniform in the ball. The other half lie on its surface: in
linf at the corners, in l2 and l1 at the distance eps.

With a query for every point, the attack queries the deployed defense about all of them. With fewer, it ranks the points
by their margin on the network that the threat model grants, and queries the defense about the lowest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from bench.contracts import BLOCK, Attack, DefenseInfo, Effort
from bench.contracts.oracle import Oracle, margins
from bench.data.task import TaskFacts
from bench.draws import Draws
from bench.norms import DESCENDED, Norm, on_surface, random_offset
from bench.threat import ThreatModel
from bench.values import Params


class RandomSearchParams(Params):
    """draws: random points per example."""

    draws: int = Field(default=10_000, ge=1)


class RandomSearch(Attack):
    """Keeps the point of the lowest margin; the search for an example ends once the defense is wrong."""

    Params: ClassVar[type[Params]] = RandomSearchParams
    norms: ClassVar[tuple[Norm, ...]] = DESCENDED
    needs_gradients: ClassVar[bool] = False
    quick: ClassVar[Mapping[str, Any]] = {"draws": 200}

    def declines(self, threat: ThreatModel, facts: TaskFacts, info: DefenseInfo) -> str | None:
        if threat.weights == "none" and threat.queries < self.params.draws:
            return f"it has {threat.queries} queries for {self.params.draws} draws, and no network to select them by"
        return super().declines(threat, facts, info)

    def effort(self, threat: ThreatModel) -> Effort:
        return Effort(passes=self.params.draws / 3, probes=threat.queries)

    def perturb(self, oracle: Oracle, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
        threat = oracle.threat
        if threat.eps == 0:
            return x
        network = oracle.model() if threat.queries < self.params.draws else None
        found = x.clone()
        for row in range(len(x)):
            oracle.report(f"random points around example {row + 1} of {len(x)}")
            with oracle.about([row]):
                points = self._points(x[row], threat.eps, threat.norm, draws.of([row]))
                if network is not None:
                    points = self._selected(network, points, y[row], max(threat.queries, 1))
                if threat.queries:
                    found[row] = self._asked(oracle, points, x[row], y[row], row)
                else:
                    found[row] = next(points)[0]
        return found

    def _points(self, x: Tensor, eps: float, norm: Norm, draws: Draws) -> Iterator[Tensor]:
        """Random points in the ball around x (C, H, W) and in the box, in parts (B, C, H, W)."""
        for start in range(0, self.params.draws, BLOCK):
            own = draws.sub(start)
            shape = (min(BLOCK, self.params.draws - start), *x.shape)
            offsets = torch.cat([random_offset(own, tuple(x.shape), eps, norm) for _ in range(shape[0])])
            offsets[::2] = on_surface(offsets[::2], eps, norm)
            yield (x + offsets.to(x)).clamp(0, 1)

    @staticmethod
    def _selected(network: nn.Module, points: Iterator[Tensor], y: Tensor, count: int) -> Iterator[Tensor]:
        """The `count` points of the lowest margin on the network, lowest first, in one part."""
        best = lowest = torch.empty(0)
        for part in points:
            with torch.no_grad():
                gaps = margins(network(part), y.expand(len(part)))
            best = torch.cat([best, part]) if len(best) else part
            lowest = torch.cat([lowest, gaps]) if len(lowest) else gaps
            order = lowest.argsort(stable=True)[:count]
            best, lowest = best[order], lowest[order]
        yield best

    @staticmethod
    def _asked(oracle: Oracle, points: Iterator[Tensor], x: Tensor, y: Tensor, row: int) -> Tensor:
        """The point of the lowest margin on the defense; the queries end once the defense is wrong."""
        best, lowest = x, torch.inf
        for part in points:
            size = BLOCK if oracle.info.kind == "static" else 1
            for asked in part.split(size):
                gaps = margins(oracle.query(asked, [row] * len(asked)), y.expand(len(asked)))
                if float(gaps.min()) < lowest:
                    best, lowest = asked[int(gaps.argmin())], float(gaps.min())
                if lowest < 0:
                    return best
        return best

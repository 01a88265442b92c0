"""The S checks: was the attack strong enough? They use the outcomes of an audit's steps, and planted examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from bench.analysis.harm import Harm
from bench.analysis.pairs import Difference, paired
from bench.analysis.worst_case import Outcome, worst_case
from bench.auditing.cost import roughly
from bench.auditing.findings import Finding, finding
from bench.contracts import BLOCK
from bench.draws import Draws
from bench.game.oracle import Trace
from bench.norms import on_surface, random_offset
from bench.pgd import pgd
from bench.rows import Row, is_fooled
from bench.threat import ThreatModel

#: iterates at the end of an attack within which its loss must have settled [IoAF]
LAST = 10
#: inner points of the planted classifier, and how far inside the ball they lie [Z22: 999 inner, 1 boundary point]
INNER = 999
INSIDE = 0.99


@dataclass(frozen=True)
class Played:
    """A step that was played: the outcome of each example, and the rows."""

    outcome: Outcome
    rows: Sequence[Row]


def accuracy(outcome: Outcome) -> float:
    return sum(outcome.values()) / len(outcome)


def shared(*outcomes: Outcome) -> list[list[bool]]:
    """The outcomes of several steps, each as a list over the examples that all steps have."""
    keys = sorted(set.intersection(*(set(outcome) for outcome in outcomes)))
    return [[outcome[key] for key in keys] for outcome in outcomes]


def excess(strong: Outcome, weak: Outcome, trials: Mapping[int, int] | None) -> Difference:
    """How much higher robust accuracy is under `strong` than under `weak`, on the examples of both.

    trials: the game of each example, of a defense whose examples share states; None: they are independent.
    """
    first, second = shared(strong, weak)
    keys = sorted(strong.keys() & weak.keys())
    return paired(second, first, None if trials is None else [trials[key] for key in keys])


def comparisons(played: Mapping[str, Played], base: str, trials: Mapping[int, int] | None = None) -> list[Finding]:
    """The checks that compare steps with each other. A check is left out if its steps were not played.

    A check that compares two attacks trips only if the paired interval of the difference lies above 0. Of a check with
    several pairs, the pair counts whose interval lies highest. trials: as for `excess`.
    """
    findings = []

    def against(id_: str, strong: str, weak: str) -> None:
        if strong in played and weak in played:
            both = played[strong].outcome, played[weak].outcome
            gap, (first, second) = excess(*both, trials), shared(*both)
            names = f"{_share(first)} under {strong}, {_share(second)} under {weak}, n {len(first)}"
            findings.append(finding(id_, gap.value, f"{_points(gap)} ({names})", sure=gap.low > 0))

    against("S1", "pgd-skip", "pgd-skip, one step")
    if (black := _black_box(played, trials)) is not None:
        findings.append(black)
    radii = ["pgd-skip, half the radius", "pgd-skip", "pgd-skip, twice the radius"]
    if all(name in played for name in radii):
        small, middle, large = shared(*(played[name].outcome for name in radii))
        back = [(not a and b) or (not b and c) for a, b, c in zip(small, middle, large, strict=True)]
        curve = ", ".join(_share(part) for part in (small, middle, large))
        findings.append(
            finding("S3", sum(back) / len(back), f"{sum(back)} of {len(back)}; {curve} at 1/2, 1 and 2 times eps")
        )
    if "pgd-skip, no bound" in played:
        value = accuracy(played["pgd-skip, no bound"].outcome)
        findings.append(finding("S4", value, f"{value:.1%}"))
    against("S5", "pgd-skip", "pgd-skip, twice the work")
    against("S8", "pgd-skip", "random-search")
    against("S9", "pgd-skip", "transfer-from-base")
    against("S10", "pgd-skip", "hopskipjump-linf")
    against("S11", "eot, known randomness", "eot, hidden randomness")
    if base == "regular" and (name := "base: pgd-skip" if "base: pgd-skip" in played else "pgd-skip") in played:
        value = accuracy(played[name].outcome)
        findings.append(finding("S12", value, f"{value:.1%}"))
    rounds = [name for name in ("gmsa-avg", "gmsa-min", "fpa") if {name, f"{name}, one round"} <= set(played)]
    if rounds:
        gains = {name: excess(played[name].outcome, played[f"{name}, one round"].outcome, trials) for name in rounds}
        worst = max(gains.values(), key=lambda gap: gap.low)
        detail = ", ".join(f"{name} {_points(gap)}" for name, gap in gains.items())
        findings.append(finding("S14", worst.value, detail, sure=worst.low > 0))
    return findings


#: steps that follow no gradient of the deployed defense, and steps that do
WITHOUT = ("gray-box", "transfer", "square", "random-search", "hopskipjump-linf")
WITH = ("pgd-skip", "pgd-skip, twice the work", "autoattack-skip", "gmsa-avg", "gmsa-min", "fpa", "eot:pgd-skip",
        "bpda:pgd-skip", "apgd-unrolled")  # fmt: skip


def _black_box(played: Mapping[str, Played], trials: Mapping[int, int] | None) -> Finding | None:
    """Each attack that follows no gradient, against the worst case over those that do, on the examples of both."""
    knowing = [played[name].outcome for name in WITH if name in played]
    blind = {name: played[name].outcome for name in WITHOUT if name in played}
    if not knowing or not blind:
        return None
    worst = worst_case(knowing)
    gaps = {name: excess(worst, outcome, trials) for name, outcome in blind.items()}
    strongest = max(gaps, key=lambda name: gaps[name].low)
    gap = gaps[strongest]
    return finding("S2", gap.value, f"{_points(gap)} against {strongest}", sure=gap.low > 0)


def silent(played: Mapping[str, Played], name: str) -> Finding | None:
    """S7 of one step, from what its rows recorded."""
    rows = [row for row in played[name].rows if row.fooled_inside is not None] if name in played else []
    if not rows:
        return None
    missed = sum(bool(row.fooled_inside) and not row.believed for row in rows)
    return finding("S7", missed / len(rows), f"{missed} of {len(rows)} points, under {name}")


def belief(played: Mapping[str, Played], name: str) -> Finding | None:
    """V2 of one step: what the attacked network answered against what the deployed defense did."""
    rows = [row for row in played[name].rows if row.believed is not None] if name in played else []
    if not rows:
        return None
    believed = sum(bool(row.believed) for row in rows) / len(rows)
    judged = sum(is_fooled(row) for row in rows) / len(rows)
    return finding("V2", abs(believed - judged), f"{name} believed {believed:.1%} broken, judged {judged:.1%}")


def others(harms: Mapping[str, Harm]) -> Finding | None:
    """P1: what other users lose, by the attack that costs them most for sure. harms: by name; None without any."""
    if not harms:
        return None
    name = max(harms, key=lambda one: (harms[one].lost.low, harms[one].lost.value))
    lost = harms[name].lost
    return finding("P1", lost.value, f"{_points(lost)} under {name}", sure=lost.low > 0)


def gain(difference: Difference, times: float) -> Finding:
    """S15: what the defense gains over its base, with what it costs, in answers of the base."""
    return finding("S15", difference.low, f"{_points(difference)} at {roughly(times)} times the base's time per answer")


def settled(trace: Trace, count: int, name: str) -> Finding | None:
    """S6 from the record of one call: losses (the negative margin) by step, cumulative best, scaled to [0, 1].

    None if the attack never asked about all of its examples at once.
    """
    rows = [margin for margin, who in zip(trace.margins, trace.rows, strict=True) if who is None]
    if not rows:
        return None
    losses = -torch.stack(rows)  # (steps, N)
    best = losses.cummax(0).values
    low, high = best.amin(0), best.amax(0)
    scaled = (best - low) / (high - low).clamp_min(1e-12)
    standing = best[-1] < 0
    ranges = (scaled[-1] - scaled[-1 - min(LAST, len(scaled) - 1)]) * standing
    value = float(ranges.mean())
    return finding("S6", value, f"{value:.3f} over {count} points, of which {int(standing.sum())} stand, under {name}")


def planted(
    network: nn.Module, x: Tensor, threat: ThreatModel, steps: int, rel_step_size: float, draws: Draws
) -> Finding:
    """S13, the binarisation test: for every x a linear head on what the network gives tells the inside of the ball from
    one point on its surface; the attack starts at a random point of the ball and must find the other class.

    Zimmermann, Brendel, Tramer, Carlini: Increasing Confidence in Adversarial Robustness Evaluations, NeurIPS 2022.
    The head is scikit-learn's logistic regression, weighted so that both classes count the same. The points of its
    training are random in the ball shrunk to 99 %, the planted point is a corner of the ball (linf) or on its sphere.

    network: (N, C, H, W) -> (N, K); x (N, C, H, W) in [0, 1]; steps and rel_step_size (step / eps) of the attack.
    """
    hits = random_hits = 0
    for i in range(len(x)):
        own = draws.of([i])
        inner = torch.cat([_offsets(own.sub(start), x[i], threat, BLOCK) for start in range(0, INNER, BLOCK)])[:INNER]
        offset = random_offset(own.sub("surface"), tuple(x.shape[1:]), threat.eps, threat.norm).to(x)
        outer = on_surface(offset, threat.eps, threat.norm)
        head = _Binary(network, (x[i] + inner * INSIDE).clamp(0, 1), (x[i] + outer).clamp(0, 1))
        point, label = x[i : i + 1], torch.zeros(1, dtype=torch.int64, device=x.device)
        x_adv = pgd(
            head, point, label, eps=threat.eps, steps=steps, step_size=rel_step_size * threat.eps, norm=threat.norm,
            offset=random_offset(own.sub("attack"), tuple(x.shape[1:]), threat.eps, threat.norm),
        )  # fmt: skip
        with torch.no_grad():
            hits += int(head(x_adv).argmax(1)[0] == 1)
            tried = (x[i] + _offsets(own.sub("random"), x[i], threat, BLOCK)).clamp(0, 1)
            random_hits += int((head(tried).argmax(1) == 1).any())
    share = hits / len(x)
    return finding("S13", share, f"{share:.0%} of {len(x)}, {random_hits / len(x):.0%} by {BLOCK} random points")


def _offsets(draws: Draws, x: Tensor, threat: ThreatModel, count: int) -> Tensor:
    """Random offsets (count, C, H, W) in the ball."""
    parts = [random_offset(draws.sub(i), tuple(x.shape), threat.eps, threat.norm) for i in range(count)]
    return torch.cat(parts).to(x)


class _Binary(nn.Module):
    """Two logits (N, 2): inside, planted; a linear head on what a network gives for its input."""

    def __init__(self, network: nn.Module, inside: Tensor, outside: Tensor) -> None:
        super().__init__()
        self._network = network
        with torch.no_grad():
            given = torch.cat([self._given(part) for part in torch.cat([inside, outside]).split(BLOCK)])
        self._mean, self._scale = given.mean(0), given.std(0).clamp_min(1e-6)
        targets = np.array([0] * len(inside) + [1] * len(outside))
        fitted = LogisticRegression(class_weight="balanced", C=1e4, max_iter=500)
        fitted.fit(((given - self._mean) / self._scale).cpu().numpy(), targets)
        self._weight = torch.tensor(fitted.coef_[0]).to(given)
        self._bias = float(fitted.intercept_[0])

    def _given(self, x: Tensor) -> Tensor:
        ask = getattr(self._network, "features", self._network)
        given: Tensor = ask(x)
        return given.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        score = ((self._given(x) - self._mean) / self._scale) @ self._weight + self._bias
        return torch.stack([torch.zeros_like(score), score], dim=1)


def _points(gap: Difference) -> str:
    return f"{100 * gap.value:+.1f} points ({100 * gap.low:+.1f} to {100 * gap.high:+.1f})"


def _share(right: Sequence[bool]) -> str:
    return f"{sum(right) / len(right):.1%}"

"""Metrics: pure functions over rows. A row's facts are never changed; a new metric needs no new run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from bench.game import Row
from bench.judge import SLACK
from bench.threat import Norm

#: by (game, index): whether an example was answered right
Outcomes = Mapping[tuple[int, int], bool]

CONFIDENCE = 0.95
BOOTSTRAPS = 10_000


@dataclass(frozen=True)
class Estimate:
    """A share with its 95 % interval. method says where the interval comes from and what it is an interval for."""

    value: float
    low: float
    high: float
    method: str


def wilson(right: int, count: int, method: str = "Wilson") -> Estimate:
    """Share of `right` in `count` with Wilson's score interval."""
    interval = binomtest(right, count).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(right / count, float(interval.low), float(interval.high), method)


def clustered(outcomes: Sequence[Sequence[bool]]) -> Estimate:
    """Share over clusters (trials): the hull of a percentile bootstrap over clusters and of Wilson's interval.

    The bootstrap sees how clusters differ, but with few clusters it can come out narrower than the examples alone
    allow, and empty where all clusters agree; Wilson's interval over examples is then the wider. Seeded: a function.
    """
    right = np.array([sum(cluster) for cluster in outcomes], dtype=float)
    sizes = np.array([len(cluster) for cluster in outcomes], dtype=float)
    alone = wilson(int(right.sum()), int(sizes.sum()))
    low, high = _bootstrap(right, sizes)
    method = f"bootstrap over {len(outcomes)} games, at least Wilson"
    return Estimate(alone.value, min(low, alone.low), max(high, alone.high), method)


def repeated(outcomes: Sequence[Sequence[bool]]) -> Estimate:
    """Share over streams of the same points in other orders: the hull of a bootstrap over streams and of Wilson's.

    Wilson's interval counts every point once, however often it was served: repetitions are no further examples.
    """
    right = np.array([sum(stream) for stream in outcomes], dtype=float)
    sizes = np.array([len(stream) for stream in outcomes], dtype=float)
    value, points = right.sum() / sizes.sum(), int(sizes[0])
    floor, ceiling = wilson(math.floor(value * points), points), wilson(math.ceil(value * points), points)
    low, high = _bootstrap(right, sizes)
    method = f"bootstrap over {len(outcomes)} orders of the same points, at least Wilson over the points"
    return Estimate(float(value), min(low, floor.low), max(high, ceiling.high), method)


def _bootstrap(right: NDArray[np.float64], sizes: NDArray[np.float64]) -> tuple[float, float]:
    """Percentile interval of the share over resampled clusters."""
    rng = np.random.Generator(np.random.PCG64(0))
    picks = rng.integers(len(sizes), size=(BOOTSTRAPS, len(sizes)))
    shares = right[picks].sum(axis=1) / sizes[picks].sum(axis=1)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(shares, [tail, 1 - tail])
    return float(low), float(high)


def by_game(rows: Sequence[Row], outcome: Outcomes) -> list[list[bool]]:
    """Outcomes (by game and index) grouped by game, in the order of the rows."""
    games: dict[int, list[bool]] = {}
    for row in rows:
        if (row.game, row.index) in outcome:
            games.setdefault(row.game, []).append(outcome[row.game, row.index])
    return list(games.values())


def answered_right(rows: Sequence[Row]) -> dict[tuple[int, int], bool]:
    """Whether the deployed defense answered what was served with the label."""
    return {(row.game, row.index): row.answer == row.label for row in rows}


def at_budget(
    rows: Sequence[Row], norm: Norm, eps: float, clean: Mapping[tuple[int, int], int]
) -> dict[tuple[int, int], bool]:
    """Whether a `minimal` attack leaves the answer right within a budget eps in its norm.

    An attacker whose image is farther than eps serves the clean one: the answer to that counts, from the row itself or
    from `clean` by (game, index). Without either the example is left out.
    """
    outcome = {}
    for row in rows:
        place = (row.game, row.index)
        within = getattr(row, norm) <= eps + SLACK[norm]
        answer = row.answer if within else row.clean_answer if row.clean_answer is not None else clean.get(place)
        if answer is not None:
            outcome[place] = answer == row.label
    return outcome


def median_distance(rows: Sequence[Row], norm: Norm) -> float | None:
    """Median distance of the images that were answered wrong (0 where x was itself); None where none was."""
    found = [getattr(row, norm) for row in rows if row.answer != row.label and math.isfinite(getattr(row, norm))]
    return float(np.median(found)) if found else None


def robust_accuracy(rows: Sequence[Row], static: bool, protocol: str, right: Outcomes) -> Estimate | None:
    """Share of examples that are answered right under attack (`answered_right`, `at_budget`). None without rows."""
    return _accuracy(rows, right, static, protocol)


def clean_accuracy(
    rows: Sequence[Row], static: bool, protocol: str, clean: Mapping[tuple[int, int], int]
) -> Estimate | None:
    """Share of examples whose clean answer is right: from the rows themselves, else from `clean` (game, index)."""
    answers = {
        (row.game, row.index): row.clean_answer if row.clean_answer is not None else clean.get((row.game, row.index))
        for row in rows
    }
    outcome = {
        (row.game, row.index): answers[row.game, row.index] == row.label
        for row in rows
        if answers[row.game, row.index] is not None
    }
    return _accuracy(rows, outcome, static, protocol)


def _accuracy(rows: Sequence[Row], outcome: Outcomes, static: bool, protocol: str) -> Estimate | None:
    if not outcome:
        return None
    games = by_game(rows, outcome)
    flat = [value for game in games for value in game]
    if static:
        return wilson(sum(flat), len(flat))
    if len(games) > 1:
        return clustered(games) if protocol == "probe" else repeated(games)
    given = "state" if protocol == "probe" else "stream"
    return wilson(sum(flat), len(flat), f"Wilson, given this one {given}")


def within_trials(rows: Sequence[Row], right: Outcomes) -> Estimate:
    """Robust accuracy with Wilson's interval over examples: for these backgrounds and noise keys only."""
    return wilson(sum(right.values()), len(right), "Wilson, given these states")

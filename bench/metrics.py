"""Metrics: pure functions over rows. A row's facts are never changed; a new metric needs no new run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from bench.game import Row

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
    """Share over clusters (trials) of outcomes with a percentile bootstrap over clusters; seeded, so it is a function.

    Where all clusters have the same share the bootstrap has no spread to show, and Wilson's interval is given instead.
    """
    right = np.array([sum(cluster) for cluster in outcomes], dtype=float)
    sizes = np.array([len(cluster) for cluster in outcomes], dtype=float)
    if len(outcomes) < 2 or np.ptp(right / sizes) == 0:
        return wilson(int(right.sum()), int(sizes.sum()), "Wilson, given these states")
    rng = np.random.Generator(np.random.PCG64(0))
    picks = rng.integers(len(outcomes), size=(BOOTSTRAPS, len(outcomes)))
    shares = right[picks].sum(axis=1) / sizes[picks].sum(axis=1)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(shares, [tail, 1 - tail])
    return Estimate(float(right.sum() / sizes.sum()), float(low), float(high), f"bootstrap over {len(outcomes)} games")


def by_game(rows: Sequence[Row], outcome: Mapping[tuple[int, int], bool]) -> list[list[bool]]:
    """Outcomes (by game and index) grouped by game, in the order of the rows."""
    games: dict[int, list[bool]] = {}
    for row in rows:
        if (row.game, row.index) in outcome:
            games.setdefault(row.game, []).append(outcome[row.game, row.index])
    return list(games.values())


def robust_accuracy(rows: Sequence[Row], static: bool) -> Estimate | None:
    """Share of examples that the deployed defense answers correctly under attack. None without rows."""
    return _accuracy(rows, {(row.game, row.index): row.answer == row.label for row in rows}, static)


def clean_accuracy(rows: Sequence[Row], static: bool, clean: Mapping[tuple[int, int], int]) -> Estimate | None:
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
    return _accuracy(rows, outcome, static)


def _accuracy(rows: Sequence[Row], outcome: Mapping[tuple[int, int], bool], static: bool) -> Estimate | None:
    if not outcome:
        return None
    games = by_game(rows, outcome)
    flat = [value for game in games for value in game]
    if static:
        return wilson(sum(flat), len(flat))
    if len(games) > 1:
        return clustered(games)
    return wilson(sum(flat), len(flat), "Wilson, given this one stream")


def within_trials(rows: Sequence[Row]) -> Estimate:
    """Robust accuracy with Wilson's interval over examples: for these backgrounds and noise keys only."""
    return wilson(sum(row.answer == row.label for row in rows), len(rows), "Wilson, given these states")

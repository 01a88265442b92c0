"""Shares with their 95 % intervals: over examples, over games, over repetitions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
BOOTSTRAPS = 10_000


@dataclass(frozen=True)
class Estimate:
    """A share with its 95 % interval. method: how the interval is made, and what it holds for."""

    value: float
    low: float
    high: float
    method: str

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        """In percent, such as `12.5 % (7.3 to 20.4, Wilson)`."""
        return f"{100 * self.value:.1f} % ({100 * self.low:.1f} to {100 * self.high:.1f}, {self.method})"

    def __format__(self, form: str) -> str:
        """`f"{estimate:.3f}"` is the value in that form, `f"{estimate}"` the text with its interval."""
        return format(self.value, form) if form else str(self)


def wilson(right: int, count: int, method: str = "Wilson") -> Estimate:
    """Share of `right` in `count` with Wilson's score interval."""
    low, high = _wilson_ends(right, count)
    return Estimate(right / count, low, high, method)


@cache
def _wilson_ends(right: int, count: int) -> tuple[float, float]:
    """Few pairs of numbers occur in a database, and scipy takes a millisecond for each."""
    from scipy.stats import binomtest  # its import takes half a second; readers of summaries never need it

    interval = binomtest(right, count).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def wilson_given(right: int, count: int, given: str) -> Estimate:
    """Wilson's interval, with what it is given in its method's name (`Sharing.shared`)."""
    return wilson(right, count, f"Wilson, given this one {given}" if given else "Wilson")


def clustered(outcomes: Sequence[Sequence[bool]]) -> Estimate:
    """Share over clusters (trials): the hull of a percentile bootstrap over clusters and of Wilson's interval.

    The bootstrap sees how clusters differ, but with few clusters it can come out narrower than the examples alone
    allow, and empty if all clusters agree; Wilson's interval over examples is then wider. The seed is fixed.
    """
    right = np.array([sum(cluster) for cluster in outcomes], dtype=float)
    sizes = np.array([len(cluster) for cluster in outcomes], dtype=float)
    alone = wilson(int(right.sum()), int(sizes.sum()))
    low, high = bootstrap(right, sizes)
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
    low, high = bootstrap(right, sizes)
    method = f"bootstrap over {len(outcomes)} orders of the same points, at least Wilson over the points"
    return Estimate(float(value), min(low, floor.low), max(high, ceiling.high), method)


def bootstrap(right: NDArray[np.float64], sizes: NDArray[np.float64]) -> tuple[float, float]:
    """Percentile interval of the share over resampled clusters."""
    rng = np.random.Generator(np.random.PCG64(0))
    picks = rng.integers(len(sizes), size=(BOOTSTRAPS, len(sizes)))
    shares = right[picks].sum(axis=1) / sizes[picks].sum(axis=1)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(shares, [tail, 1 - tail])
    return float(low), float(high)

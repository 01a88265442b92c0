"""Differences of two runs over the same examples: the difference, its 95 % interval, and a test of no difference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.analysis.intervals import CONFIDENCE, bootstrap


@dataclass(frozen=True)
class Difference:
    """A difference of two shares over the same examples, second minus first, with its 95 % interval and a test.

    only_a, only_b: examples that are right in one alone. p_value: of no difference.
    """

    value: float
    low: float
    high: float
    p_value: float
    only_a: int
    only_b: int
    method: str


def paired(a: Sequence[bool], b: Sequence[bool], clusters: Sequence[int] | None = None, given: str = "") -> Difference:
    """The difference b - a of two outcomes (N,) of the same examples.

    clusters: the game of each; given: what all share if they are in no games (a stream, a state), for `method`.
    Independent examples: McNemar's exact test, and the interval of Agresti and Min (Statistics in Medicine 2005), which
    adds a half to each cell. In clusters (games): the test of Durkalski et al. (Statistics in Medicine 2003), and the
    hull of that interval and of a percentile bootstrap over the clusters.
    """
    count = len(a)
    only_a = sum(x and not y for x, y in zip(a, b, strict=True))
    only_b = sum(y and not x for x, y in zip(a, b, strict=True))
    value = (only_b - only_a) / count
    low, high = _agresti_min(only_a, only_b, count)
    if clusters is None or len(set(clusters)) < 2:
        from scipy.stats import binomtest  # its import takes half a second; readers of summaries never need it

        changed = only_a + only_b
        p_value = float(binomtest(only_b, changed).pvalue) if changed else 1.0
        method = f"McNemar's exact test, Agresti-Min interval{f', given this one {given}' if given else ''}"
        return Difference(value, low, high, p_value, only_a, only_b, method)
    gains, sizes = _by_cluster([int(y) - int(x) for x, y in zip(a, b, strict=True)], clusters)
    below, above = bootstrap(gains, sizes)
    method = f"Durkalski's test over {len(sizes)} games, bootstrap over them, at least Agresti-Min"
    return Difference(value, min(low, below), max(high, above), _durkalski(gains, sizes), only_a, only_b, method)


def paired_repeated(a: Sequence[bool], b: Sequence[bool], orders: Sequence[int], points: Sequence[int]) -> Difference:
    """The difference b - a of two outcomes (N,) where the same points were played several times.

    orders, points: which repetition and which point each outcome is of. As for `repeated`, repetitions are no further
    examples: Durkalski's test with the points as its clusters; the hull of a percentile bootstrap over the repetitions
    and of the interval of Agresti and Min with every point counted once.
    """
    change = [int(y) - int(x) for x, y in zip(a, b, strict=True)]
    only_a, only_b, times = change.count(-1), change.count(1), len(set(orders))
    gains, sizes = _by_cluster(change, orders)
    below, above = bootstrap(gains, sizes)
    low, high = _agresti_min(only_a / times, only_b / times, len(set(points)))
    p_value = _durkalski(*_by_cluster(change, points))
    method = (
        f"Durkalski's test over {len(set(points))} points, bootstrap over {times} orders of them, at least Agresti-Min "
        f"over the points"
    )
    return Difference(sum(change) / len(a), min(low, below), max(high, above), p_value, only_a, only_b, method)


def _by_cluster(change: Sequence[int], clusters: Sequence[int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum and size of each cluster."""
    _, place = np.unique(np.asarray(clusters), return_inverse=True)
    gains = np.bincount(place, weights=np.asarray(change, dtype=np.float64))
    return gains.astype(np.float64), np.bincount(place).astype(np.float64)


def _agresti_min(only_a: float, only_b: float, count: int) -> tuple[float, float]:
    """95 % interval of (only_b - only_a) / count for matched pairs."""
    from scipy.stats import norm as normal  # late, as in `paired`

    first, second, total = only_a + 0.5, only_b + 0.5, count + 2.0
    middle = (second - first) / total
    spread = math.sqrt(first + second - (second - first) ** 2 / total) / total
    far = float(normal.ppf(1 - (1 - CONFIDENCE) / 2)) * spread
    return max(middle - far, -1.0), min(middle + far, 1.0)


def _durkalski(gains: NDArray[np.float64], sizes: NDArray[np.float64]) -> float:
    """p of no difference, from the gain and the size of each cluster."""
    from scipy.stats import chi2  # late, as in `paired`

    shares = gains / sizes
    spread = float((shares**2).sum())
    return float(chi2.sf(shares.sum() ** 2 / spread, 1)) if spread else 1.0

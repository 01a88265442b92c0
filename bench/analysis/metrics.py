"""Metrics: pure functions over rows. A row's facts are never changed; a new metric needs no new run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, chi2
from scipy.stats import norm as normal

from bench.norms import Norm, ball_of
from bench.rows import Row

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
    interval = binomtest(right, count).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(right / count, float(interval.low), float(interval.high), method)


@dataclass(frozen=True)
class Sharing:
    """What the examples of a run have in common, so that an interval must say what it is given.

    shared  what those of one game share: a `stream`, a `state`, or "" (a static defense: nothing)
    splits  the games share the examples out; False: each plays all of them
    """

    shared: str
    splits: bool

    @staticmethod
    def of(spec: Mapping[str, Any]) -> Sharing:
        """Of a stored run (`RunSpec.to_dict`)."""
        facts = spec["game"]["facts"]
        return Sharing("" if spec["kind"] == "static" else facts["shared"], facts["splits"])


def wilson_given(right: int, count: int, given: str) -> Estimate:
    """Wilson's interval, with what it is given in its method's name (`Sharing.shared`)."""
    return wilson(right, count, f"Wilson, given this one {given}" if given else "Wilson")


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
        within = row.distances.get(norm, math.nan) <= eps + ball_of(norm).slack
        answer = row.answer if within else row.clean_answer if row.clean_answer is not None else clean.get(place)
        if answer is not None:
            outcome[place] = answer == row.label
    return outcome


def median_distance(rows: Sequence[Row], norm: Norm) -> float | None:
    """Median distance of the images that were answered wrong (0 where x was itself); None where none was."""
    measured = [row.distances.get(norm, math.nan) for row in rows if row.answer != row.label]
    found = [distance for distance in measured if math.isfinite(distance)]
    return float(np.median(found)) if found else None


def robust_accuracy(rows: Sequence[Row], sharing: Sharing, right: Outcomes) -> Estimate | None:
    """Share of examples that are answered right under attack (`answered_right`, `at_budget`). None without rows."""
    return _accuracy(rows, right, sharing)


def clean_accuracy(rows: Sequence[Row], sharing: Sharing, clean: Mapping[tuple[int, int], int]) -> Estimate | None:
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
    return _accuracy(rows, outcome, sharing)


def _accuracy(rows: Sequence[Row], outcome: Outcomes, sharing: Sharing) -> Estimate | None:
    if not outcome:
        return None
    games = by_game(rows, outcome)
    flat = [value for game in games for value in game]
    if len(games) > 1 and not sharing.splits:
        return repeated(games)
    if len(games) > 1 and sharing.shared:
        return clustered(games)
    return wilson_given(sum(flat), len(flat), sharing.shared)


def within_trials(rows: Sequence[Row], right: Outcomes) -> Estimate:
    """Robust accuracy with Wilson's interval over examples: for these backgrounds and noise keys only."""
    return wilson(sum(right.values()), len(right), "Wilson, given these states")


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

    clusters: the game of each; given: what they all share where they are in no games (a stream, a state), for `method`.
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
        changed = only_a + only_b
        p_value = float(binomtest(only_b, changed).pvalue) if changed else 1.0
        method = f"McNemar's exact test, Agresti-Min interval{f', given this one {given}' if given else ''}"
        return Difference(value, low, high, p_value, only_a, only_b, method)
    gains, sizes = _by_cluster([int(y) - int(x) for x, y in zip(a, b, strict=True)], clusters)
    below, above = _bootstrap(gains, sizes)
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
    below, above = _bootstrap(gains, sizes)
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
    first, second, total = only_a + 0.5, only_b + 0.5, count + 2.0
    middle = (second - first) / total
    spread = math.sqrt(first + second - (second - first) ** 2 / total) / total
    far = float(normal.ppf(1 - (1 - CONFIDENCE) / 2)) * spread
    return max(middle - far, -1.0), min(middle + far, 1.0)


def _durkalski(gains: NDArray[np.float64], sizes: NDArray[np.float64]) -> float:
    """p of no difference, from the gain and the size of each cluster."""
    shares = gains / sizes
    spread = float((shares**2).sum())
    return float(chi2.sf(shares.sum() ** 2 / spread, 1)) if spread else 1.0


@dataclass(frozen=True)
class Redraws:
    """Robust accuracy over games that play the same points with other draws (and, of a stream, in another order).

    values: of each game; mean and spread (standard deviation, of a sample) of those; worst: of points that are answered
    right in every one.
    """

    values: list[float]
    mean: float
    spread: float
    worst: float


def redraws(right: Outcomes) -> Redraws | None:
    """What further games over the same points say; None where there is one game, or each has points of its own."""
    games: dict[int, dict[int, bool]] = {}
    for (game, index), outcome in right.items():
        games.setdefault(game, {})[index] = outcome
    points = [set(outcome) for outcome in games.values()]
    if len(points) < 2 or any(own != points[0] for own in points):
        return None
    values = [sum(outcome.values()) / len(outcome) for _, outcome in sorted(games.items())]
    worst = worst_case(list(games.values()))
    return Redraws(values, float(np.mean(values)), float(np.std(values, ddof=1)), sum(worst.values()) / len(worst))


def worst_case(runs: Sequence[Mapping[int, bool]]) -> dict[int, bool]:
    """By example: right in every run that has it. Examples that some run lacks count with the runs that have them.

    Per example first, then the mean (Carlini et al. 2019): the smallest of the means would be too good.
    """
    found: dict[int, bool] = {}
    for run in runs:
        for index, right in run.items():
            found[index] = found.get(index, True) and right
    return found

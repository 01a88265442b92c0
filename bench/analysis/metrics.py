"""Metrics: pure functions over rows. A row's facts are never changed; a new metric needs no new run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.analysis.intervals import Estimate, clustered, repeated, wilson, wilson_given
from bench.analysis.worst_case import worst_case
from bench.norms import Norm
from bench.rows import REFUSED, Row, is_fooled, is_right

#: by (game, index): whether an example was answered right
Outcomes = Mapping[tuple[int, int], bool]


@dataclass(frozen=True)
class Sharing:
    """What the examples of a run share, so that an interval holds only for it.

    shared  what the examples of one game share: a `stream`, a `state`, or "" for nothing (a static defense)
    splits  each example belongs to one game; False: every game plays all examples
    """

    shared: str
    splits: bool

    @staticmethod
    def of(spec: Mapping[str, Any]) -> Sharing:
        """Of a stored run (`RunSpec.to_dict`)."""
        facts = spec["game"]["facts"]
        return Sharing("" if spec["kind"] == "static" else facts["shared"], facts["splits"])


def by_game(rows: Sequence[Row], outcome: Outcomes) -> list[list[bool]]:
    """Outcomes (by game and index) grouped by game, in the order of the rows."""
    games: dict[int, list[bool]] = {}
    for row in rows:
        if (row.game, row.index) in outcome:
            games.setdefault(row.game, []).append(outcome[row.game, row.index])
    return list(games.values())


def answered_right(
    rows: Sequence[Row], clean: Mapping[tuple[int, int], int] | None = None
) -> dict[tuple[int, int], bool]:
    """By example: whether the answer to what was served is right, or a refusal that counts as right (`is_right`).

    clean: as for `at_budget`, for rows that were refused.
    """
    return _outcomes(rows, None, clean or {})


def at_budget(
    rows: Sequence[Row], norm: Norm, eps: float, clean: Mapping[tuple[int, int], int]
) -> dict[tuple[int, int], bool]:
    """By example: whether a `minimal` attack leaves the answer right within a radius eps in its norm (`is_right`).

    clean: clean answers by (game, index), for rows without. Examples whose outcome is not known are left out.
    """
    return _outcomes(rows, (norm, eps), clean)


def _outcomes(
    rows: Sequence[Row], budget: tuple[Norm, float] | None, clean: Mapping[tuple[int, int], int]
) -> dict[tuple[int, int], bool]:
    outcomes = {}
    for row in rows:
        example = (row.game, row.index)
        right = is_right(row, budget, clean.get(example))
        if right is not None:
            outcomes[example] = right
    return outcomes


def refuses(rows: Sequence[Row]) -> bool:
    """Whether the defense refused one of the attacked images: then the clean answers decide (`is_right`)."""
    return any(row.answer == REFUSED for row in rows)


def median_distance(rows: Sequence[Row], norm: Norm) -> float | None:
    """Median distance of the images that were answered wrong; 0 for an x that was wrong itself. None without any."""
    measured = [row.distances.get(norm, math.nan) for row in rows if is_fooled(row)]
    finite = [distance for distance in measured if math.isfinite(distance)]
    return float(np.median(finite)) if finite else None


def robust_accuracy(rows: Sequence[Row], sharing: Sharing, right: Outcomes) -> Estimate | None:
    """Share of examples that are answered right under attack (`answered_right`, `at_budget`). None without rows."""
    return _accuracy(rows, right, sharing)


def clean_accuracy(rows: Sequence[Row], sharing: Sharing, clean: Mapping[tuple[int, int], int]) -> Estimate | None:
    """Share of examples whose clean answer is right: from the rows themselves, else from `clean` (game, index)."""
    answers = _clean(rows, clean)
    labels = {(row.game, row.index): row.label for row in rows}
    return _accuracy(rows, {example: answer == labels[example] for example, answer in answers.items()}, sharing)


def false_rejections(rows: Sequence[Row], sharing: Sharing, clean: Mapping[tuple[int, int], int]) -> Estimate | None:
    """Share of examples whose clean image is refused. clean: as for `clean_accuracy`."""
    refused = {example: answer == REFUSED for example, answer in _clean(rows, clean).items()}
    return _accuracy(rows, refused, sharing)


def detection_rate(rows: Sequence[Row], sharing: Sharing) -> Estimate | None:
    """Share of the attacked images that are refused, among those that differ from the clean one; None without any."""
    attacked = [row for row in rows if row.adv_sha256 != row.x_sha256 and not row.violation]
    return _accuracy(attacked, {(row.game, row.index): row.answer == REFUSED for row in attacked}, sharing)


def _clean(rows: Sequence[Row], clean: Mapping[tuple[int, int], int]) -> dict[tuple[int, int], int]:
    """The clean answer of each example: from the row itself, else from `clean`; without those that have none."""
    answers = {
        (row.game, row.index): row.clean_answer if row.clean_answer is not None else clean.get((row.game, row.index))
        for row in rows
    }
    return {example: answer for example, answer in answers.items() if answer is not None}


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
    """Compares games over the same points; None for a single game, or if each game has points of its own."""
    games: dict[int, dict[int, bool]] = {}
    for (game, index), outcome in right.items():
        games.setdefault(game, {})[index] = outcome
    points = [set(outcome) for outcome in games.values()]
    if len(points) < 2 or any(own != points[0] for own in points):
        return None
    values = [sum(outcome.values()) / len(outcome) for _, outcome in sorted(games.items())]
    worst = worst_case(list(games.values()))
    return Redraws(values, float(np.mean(values)), float(np.std(values, ddof=1)), sum(worst.values()) / len(worst))


@dataclass(frozen=True)
class Resubmission:
    """Robust accuracy where every image is sent `times` times, over the same examples.

    average        over all answers, each judged alone
    worst          of examples that no answer broke
    after          the same for the first 1, 10, 100, ... answers, by their number
    clean_average, clean_worst  of the clean images, sent as often: the floor that no attacker is needed for
    """

    times: int
    average: float
    worst: float
    after: dict[str, float]
    clean_average: float
    clean_worst: float


def resubmission(rows: Sequence[Row]) -> Resubmission | None:
    """What images that are sent again add to the attack; None where each is sent once.

    A refused answer counts as right, as far as the clean image, sent first, is answered right.
    """
    sent = [row for row in rows if row.resent is not None]
    if not sent or len(sent) < len(rows):
        return None
    attacked = np.array([[_stands(row, label) for label in (row.resent or {})["attacked"]] for row in sent])
    clean = np.array([[label == row.label for label in (row.resent or {})["clean"]] for row in sent])
    times = attacked.shape[1]
    counts = [*(10**power for power in range(len(str(times))) if 10**power < times), times]
    after = {str(count): float(attacked[:, :count].all(1).mean()) for count in counts}
    return Resubmission(
        times, float(attacked.mean()), float(attacked.all(1).mean()), after, float(clean.mean()),
        float(clean.all(1).mean()),
    )  # fmt: skip


def _stands(row: Row, label: int) -> bool:
    first = (row.resent or {})["clean"][0]
    return label == row.label or (label == REFUSED and first == row.label)

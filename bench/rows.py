"""What a game writes down: a row of facts per example, what serving cost, and how far a game has come.

A row holds facts; metrics are computed from rows afterwards, so a new metric needs no new run.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench.norms import Norm, ball_of

if TYPE_CHECKING:
    from torch import Tensor

#: the answer of a defense that refuses an input; labels are 0 and above
REFUSED = -1


@dataclass(frozen=True)
class Row:
    """The facts of one example in one game. Seconds are wall-clock; everything else is the same on every repetition.

    game, position    which game, and the example's place in it
    index, label      dataset index of the point, and its true label
    answer            the deployed defense's label for what was served (x', or x after a violation), or `REFUSED`
    clean_answer      its answer to x, from the same state (probe); None where the paired `clean` run holds it
    distances         of the proposed image to x, by norm (pixels in [0, 1]; l0 counts pixels); NaN if not finite; rows
                      of older databases lack norms that came later
    violation         why x was served instead of the proposal; "" if the proposal was served
    believed          the attacked network is fooled by the proposal (None: the attacker had no network)
    fooled_inside     some image within eps that the attack tried fooled the attacked network
    resent            where an image is sent several times: its answers in their order (`attacked`), and those to the
                      clean image sent as often (`clean`); `answer` is the first that is wrong and no refusal, else the
                      first. None: it is sent once
    poison            it is one of the attacker's inputs, served among those of other users: its answer is not judged
    neighbours        counts of the labels of the served image's neighbours, by the searched set; None: there are none
    """

    game: int
    position: int
    index: int
    label: int
    answer: int
    clean_answer: int | None
    distances: dict[Norm, float]
    violation: str
    x_sha256: str
    adv_sha256: str
    forwards: int
    backwards: int
    queries: int
    simulated: int
    adaptation_steps: int
    believed: bool | None
    fooled_inside: bool | None
    attack_s: float
    defense_s: float
    neighbours: dict[str, list[int]] | None = None
    resent: dict[str, list[int]] | None = None
    poison: bool = False


def is_right(row: Row, budget: tuple[Norm, float] | None, clean_answer: int | None) -> bool | None:
    """The outcome of an example: whether the attack leaves it right. None where that is not known.

    An attack succeeds where the answer is wrong and not refused. A refusal is no loss where the defense answers the
    clean image right, so that it must accept that image: a defense that refuses everything saves nothing (the robust
    error with detection of Tramer: Detecting Adversarial Examples Is (Nearly) As Hard As Classifying Them, ICML 2022).

    budget        norm and radius at which an attack of minimal norm is judged: an attacker whose image is farther
                  serves the clean image, so the clean answer counts. None: the answer to what was served counts
    clean_answer  the answer to the clean image, where the row itself has none; None: it is not known
    """
    answer: int | None = row.answer
    if answer == REFUSED or not within(row, budget):
        answer = clean_answer if row.clean_answer is None else row.clean_answer
    return None if answer is None else answer == row.label


def is_fooled(row: Row) -> bool:
    """The answer to what was served is wrong, and not a refusal."""
    return row.answer not in (row.label, REFUSED)


def within(row: Row, budget: tuple[Norm, float] | None) -> bool:
    """Whether the proposed image lies in this ball around the clean one; None: there is no bound."""
    if budget is None:
        return True
    norm, eps = budget
    return row.distances.get(norm, math.nan) <= eps + ball_of(norm).slack


@dataclass(frozen=True)
class Cost:
    """What serving took: answers, optimiser steps, seconds, and the seconds of each answer."""

    answers: int = 0
    steps: int = 0
    seconds: float = 0.0
    delays: tuple[float, ...] = ()

    def plus(self, other: Cost) -> Cost:
        return Cost(
            self.answers + other.answers,
            self.steps + other.steps,
            self.seconds + other.seconds,
            self.delays + other.delays,
        )


NO_COST = Cost()


@dataclass
class Meter:
    """Seconds of one game that attack and defense take; the rest of its wall-clock time is the harness's.

    background: what all background points of a probe took, also those that another process served
    """

    attack_s: float = 0.0
    defense_s: float = 0.0
    background: Cost = field(default_factory=Cost)
    flags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Resume:
    """How far an earlier process came in a game: committed rows, served points, and the digest of the state."""

    rows: int = 0
    served: int = 0
    digest: str = ""


def image_hash(x: Tensor) -> str:
    """sha256 of one image's float32 pixels."""
    return hashlib.sha256(x.detach().cpu().contiguous().numpy().tobytes()).hexdigest()

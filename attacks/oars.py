"""`oars:square`, `oars:hopskipjump`: attacks by queries that adapt to a defense which refuses queries that are alike.

Feng, Hooda, Mangaokar, Fawaz, Jha, Prakash: Stateful Defenses for Machine Learning Models Are Not Yet Secure Against
Black-box Attacks, CCS 2023 (OARS, oracle-guided adaptive rejection sampling). A refusal tells that two queries were too
close. So before each phase the attacker searches for the smallest proposal whose rate of refusals it tolerates, and a
refused proposal is drawn again.

oars:square       random squares of +-eps. Before the walk, the number of squares that change at once is found by binary
                  search (10 to 100, no refusal tolerated), then the smallest side (half of them refused at most); in a
                  step a refused proposal is drawn again, up to 300 times.
oars:hopskipjump  before the walk, the radius of the samples is found by binary search around the image (from 1 to 2 in
                  l2, in pixels of [0, 1]; one in twenty refused at most). Each step: halving towards the image, which
                  the first refusal ends; 100 samples of the gradient, times the root of the step's number, a refused
                  one drawn again up to 20 times; a step along it, halved where it does not fool the defense, with 5
                  more tries where it is refused.

The constants are those of the authors' code (their configurations for CIFAR-10 and Blacklight). They count a success of
HopSkipJump within 0.05 of the root mean square, which is 2.77 in l2, and within 100,000 queries.

Readings: each candidate of a binary search of squares is judged by `probes` queries, of the radius by `radius_probes`;
they count as all queries do. Where none is good enough, the largest is taken, and a radius grows by a tenth with each
refused sample. The walks are ours, since those of the Toolbox draw no refused proposal again. Against a defense that
refuses nothing, oars:square changes one square at a time, as the plain attack does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from attacks.query import HopSkipJump, HopSkipJumpLinf, QueryAttack, Square, first_image
from bench.contracts import Attack, DefenseInfo
from bench.contracts.oracle import Oracle, margins
from bench.data.task import TaskFacts
from bench.draws import Draws
from bench.norms import Norm, ball_of
from bench.threat import ThreatModel
from bench.values import Params

#: proposals of the same step of oars:square, at most
STEP_RETRIES = 300


class _Spent(Exception):
    """The example has no query left."""


class _Asked:
    """Queries about one example x (1, C, H, W), with the best image so far.

    rank: the score (smaller is better) of an accepted image, from the image and its margin; None: it is not kept.
    """

    def __init__(
        self, oracle: Oracle, row: int, x: Tensor, y: Tensor, rank: Callable[[Tensor, float], float | None]
    ) -> None:
        self._oracle, self._row, self._y, self._rank = oracle, row, y, rank
        self.best, self.score = x.clone(), float("inf")

    def __call__(self, image: Tensor) -> float | None:
        """The margin of an image (1, C, H, W), below 0 where it fools the defense; None: it is refused."""
        if not self._oracle.queries_left(self._row):
            raise _Spent
        reply = self._oracle.ask(image, [self._row])
        if reply.refused[0]:
            return None
        margin = float(margins(reply.logits, self._y)[0])
        score = self._rank(image, margin)
        if score is not None and score < self.score:
            self.best, self.score = image.clone(), score
        return margin


class OARSParams(Params):
    """p_init: share of the pixels that a first square covers; squares: the most that change at once; init_size: images
    tried as a start of HopSkipJump; samples of its first gradient; radius_low and radius_high: of a sample; halvings:
    at most, towards the image; probes, radius_probes: queries for each candidate of a search; retries: of a refused
    proposal."""

    p_init: float = Field(default=0.8, gt=0, lt=1, allow_inf_nan=False)
    squares: int = Field(default=100, ge=1)
    init_size: int = Field(default=100, ge=1)
    samples: int = Field(default=100, ge=2)
    radius_low: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    radius_high: float = Field(default=2.0, gt=0, allow_inf_nan=False)
    halvings: int = Field(default=10, ge=1)
    probes: int = Field(default=3, ge=1)
    radius_probes: int = Field(default=20, ge=1)
    retries: int = Field(default=20, ge=1)


class Walk(ABC):
    """How one image is changed by asking about proposals. params: `OARSParams`; norm: the one it is measured in."""

    def __init__(self, params: Any, norm: Norm) -> None:
        self.params = params
        self.norm = norm

    @abstractmethod
    def rank(self, x: Tensor) -> Callable[[Tensor, float], float | None]:
        """Which accepted images are kept for x (1, C, H, W): see `_Asked`."""

    @abstractmethod
    def walk(self, ask: _Asked, x: Tensor, threat: ThreatModel, drawing: torch.Generator) -> None:
        """Ask about images near x (1, C, H, W) until the queries are spent (`_Spent`) or nothing is left to try."""


class OARS(QueryAttack):
    """A walk for each example that asks about proposals and draws refused ones again. `around` picks the walk."""

    Params: ClassVar[type[Params]] = OARSParams
    quick: ClassVar[Mapping[str, Any]] = {"squares": 4, "samples": 2, "probes": 1, "radius_probes": 1, "halvings": 2}
    inside: ClassVar[type[Attack]]
    #: its parameters are its own alone: the walks are, too
    takes_inside_params: ClassVar[bool] = False
    #: the form of the attack inside that adapts to refusals; None: there is none
    form: ClassVar[type[Walk] | None] = None

    @classmethod
    def around(cls, inside: type[Attack]) -> type[Attack]:
        """The form of an attack that adapts to refusals; of one that has none, an attack that declines."""
        own = {"inside": inside, "kind": inside.kind, "norm": inside.norm, "form": FORMS.get(inside)}
        return type(f"OARS{inside.__name__}", (cls,), own)

    def declines(self, threat: ThreatModel, facts: TaskFacts, info: DefenseInfo) -> str | None:
        if self.form is None:
            return f"{self.inside.__name__} has no form that adapts to refusals; square and hopskipjump have one"
        return super().declines(threat, facts, info)

    def perturb(self, oracle: Oracle, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
        assert self.form is not None  # else it declines
        form, images = self.form(self.params, self.norm), []
        for row in range(len(x)):
            oracle.report(f"asking about example {row + 1} of {len(x)}")
            point = x[row : row + 1]
            asked = _Asked(oracle, row, point, y[row : row + 1], form.rank(point))
            with suppress(_Spent):  # the walk ends with its queries
                form.walk(asked, point, oracle.threat, draws[row])
            images.append(asked.best)
        return torch.cat(images)


def tuned(
    low: float, high: float, tolerated: float, probes: int, refused: Callable[[float], bool], whole: bool
) -> float:
    """The smallest value in [low, high] at which at most a share `tolerated` of `probes` proposals is refused.

    By binary search: the share is taken to fall with the value. high where no value is good enough; whole: whole
    numbers, else to a tenth of the range.
    """

    def good(value: float) -> bool:
        misses = 0
        for _ in range(probes):
            misses += refused(value)
            if misses > tolerated * probes:
                return False
        return True

    width = 1.0 if whole else (high - low) / 10
    while high - low >= width:
        middle = (low + high) // 2 if whole else (low + high) / 2
        if good(middle):
            high = middle
        else:
            low = middle + 1 if whole else middle
    return high


class SquareWalk(Walk):
    """Random squares, several at once, so many and so large that they are not refused."""

    def rank(self, x: Tensor) -> Callable[[Tensor, float], float | None]:
        return lambda image, margin: margin

    def walk(self, ask: _Asked, x: Tensor, threat: ThreatModel, drawing: torch.Generator) -> None:
        eps, own = threat.eps, self.params
        current, margin = self._start(ask, x, eps, drawing)
        if margin is None or margin < 0:
            return

        def refused(number: float, side: int) -> bool:
            return ask(self._proposal(x, current, eps, int(number), side, drawing)) is None

        widest = self._side(x, own.p_init, 0)
        fewest = min(10, own.squares)
        number = int(tuned(fewest, own.squares, 0.0, own.probes, lambda count: refused(count, 1), whole=True))
        side_least = int(tuned(1, widest, 0.5, own.probes, lambda side: refused(number, int(side)), whole=True))
        plain = side_least == 1 and number == fewest  # nothing is refused: one square at a time, as the plain attack
        for step in range(threat.queries):
            side = max(self._side(x, own.p_init, step / max(threat.queries, 1)), side_least)
            count = 1 if plain else max(1, round(number * (side_least / side) ** 2))
            image, found = self._accepted(ask, x, current, eps, count, side, drawing)
            if found is None:
                side_least = min(side_least + 1, widest)
                number = min(own.squares, number + 10)
            elif found < margin:
                current, margin = image, found
                if margin < 0:
                    return

    def _start(self, ask: _Asked, x: Tensor, eps: float, drawing: torch.Generator) -> tuple[Tensor, float | None]:
        """Vertical stripes of +-eps, drawn again while they are refused."""
        margin = ask(x)  # where it is wrong on the image itself, that is the attack
        if margin is not None and margin < 0:
            return x, margin
        image = x
        for _ in range(STEP_RETRIES):
            stripes = torch.randint(2, (1, x.shape[1], 1, x.shape[3]), generator=drawing).to(x) * 2 - 1
            image = (x + eps * stripes).clamp(0, 1)
            margin = ask(image)
            if margin is not None:
                break
        return image, margin

    def _accepted(
        self, ask: _Asked, x: Tensor, current: Tensor, eps: float, count: int, side: int, drawing: torch.Generator
    ) -> tuple[Tensor, float | None]:
        """A proposal that is not refused, with its margin; None after `STEP_RETRIES`."""
        image, margin = current, None
        for _ in range(STEP_RETRIES):
            image = self._proposal(x, current, eps, count, side, drawing)
            margin = ask(image)
            if margin is not None:
                break
        return image, margin

    def _proposal(
        self, x: Tensor, current: Tensor, eps: float, count: int, side: int, drawing: torch.Generator
    ) -> Tensor:
        """`current` (1, C, H, W) with `count` squares, each of one random sign in each channel."""
        image = current.clone()
        _, channels, height, width = x.shape
        for _ in range(count):
            top, left = (int(torch.randint(size - side + 1, (), generator=drawing)) for size in (height, width))
            signs = torch.randint(2, (channels, 1, 1), generator=drawing).to(x) * 2 - 1
            part = (0, slice(None), slice(top, top + side), slice(left, left + side))
            image[part] = (x[part] + eps * signs).clamp(0, 1)
        return image

    @staticmethod
    def _side(x: Tensor, p_init: float, done: float) -> int:
        """The side of a square; the area shrinks with the share `done` of the queries, as in the plain attack."""
        marks = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)  # halved at each of these shares of the queries
        area = p_init / 2 ** sum(done > mark for mark in marks)
        height, width = x.shape[2:]
        return min(max(round((area * height * width) ** 0.5), 1), height, width)


class HopSkipJumpWalk(Walk):
    """A walk along the boundary with samples far enough from each other that they are not refused."""

    def rank(self, x: Tensor) -> Callable[[Tensor, float], float | None]:
        distance = ball_of(self.norm).distance
        return lambda image, margin: float(distance(image - x)[0]) if margin < 0 else None

    def walk(self, ask: _Asked, x: Tensor, threat: ThreatModel, drawing: torch.Generator) -> None:
        margin = ask(x)
        if margin is not None and margin < 0:
            return
        current = self._start(ask, x, drawing)
        if current is None:
            return
        own = self.params
        radius = tuned(
            own.radius_low, own.radius_high, 0.05, own.radius_probes,
            lambda value: _sample(ask, x, value, drawing)[1] is None, whole=False,
        )  # fmt: skip
        number = 0
        while True:
            number += 1
            current = self._halved(ask, x, current)
            direction = self._gradient(ask, current, radius, int(own.samples * number**0.5), drawing)
            if direction is None:
                return
            current = self._stepped(ask, x, current, direction, number)

    def _start(self, ask: _Asked, x: Tensor, drawing: torch.Generator) -> Tensor | None:
        """An image that the defense gives another label, or None after `init_size` tries; as the plain attack."""
        for number in range(self.params.init_size):
            image = first_image(x[0], number, drawing)[None]
            margin = ask(image)
            if margin is not None and margin < 0:
                return image
        return None

    def _halved(self, ask: _Asked, x: Tensor, current: Tensor) -> Tensor:
        """Nearer to x along the line, by binary search; a refusal ends it, and the last image that fools is kept."""
        low, high, best = 0.0, 1.0, current
        for _ in range(self.params.halvings):
            middle = (low + high) / 2
            image = self._between(x, current, middle)
            margin = ask(image)
            if margin is None:
                break
            if margin < 0:
                high, best = middle, image
            else:
                low = middle
        return best

    def _between(self, x: Tensor, far: Tensor, share: float) -> Tensor:
        """Towards x: in l2 along the line, in linf by a box that shrinks."""
        if self.norm == "l2":
            return x + share * (far - x)
        bound = share * float((far - x).abs().max())
        return x + (far - x).clamp(-bound, bound)

    def _gradient(
        self, ask: _Asked, current: Tensor, radius: float, samples: int, drawing: torch.Generator
    ) -> Tensor | None:
        """An estimate (1, C, H, W) of the direction into the region that fools, at `current` (1, C, H, W) in [0, 1];
        None where all samples are refused. radius: l2 length of a sample."""
        signs, noises = [], []
        for _ in range(samples):
            for _ in range(self.params.retries):
                noise, margin = _sample(ask, current, radius, drawing)
                if margin is not None:
                    signs.append(1.0 if margin < 0 else -1.0)
                    noises.append(noise)
                    break
                radius *= 1.1
        if not noises:
            return None
        weights = torch.tensor(signs)
        weights = weights - weights.mean() if 0 < float((weights > 0).float().mean()) < 1 else weights
        estimate = (weights.view(-1, 1, 1, 1).to(current) * torch.cat(noises)).sum(0, keepdim=True)
        return estimate.sign() if self.norm == "linf" else estimate / estimate.norm().clamp_min(1e-12)

    def _stepped(self, ask: _Asked, x: Tensor, current: Tensor, direction: Tensor, number: int) -> Tensor:
        """A step along the direction, halved until it fools the defense; after 5 refusals the image stays."""
        size = float(ball_of(self.norm).distance(current - x)[0]) / number**0.5
        refusals = 0
        for _ in range(self.params.halvings):
            image = (current + size * direction).clamp(0, 1)
            margin = ask(image)
            if margin is None:
                refusals += 1
                if refusals > 5:
                    return current
            elif margin < 0:
                return image
            size /= 2
        return current


def _sample(ask: _Asked, around: Tensor, radius: float, drawing: torch.Generator) -> tuple[Tensor, float | None]:
    """A random change (1, C, H, W) of an image `around` (1, C, H, W) in [0, 1], and the margin of the changed image;
    None where it is refused. The change has the l2 length `radius`, less what leaves the box."""
    noise = torch.randn(around.shape, generator=drawing).to(around)
    image = (around + radius * noise / noise.norm()).clamp(0, 1)
    return image - around, ask(image)


#: by the plain attack: its form that adapts to refusals
FORMS: dict[type[Attack], type[Walk]] = {
    Square: SquareWalk,
    HopSkipJump: HopSkipJumpWalk,
    HopSkipJumpLinf: HopSkipJumpWalk,
}

"""`square`, `hopskipjump`, `hopskipjump-linf`: attacks that only query the deployed defense, from the Adversarial
Robustness Toolbox (ART).

square       Andriushchenko, Croce, Flammarion, Hein: Square Attack, ECCV 2020. Random squares of +-eps that lower the
             margin. It needs the scores of the defense, and stays within the radius in linf.
hopskipjump  Chen, Jordan, Wainwright: HopSkipJumpAttack, IEEE S&P 2020. A walk along the decision boundary towards the
             input. It needs labels only, and minimises the l2 distance; hopskipjump-linf minimises the linf distance.

Both attacks keep to the threat model's number of queries per example, and end when the queries are used up.

Deviations: an image that was queried before gets the stored answer and costs no query (ART's Square repeats
queries). The attacks return the best image that was queried, not the last one. The first image of HopSkipJump is
found here, with the example's own generator: ART draws it from a generator that it seeds itself.

Limits of ART's Square: it draws the squares for a whole block of examples at once, so an image depends on the block. No
square covers the last row or the last column.
"""

from __future__ import annotations

import hashlib
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from art.attacks.evasion import HopSkipJump as ArtHopSkipJump
from art.attacks.evasion import SquareAttack
from art.estimators.classification.blackbox import BlackBoxClassifierNeuralNetwork
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from attacks.art import seeded
from bench.contracts import Attack, DefenseInfo
from bench.contracts.oracle import Oracle, margins
from bench.data.task import TaskFacts
from bench.draws import Draws
from bench.norms import Norm, ball_of
from bench.threat import ThreatModel
from bench.values import Params

#: an attack ends after so many calls in a row that repeat known images
IDLE_CALLS = 50


class _Spent(Exception):
    """The examples have no query left, or the last `IDLE_CALLS` calls repeated known images."""


class _Asked:
    """Queries the deployed defense about x (N, C, H, W) with labels y (N,), and stores the answers and the best images.

    norm: rank images that fool the defense by their distance in this norm; None: rank all images by their margin.
    """

    def __init__(self, oracle: Oracle, x: Tensor, y: Tensor, norm: Norm | None = None) -> None:
        self.oracle, self.x, self.y = oracle, x, y
        self.norm = norm
        self.best = x.clone()
        #: margin of the best image, or with a norm its distance; smaller is better
        self.score = torch.full((len(x),), torch.inf)
        self._known: list[dict[bytes, NDArray[np.float32]]] = [{} for _ in range(len(x))]
        self._last: list[NDArray[np.float32] | None] = [None] * len(x)
        self._idle = 0

    def left(self, row: int) -> int:
        return self.oracle.queries_left(row)

    def ask(self, images: NDArray[np.float32], rows: list[int]) -> NDArray[np.float32]:
        """Logits (B, K) of images (B, C, H, W), each about one of the examples `rows`; `_Spent` ends the attack.

        Where an example has no query left, a new image gets the logits of its best image, and so does not look better.
        """
        keys = [hashlib.sha256(image.tobytes()).digest() for image in images]
        fresh: dict[tuple[int, bytes], int] = {}
        asked: dict[int, int] = {}
        refused = 0
        for place, (row, key) in enumerate(zip(rows, keys, strict=True)):
            if key in self._known[row] or (row, key) in fresh:
                continue
            if asked.get(row, 0) < self.left(row):
                fresh[row, key] = place
                asked[row] = asked.get(row, 0) + 1
            else:
                refused += 1
        self._idle = 0 if fresh else self._idle + 1
        if fresh:
            self._query(images, fresh)
        elif refused or self._idle >= IDLE_CALLS:
            raise _Spent
        return np.stack([self._answer(row, key) for row, key in zip(rows, keys, strict=True)])

    def _query(self, images: NDArray[np.float32], fresh: dict[tuple[int, bytes], int]) -> None:
        rows = [row for row, _ in fresh]
        points = torch.from_numpy(images[list(fresh.values())]).to(self.x)
        logits = self.oracle.query(points, rows).float().cpu()
        gaps = margins(logits, self.y[rows].cpu())
        far = ball_of(self.norm).distance(points - self.x[rows]).cpu() if self.norm else gaps
        for i, (row, key) in enumerate(fresh):
            self._known[row][key] = logits[i].numpy()
            score = far[i] if not self.norm or gaps[i] < 0 else torch.inf
            if score < self.score[row]:
                self.score[row] = score
                self.best[row] = points[i]
                self._last[row] = logits[i].numpy()

    def _answer(self, row: int, key: bytes) -> NDArray[np.float32]:
        known = self._known[row].get(key)
        if known is not None:
            return known
        last = self._last[row]
        if last is None:
            raise _Spent
        return last

    def nearest(self, images: NDArray[np.float32]) -> list[int]:
        """The example that each image is about: the nearest one."""
        flat = torch.from_numpy(images).to(self.x).flatten(1)
        return torch.cdist(flat, self.x.flatten(1)).argmin(1).tolist()

    def classifier(self, classes: int, row: int | None = None) -> BlackBoxClassifierNeuralNetwork:
        """The defense as a classifier of ART. Images are about the example `row`; None: each about the nearest one."""

        def predict(images: NDArray[Any]) -> NDArray[np.float32]:
            images = images.astype(np.float32)
            rows = self.nearest(images) if row is None else [row] * len(images)
            return self.ask(images, rows)

        shape = tuple(self.x.shape[1:])
        return BlackBoxClassifierNeuralNetwork(predict, shape, classes, channels_first=True, clip_values=(0.0, 1.0))


class QueryAttack(Attack):
    """An attack that only queries the deployed defense."""

    needs_gradients: ClassVar[bool] = False

    def declines(self, threat: ThreatModel, facts: TaskFacts, info: DefenseInfo) -> str | None:
        if not threat.queries:
            return "it only queries the defense, and threat.queries is 0"
        return super().declines(threat, facts, info)


class SquareParams(Params):
    """p_init: share of the pixels that the first squares cover."""

    p_init: float = Field(default=0.8, gt=0, lt=1, allow_inf_nan=False)


class Square(QueryAttack):
    """Random search on the scores of the defense."""

    Params: ClassVar[type[Params]] = SquareParams

    def declines(self, threat: ThreatModel, facts: TaskFacts, info: DefenseInfo) -> str | None:
        _, height, width = facts.image_shape
        if round((self.params.p_init * height * width) ** 0.5) >= min(height, width):
            return f"squares of p_init {self.params.p_init:g} of the pixels do not fit into {height} x {width}"
        return super().declines(threat, facts, info)

    def perturb(self, oracle: Oracle, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
        threat = oracle.threat
        if threat.eps == 0:
            return x
        asked = _Asked(oracle, x, y)
        classes = asked.ask(x.cpu().numpy(), list(range(len(x)))).shape[1]
        engine = SquareAttack(
            asked.classifier(classes), norm=np.inf, eps=threat.eps, max_iter=threat.queries, p_init=self.params.p_init,
            batch_size=len(x), verbose=False,
        )  # fmt: skip
        try:
            with seeded(draws):
                engine.generate(x.cpu().numpy(), y=np.eye(classes)[y.cpu().numpy()])
        except _Spent:
            pass  # the search ends with its queries
        return asked.best


class HopSkipJumpParams(Params):
    """init_eval, max_eval: queries to estimate the first gradient, and at most for a later one; init_size: images tried
    as a start; max_iter: steps along the boundary, if the queries last that long."""

    init_eval: int = Field(default=100, ge=1)
    max_eval: int = Field(default=1000, ge=1)
    init_size: int = Field(default=100, ge=1)
    max_iter: int = Field(default=50, ge=1)


class HopSkipJump(QueryAttack):
    """A walk along the decision boundary, by the labels of the defense."""

    Params: ClassVar[type[Params]] = HopSkipJumpParams
    kind: ClassVar[Literal["budget", "minimal"]] = "minimal"
    norm: ClassVar[Norm] = "l2"

    def perturb(self, oracle: Oracle, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
        asked = _Asked(oracle, x, y, self.norm)
        for row in range(len(x)):
            oracle.report(f"walking from example {row + 1} of {len(x)}")
            try:
                with seeded(draws.of([row])):
                    self._walk(asked, row, draws)
            except _Spent:
                pass  # the walk ends with its queries
        return asked.best

    def _walk(self, asked: _Asked, row: int, draws: Draws) -> None:
        params = self.params
        x, label = asked.x[row : row + 1].cpu().numpy(), int(asked.y[row])
        logits = asked.ask(x, [row])
        if logits[0].argmax() != label:
            return  # the defense is wrong on the input itself, at distance 0
        start = self._start(asked, row, label, draws)
        if start is None:
            return
        engine = ArtHopSkipJump(
            asked.classifier(logits.shape[1], row),
            norm=ball_of(self.norm).p,
            max_iter=params.max_iter,
            max_eval=params.max_eval,
            init_eval=min(params.init_eval, params.max_eval),
            init_size=params.init_size,
            verbose=False,
        )
        engine.generate(x, y=np.eye(logits.shape[1])[[label]], x_adv_init=start)

    def _start(self, asked: _Asked, row: int, label: int, draws: Draws) -> NDArray[np.float32] | None:
        """An image that the defense gives another label, or None after `init_size` tries."""
        x = asked.x[row].cpu()
        for number in range(self.params.init_size):
            image = first_image(x, number, draws[row])
            if asked.ask(image[None].numpy(), [row])[0].argmax() != label:
                return image[None].numpy()
        return None


def first_image(x: Tensor, number: int, drawing: torch.Generator) -> Tensor:
    """The image (C, H, W) in [0, 1] that is tried as a start for x (C, H, W), by its number from 0 on.

    First a uniformly random image; then the negative of the input, its mirror images, a black and a white image; then
    random images again. A network may give all noise the same label. If that is the label of the input, no random image
    can start the walk.
    """
    own = [1 - x, x.flip(2), x.flip(1), torch.zeros_like(x), torch.ones_like(x)]
    return own[number - 1] if 0 < number <= len(own) else torch.rand(x.shape, generator=drawing).to(x)


class HopSkipJumpLinf(HopSkipJump):
    """HopSkipJump for the smallest linf perturbation."""

    norm: ClassVar[Norm] = "linf"

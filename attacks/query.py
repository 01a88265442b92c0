"""`square` and `hopskipjump`: attacks that only ask the deployed defense, from the Adversarial Robustness Toolbox.

square       Andriushchenko, Croce, Flammarion, Hein: Square Attack, ECCV 2020: random squares of +-eps that lower the
             margin; needs the defense's scores; linf, within the radius.
hopskipjump  Chen, Jordan, Wainwright: HopSkipJumpAttack, IEEE S&P 2020: walks along the decision boundary towards the
             input; needs labels only; minimal in l2, as hopskipjump-linf is in linf. ART draws its start from a
             generator that it seeds itself, so the start is found here, with the example's own generator.

Both live within the threat model's budget of queries per example. Every answer is remembered: a repeated image is not
asked again (ART's Square asks three times what it knows), and what is returned is the best image that was asked, not
the last. A budget that runs out ends the attack. ART's Square draws its squares for a whole block of examples at once,
so an image depends on the block, and it never puts one on the last row or column.
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

#: calls in a row that ask nothing new, after which an attack turns in circles
IDLE_CALLS = 50


class _Spent(Exception):
    """No example that is asked about has a query left, or nothing new has been asked for long."""


class _Asked:
    """Answers of the deployed defense about x (N, C, H, W), y (N,), within the budget; remembers the best image."""

    def __init__(self, oracle: Oracle, x: Tensor, y: Tensor, norm: Norm | None = None) -> None:
        self.oracle, self.x, self.y = oracle, x, y
        self.norm = norm
        self.best = x.clone()
        #: what the best image has: the margin, or with a norm the distance of fooling images; smaller is better
        self.score = torch.full((len(x),), torch.inf)
        self._known: list[dict[bytes, NDArray[np.float32]]] = [{} for _ in range(len(x))]
        self._last: list[NDArray[np.float32] | None] = [None] * len(x)
        self._idle = 0

    def left(self, row: int) -> int:
        return self.oracle.queries_left(row)

    def ask(self, images: NDArray[np.float32], rows: list[int]) -> NDArray[np.float32]:
        """Logits (B, K) of images (B, C, H, W) about these examples; `_Spent` where none of them may be asked.

        An example whose budget is spent is answered with what its best image got, so that nothing seems better.
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
        """Which example each image is about: the nearest."""
        flat = torch.from_numpy(images).to(self.x).flatten(1)
        return torch.cdist(flat, self.x.flatten(1)).argmin(1).tolist()

    def classifier(self, classes: int, row: int | None = None) -> BlackBoxClassifierNeuralNetwork:
        """The defense as ART asks it: about one example, or each image about the nearest."""

        def predict(images: NDArray[Any]) -> NDArray[np.float32]:
            images = images.astype(np.float32)
            rows = self.nearest(images) if row is None else [row] * len(images)
            return self.ask(images, rows)

        shape = tuple(self.x.shape[1:])
        return BlackBoxClassifierNeuralNetwork(predict, shape, classes, channels_first=True, clip_values=(0.0, 1.0))


class QueryAttack(Attack):
    """An attack that only asks."""

    needs_gradients: ClassVar[bool] = False

    def declines(self, threat: ThreatModel, facts: TaskFacts, info: DefenseInfo) -> str | None:
        if not threat.queries:
            return "it only asks the defense, and threat.queries is 0"
        return super().declines(threat, facts, info)


class SquareParams(Params):
    """p_init: share of the pixels in the first squares."""

    p_init: float = Field(default=0.8, gt=0, lt=1, allow_inf_nan=False)


class Square(QueryAttack):
    """Random search with the defense's scores."""

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
            pass  # the budget is the end of the search, as meant
        return asked.best


class HopSkipJumpParams(Params):
    """init_eval, max_eval: images asked to estimate the first and a later gradient; init_size: random images tried for
    a start; max_iter: steps along the boundary, where the budget lasts that long."""

    init_eval: int = Field(default=100, ge=1)
    max_eval: int = Field(default=1000, ge=1)
    init_size: int = Field(default=100, ge=1)
    max_iter: int = Field(default=50, ge=1)


class HopSkipJump(QueryAttack):
    """A walk along the decision boundary with the defense's labels."""

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
                pass  # the budget is the end of the walk, as meant
        return asked.best

    def _walk(self, asked: _Asked, row: int, draws: Draws) -> None:
        params = self.params
        x, label = asked.x[row : row + 1].cpu().numpy(), int(asked.y[row])
        logits = asked.ask(x, [row])
        if logits[0].argmax() != label:
            return  # wrong from the start: nothing is nearer than the input itself
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
        """An image that is not given the label, or None after `init_size` tries.

        A uniformly random one; then what the input gives: its negative, its mirror images, a black and a white one;
        then random ones again. (A network may give all of noise one label, and no noise starts a walk from that label.)
        """
        x = asked.x[row].cpu()
        own = [1 - x, x.flip(2), x.flip(1), torch.zeros_like(x), torch.ones_like(x)]
        for number in range(self.params.init_size):
            given = 0 < number <= len(own)
            image = own[number - 1] if given else torch.rand(x.shape, generator=draws[row])
            if asked.ask(image[None].numpy(), [row])[0].argmax() != label:
                return image[None].numpy()
        return None


class HopSkipJumpLinf(HopSkipJump):
    """The same walk for the smallest linf perturbation."""

    norm: ClassVar[Norm] = "linf"

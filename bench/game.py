"""What the protocols share: crafted images with their ledger, rows of facts, chunks of rows.

A row holds facts; metrics are computed from rows afterwards, so a new metric needs no new run.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bench.cache import Cost
from bench.contracts import Attack
from bench.draws import Draws
from bench.judge import SLACK, Ruling, as_images
from bench.oracle import Oracle, margins
from bench.serving import image_hash
from bench.spec import RunSpec

if TYPE_CHECKING:
    from bench.serving import Serving


@dataclass(frozen=True)
class Row:
    """The facts of one example in one game. Seconds are wall-clock; everything else is the same on every repetition.

    game, position    which game, and the example's place in it
    index, label      dataset index of the point, and its true label
    answer            the deployed defense's label for what was served (x', or x after a violation)
    clean_answer      its label for x, from the same state (probe); None where the paired `clean` run holds it
    linf, l2, l0      distance of the proposed image to x (pixels in [0, 1]; l0 counts pixels); NaN if not finite
    violation         why x was served instead of the proposal, or ""
    believed          the attacked network is fooled by the proposal (None: the attacker had no network)
    fooled_inside     some image within eps that the attack tried fooled the attacked network
    neighbours        labels of the neighbours of what was served, counted, by what was searched; None: nothing is
    """

    game: int
    position: int
    index: int
    label: int
    answer: int
    clean_answer: int | None
    linf: float
    l2: float
    l0: float
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


@dataclass
class Chunk:
    """Rows that are committed together, with the images they speak of and the state after them.

    images  proposals (rows, C, H, W) in the order of the rows
    digest  of the deployed defense's state after the last row; stored before the rows are committed
    """

    rows: list[Row]
    images: Tensor
    digest: str
    served: int


@dataclass
class Meter:
    """Seconds of one game by whom they are spent on; what is left of its wall-clock time is the harness's.

    background: what all background points of a probe took, also where another process served them
    """

    attack_s: float = 0.0
    defense_s: float = 0.0
    background: Cost = field(default_factory=Cost)
    flags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Crafted:
    """Proposed images of a block with what they cost, one entry per example.

    images (N, C, H, W) float32; the counts (N,) int64; seconds (N,) float64; believed and fooled_inside (N,) int8 with
    -1 where the attacker had no network.
    """

    images: Tensor
    forwards: Tensor
    backwards: Tensor
    queries: Tensor
    simulated: Tensor
    seconds: Tensor
    believed: Tensor
    fooled_inside: Tensor

    def tensors(self) -> dict[str, Tensor]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def rows(self, rows: Sequence[int]) -> Crafted:
        return Crafted(**{name: tensor[list(rows)] for name, tensor in self.tensors().items()})

    @staticmethod
    def join(parts: Sequence[Crafted]) -> Crafted:
        return Crafted(
            **{f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Crafted)},
        )


def craft(attack: Attack, oracle: Oracle, x: Tensor, y: Tensor, spec: RunSpec, indices: Sequence[int]) -> Crafted:
    """Let the attack propose images for x (N, C, H, W) with labels y (N,); measures, judges nothing."""
    oracle.begin(x, y, indices)
    draws = Draws(spec.seed, "attack", indices)
    start = time.perf_counter()
    proposed = attack.perturb(oracle, x.clone(), y.clone(), draws)
    seconds = time.perf_counter() - start - oracle.ledger.recording_s
    images = as_images(x, proposed)
    count = len(x)
    believed = inside = torch.full((count,), -1, dtype=torch.int8)
    if oracle.granted is not None:
        with torch.no_grad():
            believed = (margins(oracle.granted(images), y) < 0).to(torch.int8).cpu()
        threat = spec.threat
        inside = oracle.trace.fooled_inside(count, threat.eps, SLACK[threat.norm]).to(torch.int8)
    ledger = oracle.ledger
    return Crafted(
        images,
        ledger.forwards.clone(),
        ledger.backwards.clone(),
        ledger.queries.clone(),
        _shared_out(ledger.simulated, count),
        torch.full((count,), max(seconds, 0.0) / count, dtype=torch.float64),
        believed,
        inside,
    )


def _shared_out(total: int, count: int) -> Tensor:
    """A cost of the whole call, shared out to its examples: (count,) int64 that sums to total."""
    shares = torch.full((count,), total // count, dtype=torch.int64)
    shares[: total % count] += 1
    return shares


def make_row(
    game: int,
    position: int,
    index: int,
    label: int,
    x: Tensor,
    crafted: Crafted,
    row: int,
    ruling: Ruling,
    answer: int,
    clean_answer: int | None,
    steps: int,
    defense_s: float,
    neighbours: dict[str, list[int]] | None,
) -> Row:
    """The row of one example: x (C, H, W), the `row`-th of `crafted`, the judge's ruling and the answers."""
    return Row(
        game=game,
        position=position,
        index=index,
        label=label,
        answer=answer,
        clean_answer=clean_answer,
        linf=ruling.distance["linf"],
        l2=ruling.distance["l2"],
        l0=ruling.distance["l0"],
        violation=ruling.violation,
        x_sha256=image_hash(x),
        adv_sha256=image_hash(crafted.images[row]),
        forwards=int(crafted.forwards[row]),
        backwards=int(crafted.backwards[row]),
        queries=int(crafted.queries[row]),
        simulated=int(crafted.simulated[row]),
        adaptation_steps=steps,
        believed=_maybe(crafted.believed[row]),
        fooled_inside=_maybe(crafted.fooled_inside[row]),
        attack_s=float(crafted.seconds[row]),
        defense_s=defense_s,
        neighbours=neighbours,
    )


def _maybe(value: Tensor) -> bool | None:
    return None if int(value) < 0 else bool(value)


class ChunkMaker:
    """Collects rows and cuts them into chunks: once `size` rows wait, or a checkpoint is due."""

    def __init__(self, serving: Serving, size: int, checkpoint_s: float) -> None:
        self._serving = serving
        self._size = size
        self._checkpoint_s = checkpoint_s
        self._rows: list[Row] = []
        self._images: list[Tensor] = []
        self._cut_at = time.monotonic()

    def add(self, row: Row, image: Tensor) -> None:
        self._rows.append(row)
        self._images.append(image.detach().cpu())

    def due(self) -> bool:
        waited = time.monotonic() - self._cut_at >= self._checkpoint_s
        return bool(self._rows) and (waited or len(self._rows) >= self._size)

    def cut(self, store: bool) -> Iterator[Chunk]:
        """The waiting rows as one chunk, if there are any; `store` writes the state first."""
        if self._rows:
            digest = self._serving.store() if store else ""
            yield Chunk(self._rows, torch.stack(self._images), digest, self._serving.served)
            self._rows, self._images, self._cut_at = [], [], time.monotonic()

"""Rows that are committed together, with the images that they speak of and the state after them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.game.crafting import Crafted
from bench.game.judge import Ruling
from bench.game.serving import Serving
from bench.rows import Row, image_hash


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

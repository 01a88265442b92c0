"""Chunks: rows that are committed together, with their images and the state after them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.game.serving import Serving
from bench.rows import Row


@dataclass
class Chunk:
    """Rows that are committed together, with their images and the state after them.

    images  proposals (rows, C, H, W) in the order of the rows
    digest  of the deployed defense's state after the last row; stored before the rows are committed
    """

    rows: list[Row]
    images: Tensor
    digest: str
    served: int


class ChunkMaker:
    """Collects rows and cuts them into chunks.

    A chunk is due when `size` rows wait or `checkpoint_s` has passed. If the state is stored with it (`stores`), it
    also waits until the state is worth storing again. Once the time limit has passed, every row is due.
    """

    def __init__(self, serving: Serving, size: int, checkpoint_s: float, stores: bool) -> None:
        self._serving = serving
        self._size = size
        self._checkpoint_s = checkpoint_s
        self._stores = stores
        self._rows: list[Row] = []
        self._images: list[Tensor] = []
        self._cut_at = time.monotonic()

    def add(self, row: Row, image: Tensor) -> None:
        self._rows.append(row)
        self._images.append(image.detach().cpu())

    def due(self) -> Iterator[Chunk]:
        """The waiting rows as one chunk, once it is due."""
        waited = time.monotonic() - self._cut_at
        wanted = waited >= self._checkpoint_s or len(self._rows) >= self._size
        rested = not self._stores or waited >= self._serving.rest_s
        if (wanted and rested) or self._serving.deadline.passed():
            yield from self._cut(self._stores)

    def rest(self) -> Iterator[Chunk]:
        """The waiting rows at the end of a game, after which no state is needed."""
        yield from self._cut(False)

    def _cut(self, store: bool) -> Iterator[Chunk]:
        if self._rows:
            digest = self._serving.store() if store else ""
            yield Chunk(self._rows, torch.stack(self._images), digest, self._serving.served)
            self._rows, self._images, self._cut_at = [], [], time.monotonic()

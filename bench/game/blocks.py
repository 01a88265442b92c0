"""Blocks: a list cut into pieces of one size, from its start on, so that a piece is the same for every caller."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby


@dataclass(frozen=True)
class Blocks:
    """`items` cut into blocks of `size`; the last may be shorter. size None: one block holds all."""

    items: Sequence[int]
    size: int | None

    def __len__(self) -> int:
        return -(-len(self.items) // self._size)

    def __getitem__(self, number: int) -> list[int]:
        """The items of one block."""
        return list(self.items[number * self._size : (number + 1) * self._size])

    def __iter__(self) -> Iterator[list[int]]:
        return (self[number] for number in range(len(self)))

    @property
    def _size(self) -> int:
        return self.size or max(len(self.items), 1)

    def find(self, items: Sequence[int]) -> list[tuple[int, list[int]]]:
        """The positions of these items: runs of (block, offsets in the block), in the order of `items`."""
        where = {item: spot for spot, item in enumerate(self.items)}
        spots = [where[item] for item in items]
        runs = groupby(spots, key=lambda spot: spot // self._size)
        return [(block, [spot % self._size for spot in run]) for block, run in runs]

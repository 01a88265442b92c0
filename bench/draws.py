"""Randomness as a function: every draw comes from (key, purpose, count), never from a live generator.

So a state needs only a count to continue its draws, a resumed game draws what an uninterrupted one draws, and the draws
of an example do not depend on the other examples of its batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # `seed_of` is also for those who only read, and need no torch
    import torch
    from torch import Tensor


def seed_of(*parts: object) -> int:
    """A 63-bit seed that depends only on the `str` of `parts`."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(*parts: object) -> torch.Generator:
    """A CPU generator seeded with `seed_of(*parts)`. Draw on the CPU and move the result, so that all devices agree."""
    import torch

    return torch.Generator().manual_seed(seed_of(*parts))


class Draws:
    """One generator per example, seeded by (seed, purpose, example index); each draw advances it.

    indices: the N dataset indices of the examples, in the order of the batch that they are drawn for.
    """

    def __init__(self, seed: int, purpose: str, indices: Sequence[int]) -> None:
        self.seed = seed
        self.purpose = purpose
        self.indices = [int(i) for i in indices]
        self._generators: dict[int, torch.Generator] = {}

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, i: int) -> torch.Generator:
        """The generator of the i-th example of the batch."""
        if i not in self._generators:
            self._generators[i] = generator(self.seed, self.purpose, self.indices[i])
        return self._generators[i]

    def uniform(self, shape: Sequence[int], low: float = 0.0, high: float = 1.0) -> Tensor:
        """(N, *shape) float32, uniform in [low, high)."""
        import torch

        rows = [torch.rand(tuple(shape), generator=self[i]) for i in range(len(self))]
        return torch.stack(rows) * (high - low) + low

    def normal(self, shape: Sequence[int]) -> Tensor:
        """(N, *shape) float32, standard normal."""
        import torch

        return torch.stack([torch.randn(tuple(shape), generator=self[i]) for i in range(len(self))])

    def sub(self, purpose: object) -> Draws:
        """New generators of the same examples, for `purpose` (a restart, a round)."""
        return Draws(self.seed, f"{self.purpose}/{purpose}", self.indices)

    def of(self, rows: Sequence[int]) -> Draws:
        """New generators of some examples of the batch, given by their rows in it."""
        return Draws(self.seed, self.purpose, [self.indices[row] for row in rows])

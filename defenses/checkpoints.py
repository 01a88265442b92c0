"""Checkpoints of training: everything that a step changes is stored on the way, and training goes on from there.

Every draw of training is a function of (seed, epoch, step), so weights, buffers, moments and the number of steps are
all that is needed to go on bit for bit.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from bench.cache import dump_tensors
from bench.contracts import Context
from bench.contracts.base import CHECKPOINTS
from defenses.recording import copy_all

#: the largest share of the time that may go into storing checkpoints
STORING_SHARE = 0.02


class Checkpoints:
    """The checkpoint of one training, in the cache under the key of its base.

    tensors: everything that a step changes, in a fixed order; they keep their place in memory.
    """

    def __init__(self, context: Context, tensors: Sequence[Tensor]) -> None:
        self._context = context
        self._tensors = tensors
        self._stored_at = time.monotonic()
        self._store_s = 0.0

    def resume(self) -> int:
        """Restore a stored checkpoint, and return its number of steps; 0 if there is none that fits."""
        stored = self._context.cache.find_tensors(CHECKPOINTS, self._context.base_key)
        steps = stored.pop("steps", None)
        tensors = [stored.get(str(number)) for number in range(len(self._tensors))]
        if steps is None or any(
            theirs is None or theirs.shape != mine.shape or theirs.dtype != mine.dtype
            for mine, theirs in zip(self._tensors, tensors, strict=True)
        ):
            return 0
        copy_all(self._tensors, [theirs for theirs in tensors if theirs is not None])
        return int(steps)

    def passed(self, steps: int) -> None:
        """`steps` steps are done. Stores them when it is time; raises `OutOfTime` once the command has to end."""
        waited, late = time.monotonic() - self._stored_at, self._context.deadline.passed()
        if late or waited >= max(self._context.checkpoint_s, self._store_s / STORING_SHARE):
            self._store(steps)
        if late:
            self._context.deadline.stop()

    def _store(self, steps: int) -> None:
        start = time.monotonic()
        tensors = {str(number): tensor for number, tensor in enumerate(self._tensors)}
        tensors["steps"] = torch.tensor(steps)
        self._context.cache.put(CHECKPOINTS, self._context.base_key, dump_tensors(tensors, {}))
        self._stored_at = time.monotonic()
        self._store_s = self._stored_at - start

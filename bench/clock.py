"""Clocks that wait for the device: a call on a GPU returns before its work is done."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch


def settle(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass
class Taken:
    """Seconds of a block; 0 until it has ended."""

    seconds: float = 0.0


@contextmanager
def timed(device: torch.device) -> Iterator[Taken]:
    """Measure a block: the work it gives to the device is its own, work from before is not."""
    settle(device)
    taken, start = Taken(), time.perf_counter()
    yield taken
    settle(device)
    taken.seconds = time.perf_counter() - start

"""What a check says: it holds, or what was seen instead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Result:
    """One check: its name, whether it holds, and what was seen."""

    name: str
    passed: bool
    message: str


class Violated(Exception):
    """A check does not hold; the message says what was observed."""


Check = Callable[..., str]


def demand(holds: bool, message: str) -> None:
    """Raise `Violated` unless the condition holds."""
    if not holds:
        raise Violated(message)


def under_global_seed(seed: int, call: Callable[[], Tensor]) -> tuple[Tensor, bool]:
    """What a call gives with the global generators seeded, and whether it moved torch's; both are restored."""
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()
    try:
        torch.manual_seed(seed)
        np.random.seed(seed)
        found = call()
        moved = not torch.equal(torch.get_rng_state(), torch.Generator().manual_seed(seed).get_state())
    finally:
        torch.set_rng_state(torch_state)
        np.random.set_state(numpy_state)
    return found, moved

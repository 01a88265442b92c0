"""Images that an attack proposed in one call, with what it spent and what it believed. The judge comes later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
from torch import Tensor

from bench.clock import timed
from bench.contracts import Attack
from bench.contracts.oracle import margins
from bench.draws import Draws
from bench.game.judge import as_images
from bench.game.oracle import GameOracle
from bench.norms import ball_of
from bench.planning.spec import RunSpec


@dataclass(frozen=True)
class Crafted:
    """Proposed images of a block with what they cost, one entry per example.

    images (N, C, H, W) float32; the counts (N,) int64; seconds (N,) float64; believed and fooled_inside (N,) int8 with
    -1 where the attacker had no network. answered (N,) int64: the label with which a defense that refuses inputs
    answered the image when it was served as a query, which then is the answer that counts: an attacker who has a wrong
    answer need not ask again. `UNANSWERED` where it was not; None where no query is served.
    """

    images: Tensor
    forwards: Tensor
    backwards: Tensor
    queries: Tensor
    simulated: Tensor
    seconds: Tensor
    believed: Tensor
    fooled_inside: Tensor
    answered: Tensor | None = None

    def tensors(self) -> dict[str, Tensor]:
        held = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: tensor for name, tensor in held.items() if tensor is not None}

    def rows(self, rows: Sequence[int]) -> Crafted:
        return Crafted(**{name: tensor[list(rows)] for name, tensor in self.tensors().items()})

    def counts(self, row: int) -> dict[str, Any]:
        """What one proposal cost and what its attacker believes, by the names of a `Row`."""
        return {
            **{name: int(getattr(self, name)[row]) for name in ("forwards", "backwards", "queries", "simulated")},
            **{name: _known(getattr(self, name)[row]) for name in ("believed", "fooled_inside")},
            "attack_s": float(self.seconds[row]),
        }

    @staticmethod
    def untouched(x: Tensor) -> Crafted:
        """The images x (N, C, H, W) as they are, which no attack has seen."""
        nothing, unknown = torch.zeros(len(x), dtype=torch.int64), torch.full((len(x),), -1, dtype=torch.int8)
        return Crafted(x, nothing, nothing, nothing, nothing, nothing.double(), unknown, unknown)

    @staticmethod
    def join(parts: Sequence[Crafted]) -> Crafted:
        return Crafted(**{name: torch.cat([part.tensors()[name] for part in parts]) for name in parts[0].tensors()})


def _known(value: Tensor) -> bool | None:
    return None if int(value) < 0 else bool(value)


class Crafts(Protocol):
    """The source of the proposed images of a game."""

    def at(self, places: list[int]) -> Crafted:
        """Images for the points at these places of the seeded order."""


def craft(attack: Attack, oracle: GameOracle, x: Tensor, y: Tensor, spec: RunSpec, indices: Sequence[int]) -> Crafted:
    """Let the attack propose images for x (N, C, H, W) with labels y (N,), and measure what it spends."""
    oracle.begin(x, y, indices)
    draws = Draws(spec.seed, "attack", indices)
    with timed(x.device) as taken:
        proposed = attack.perturb(oracle, x.clone(), y.clone(), draws)
    seconds = taken.seconds - oracle.ledger.recording_s
    images = as_images(x, proposed)
    count = len(x)
    believed, inside = (torch.full((count,), -1, dtype=torch.int8) for _ in range(2))
    if oracle.granted is not None:
        with torch.no_grad():
            believed = (margins(oracle.granted(images), y) < 0).to(torch.int8).cpu()
        threat = spec.threat
        inside = oracle.trace.fooled_inside(count, threat.eps, ball_of(threat.norm).slack).to(torch.int8)
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
        oracle.answered(images),
    )


def _shared_out(total: int, count: int) -> Tensor:
    """A cost of the whole call, shared out to its examples: (count,) int64 that sums to total."""
    shares = torch.full((count,), total // count, dtype=torch.int64)
    shares[: total % count] += 1
    return shares

"""What the pages show, as plain values: runs, standings and audits. Whoever draws them asks no store."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, get_args

from bench.threat import Tier

#: the tiers, weakest knowledge first
TIERS: tuple[str, ...] = get_args(Tier)


@dataclass(frozen=True)
class Share:
    """A share in percent with its 95 % interval, and where that comes from."""

    value: float
    low: float
    high: float
    method: str


@dataclass(frozen=True)
class Entry:
    """What is attacked: a defense on a base, fitted to a dataset, for one seed.

    variant   the parameters in which it differs from other entries of the same names, in words; "" where none
    """

    key: str
    defense: str
    base: str
    dataset: str
    seed: int
    variant: str = ""

    @property
    def label(self) -> str:
        """Short, for axes and legends."""
        on = "" if self.defense == self.base else f" on {self.base}"
        return f"{self.defense}{on}{f' ({self.variant})' if self.variant else ''}"


@dataclass(frozen=True)
class RunLine:
    """One run. `ranked` is False where a flag says that its number must not be compared.

    coordinates   what curves and surfaces run over, where it applies: eps, p, delay, known, delta
    family        equal for runs that differ in their coordinates alone
    spent         by example: passes and queries of the attack, seconds of it
    times_base    an answer's time in answers of the base alone, where both were measured
    """

    run: str
    status: str
    reason: str
    entry: Entry
    attack: str
    norm: str
    eps: float
    tier: str
    threat: str
    threat_tag: str
    protocol: str
    n: int
    clean: Share | None
    robust: Share | None
    answer_s: float | None
    seconds: float
    flags: tuple[tuple[str, str], ...]
    ranked: bool
    coordinates: dict[str, float] = field(default_factory=dict)
    family: str = ""
    spent: dict[str, float] = field(default_factory=dict)
    times_base: float | None = None

    @property
    def board(self) -> tuple[str, str, float]:
        """What must be equal for numbers to stand beside each other: dataset, norm and radius."""
        return self.entry.dataset, self.norm, self.eps


@dataclass(frozen=True)
class Standing:
    """An entry on one board in one tier: its worst case over the attacks of the tier.

    attacks   which entered the worst case; breakers: which of them broke how much, in words
    why       why it is not ranked; "" where it is
    rank      from 1; None where it is not ranked
    front     no entry of the board and tier is at once as robust and as fast, in answers of the base
    """

    entry: Entry
    board: tuple[str, str, float]
    tier: str
    robust: Share | None
    clean: Share | None
    n: int
    attacks: tuple[str, ...]
    breakers: str
    answer_s: float | None
    times_base: float | None
    flags: tuple[tuple[str, str], ...]
    why: str = ""
    rank: int | None = None
    front: bool = False


@dataclass(frozen=True)
class AuditLine:
    """One audit. tiers: worst case by what the attacker knows, and in words which attacks broke it.

    variant, dataset: as of the entry that was attacked
    """

    defense: str
    variant: str
    base: str
    dataset: str
    norm: str
    eps: float
    budget: str
    n: int
    clean: float | None
    tiers: tuple[tuple[Share | None, str], ...]
    gain: Share | None
    times: float | None
    flags: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Book:
    """All that the store has to show."""

    runs: list[RunLine] = field(default_factory=list)
    standings: list[Standing] = field(default_factory=list)
    audits: list[AuditLine] = field(default_factory=list)


def share(estimate: dict[str, Any] | None) -> Share | None:
    """A share in percent from one as `bench.analysis.describe` describes it."""
    if estimate is None:
        return None
    return Share(100 * estimate["value"], 100 * estimate["low"], 100 * estimate["high"], estimate["method"])


def budget(norm: str, eps: float) -> str:
    """Norm and radius in words, in as few digits as tell it from any other."""
    levels = round(255 * eps)
    if float(f"{eps:.4g}") != eps and levels / 255 == eps:
        return f"{norm} {levels}/255"
    digits = next((count for count in range(4, 17) if float(f"{eps:.{count}g}") == eps), 17)
    return f"{norm} {eps:.{digits}g}"

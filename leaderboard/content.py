"""What the pages show, as plain values: runs, standings and audits. Code that draws these reads no database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, get_args

from bench.threat import Tier

#: the tiers, the one with the least knowledge first
TIERS: tuple[str, ...] = get_args(Tier)


#: with fewer examples a figure is of a small sample: the interval of a half is then wider than 19 points
SMALL = 100


class Level(NamedTuple):
    """A tier in words: a name for it, and what its attacker has."""

    name: str
    words: str


#: the tiers as readers see them
LEVELS = {
    "gray-black-box": Level(
        "No weights", "The attacker sees the defense's answers only, or attacks a network of its own."
    ),
    "train-time": Level(
        "Trained weights", "It has the network as it was trained, not what the defense has learnt while it served."
    ),
    "aware-realistic": Level(
        "Adapted weights, late",
        "It has the defense as it was some inputs ago, or a copy that saw a part of the stream.",
    ),
    "aware-full": Level(
        "Adapted weights, now", "It has the defense as it is when it answers, or a copy that saw all that it sends."
    ),
}


def level_name(tier: str) -> str:
    """The name of a tier for readers; the text itself where it is none."""
    return LEVELS[tier].name if tier in LEVELS else tier


@dataclass(frozen=True)
class Share:
    """A share in percent with its 95 % interval. method: how the interval was computed."""

    value: float
    low: float
    high: float
    method: str


class Board(NamedTuple):
    """Two figures may be compared only if these three are equal."""

    dataset: str
    norm: str
    eps: float

    @property
    def radius(self) -> str:
        """Norm and radius in words."""
        return radius_in_words(self.norm, self.eps)

    @property
    def name(self) -> str:
        """The whole board in words."""
        return f"{self.dataset}, {self.radius}"


@dataclass(frozen=True)
class Entry:
    """What is attacked: a defense on a base, fitted to a dataset, for one seed.

    variant   the parameters in which it differs from other entries with the same names, in words; "" if there are none
    network   the name of its architecture; extra_data: `none`, or `unknown` where the weights were trained elsewhere
    """

    key: str
    defense: str
    base: str
    dataset: str
    seed: int
    variant: str = ""
    network: str = ""
    extra_data: str = "unknown"

    @property
    def label(self) -> str:
        """A short name, for axes and legends."""
        on = "" if self.defense == self.base else f" on {self.base}"
        return f"{self.defense}{on}{f' ({self.variant})' if self.variant else ''}"


@dataclass(frozen=True)
class RunSummary:
    """One run. `ranked` is False if a flag says that its figure must not be compared with others.

    coordinates   the values that curves and surfaces run over, if they apply to the run: eps, p, delay, known, delta
    family        equal for runs that differ in their coordinates only
    spent         what the attack spent on one example, on average: passes, queries, seconds
    times_base    the time of one answer divided by that of the base on the same machine; None if one was not measured
    page          where the page of the run lies in the site; "" if it has none
    refused       of a defense that may refuse: the share of clean images that it refuses; detected: of attacked ones
    published     the figure that a suite's table gives for such a run, in percent, and its source; None if none does
    lost          of other users' inputs, the share that the attacker's inputs among them cost; None where it sent none
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
    page: str = ""
    refused: Share | None = None
    detected: Share | None = None
    lost: Share | None = None
    published: tuple[float, str] | None = None

    @property
    def board(self) -> Board:
        """The board on which the run stands."""
        return Board(self.entry.dataset, self.norm, self.eps)

    @property
    def attacked(self) -> bool:
        """False for a run that only measures clean accuracy."""
        return self.attack != "clean"


@dataclass(frozen=True)
class Standing:
    """An entry on one board in one tier.

    robust    the worst case over the battery of the tier, by which the ranking is made; of an entry that has not met
              all of it, over the attacks of the tier that it met
    worst     the worst case over all attacks that were played, in the tier and those it includes
    attacks   the attacks in that worst case; breakers: which of them broke how much, in words
    why       why it is not compared with others; "" if it is
    missing   the attacks of the battery that it has not met; command: plays them, "" if there is none
    rank      from 1; None if it is not compared, or if there is nothing to compare it with
    refused   share of clean images that the defense refuses; None if it never refuses
    front     it is on the Pareto front: no entry of the board and tier is as robust and as fast, and better in one
    audit     the budget of its audit; "" if it was not audited
    spent     what the attacks of the battery spent on one example together: forwards, backwards, queries
    published the run of the tier with the lowest published figure; None if no paper gives one
    doubts    reasons not to believe `robust`, each with a name and in words
    """

    entry: Entry
    board: Board
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
    refused: Share | None = None
    worst: Share | None = None
    missing: tuple[str, ...] = ()
    command: str = ""
    audit: str = ""
    spent: Mapping[str, float] = field(default_factory=dict, hash=False)
    doubts: tuple[tuple[str, str], ...] = ()
    published: RunSummary | None = None

    @property
    def trust(self) -> str:
        """Whether the figure is to be believed, in a few words."""
        if self.doubts:
            return "not to be believed"
        return f"no doubt found ({self.audit} audit)" if self.audit else "not audited"


@dataclass(frozen=True)
class AttackStanding:
    """An attack on one board, against all entries that it met there.

    breakable  the examples that it and another attack saw and that some attack broke; each counts once for each entry
    alone      the share of them, in percent, that it broke; beyond: that it alone broke; None if nothing fell
    spent      on one example, on average: forwards, backwards, queries, seconds
    rank       from 1; None if there is nothing to compare it with
    """

    attack: str
    tier: str
    board: Board
    defenses: int
    breakable: int
    alone: float | None
    beyond: float | None
    spent: Mapping[str, float]
    rank: int | None = None

    @property
    def work(self) -> float:
        """Passes and queries on one example."""
        return sum(self.spent.get(name, 0.0) for name in ("forwards", "backwards", "queries"))


@dataclass(frozen=True)
class AuditSummary:
    """One audit. variant and dataset are those of the attacked entry.

    entry   the key of that entry; "" if no run of it is there
    tiers   for each tier, in the order of `TIERS`: the worst case, and in words which attacks broke the defense
    gain    robust accuracy of the defense minus that of its base; times: cost of an answer divided by the base's
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
    entry: str = ""

    @property
    def board(self) -> Board:
        """The board on which the audited entry stands."""
        return Board(self.dataset, self.norm, self.eps)


@dataclass(frozen=True)
class Example:
    """One attacked example of a run, as the table of its page shows it.

    outcome   broken, survived or violation
    resent    the answers to the image, and resent_clean: to the clean image; () where it is sent once
    """

    index: int
    game: int
    position: int
    label: int
    clean: int | None
    answer: int
    outcome: str
    distance: float | None
    queries: int
    passes: int
    violation: str = ""
    resent: tuple[int, ...] = ()
    resent_clean: tuple[int, ...] = ()


@dataclass(frozen=True)
class Leaderboard:
    """Everything that a database has to show. battery: by tier, the attacks that its ranking is over."""

    runs: list[RunSummary] = field(default_factory=list)
    standings: list[Standing] = field(default_factory=list)
    audits: list[AuditSummary] = field(default_factory=list)
    battery: Mapping[str, Sequence[str]] = field(default_factory=dict)
    attacks: list[AttackStanding] = field(default_factory=list)


def outcome_of_example(right: bool, violation: str) -> str:
    """The outcome in one word. right: whether the answer counts as right; violation: how the image broke the rules."""
    return "violation" if violation else "survived" if right else "broken"


def share(estimate: dict[str, Any] | None) -> Share | None:
    """A share in percent, from an estimate in the form of `bench.analysis.describe`."""
    if estimate is None:
        return None
    return Share(100 * estimate["value"], 100 * estimate["low"], 100 * estimate["high"], estimate["method"])


def sample_in_words(n: int) -> str:
    """The number of examples in words; "" for none."""
    return "" if not n else f"n {n}" if n >= SMALL else f"n {n}, small sample"


def radius_in_words(norm: str, eps: float) -> str:
    """Norm and radius in words, with as few digits as identify the radius."""
    levels = round(255 * eps)
    if float(f"{eps:.4g}") != eps and levels / 255 == eps:
        return f"{norm} {levels}/255"
    digits = next((count for count in range(4, 17) if float(f"{eps:.{count}g}") == eps), 17)
    return f"{norm} {eps:.{digits}g}"

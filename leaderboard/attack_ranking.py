"""The ranking of attacks on a board: who breaks most, at what cost, alone and beyond the others.

Attacks meet different defenses, so shares of all examples are not comparable. Each attack is held against what is known
to fall: of the examples that it saw and that some attack broke, the share that it broke (`alone`), and the share that
nothing else broke (`beyond`). Only examples that another attack saw too count, each once for each entry. A run on the
examples that others left does not count, since its sample is biased; nor does one that knows the draws of the defense,
cheats, or attacks nobody.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from leaderboard.content import AttackStanding, Board
from leaderboard.ranking import AnsweredRun

#: board, attack and tier
Key = tuple[Board, str, str]
#: what an attack may spend, as in `RunSummary.spent`
SPENT = ("forwards", "backwards", "queries", "seconds")


@dataclass
class Tally:
    """What was counted of an attack: examples that it and others saw and some broke, those it broke, and it alone."""

    defenses: int = 0
    breakable: int = 0
    broke: int = 0
    only: int = 0
    examples: int = 0
    spent: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SPENT, 0.0))


def count(runs: Iterable[AnsweredRun], tallies: dict[Key, Tally]) -> None:
    """Add the runs of one entry to the tallies."""
    by_attack: dict[Key, list[AnsweredRun]] = defaultdict(list)
    for run in runs:
        one = run.summary
        if one.attacked and one.ranked and run.right:
            by_attack[one.board, one.attack, one.tier].append(run)
    seen = {key: {index for run in played for index in run.right} for key, played in by_attack.items()}
    broken = {key: {i for run in played for i, right in run.right.items() if not right}
              for key, played in by_attack.items()}  # fmt: skip
    for key, played in by_attack.items():
        others = [other for other in by_attack if other[0] == key[0] and other != key]
        met = seen[key] & set().union(*(seen[other] for other in others))
        fallen = set().union(*(broken[other] for other in others))
        tally = tallies.setdefault(key, Tally())
        tally.defenses += 1
        tally.breakable += len(met & (fallen | broken[key]))
        tally.broke += len(met & broken[key])
        tally.only += len(met & (broken[key] - fallen))
        for run in played:
            tally.examples += len(run.right)
            for name in SPENT:
                tally.spent[name] += len(run.right) * run.summary.spent.get(name, 0.0)


def attacks_of(tallies: Mapping[Key, Tally]) -> list[AttackStanding]:
    """The attacks with their ranks, the strongest of each board first; of equals the one that spends less."""
    boards: dict[Board, list[AttackStanding]] = defaultdict(list)
    for (board, attack, tier), tally in tallies.items():
        boards[board].append(_standing(board, attack, tier, tally))
    return [one for board in sorted(boards) for one in _with_ranks(boards[board])]


def _standing(board: Board, attack: str, tier: str, tally: Tally) -> AttackStanding:
    def part(number: int) -> float | None:
        return 100 * number / tally.breakable if tally.breakable else None

    spent = {name: value / tally.examples for name, value in tally.spent.items()}
    return AttackStanding(
        attack, tier, board, tally.defenses, tally.breakable, part(tally.broke), part(tally.only), spent
    )


def _with_ranks(attacks: Sequence[AttackStanding]) -> list[AttackStanding]:
    """Equal shares share a rank; where there is one attack, or nothing fell, there is no rank."""
    ordered = sorted(attacks, key=lambda one: (one.alone is None, -(one.alone or 0.0), one.work, one.attack, one.tier))
    shares = [one.alone for one in ordered if one.alone is not None]
    if len(shares) < 2:
        return ordered
    return [one if one.alone is None else replace(one, rank=1 + shares.index(one.alone)) for one in ordered]

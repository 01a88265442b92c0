"""What other users lose by the attacker's inputs among theirs: how much, and after how many of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.analysis.metrics import Sharing
from bench.analysis.pairs import Difference, paired, paired_repeated
from bench.rows import Row
from bench.store import RunRecord

#: points of the picture, at most: the judged inputs are divided into so many parts, in the order of their answers
PARTS = 20


@dataclass(frozen=True)
class Moment:
    """The judged inputs of one part of a game, in their order. Shares are in [0, 1].

    served      inputs of anybody that were served before the last of them, or with it; sent: those of the attacker
    instant     share of the part that is lost: right in the clean run, wrong in this one, less those won
    cumulative  the same over all judged inputs up to here
    """

    served: int
    sent: int
    instant: float
    cumulative: float


@dataclass(frozen=True)
class Harm:
    """What the judged inputs lose against the same run with clean inputs of the attacker.

    lost     the difference, in favour of the clean run, with its 95 % interval
    moments  over the time of a game; games are averaged
    """

    lost: Difference
    moments: list[Moment]


def harm_of(record: RunRecord, rows: Sequence[Row], clean: Mapping[tuple[int, int], int]) -> Harm | None:
    """What other users lost in a run by the attacker's inputs; None for a `clean` run too.

    rows and clean: as for `harm`.
    """
    return None if record.spec["attack"]["name"] == "clean" else harm(rows, clean, Sharing.of(record.spec))


def harm(rows: Sequence[Row], clean: Mapping[tuple[int, int], int], sharing: Sharing) -> Harm | None:
    """From all rows of a run, the attacker's included. None where the attacker sent none, or the clean run lacks rows.

    clean: answers of the clean run, by (game, index).
    """
    judged = [row for row in rows if not row.poison]
    if len(judged) == len(rows) or any((row.game, row.index) not in clean for row in judged):
        return None
    attacked = [row.answer == row.label for row in judged]
    before = [clean[row.game, row.index] == row.label for row in judged]
    games = [row.game for row in judged]
    if len(set(games)) > 1:
        lost = paired_repeated(attacked, before, games, [row.index for row in judged])
    else:
        lost = paired(attacked, before, given=sharing.shared)
    return Harm(lost, _moments(rows, clean))


def _moments(rows: Sequence[Row], clean: Mapping[tuple[int, int], int]) -> list[Moment]:
    losses: dict[int, list[int]] = defaultdict(list)  # by the place among the judged inputs of a game
    sent: dict[int, int] = {}
    seen: dict[int, int] = defaultdict(int)
    for row in sorted(rows, key=lambda row: (row.game, row.position)):
        if row.poison:
            seen[row.game] += 1
            continue
        place = row.position - seen[row.game]
        sent[place] = max(sent.get(place, 0), seen[row.game])
        losses[place].append((clean[row.game, row.index] == row.label) - (row.answer == row.label))
    ordered = [sum(losses[place]) / len(losses[place]) for place in sorted(losses)]
    size = max(1, -(-len(ordered) // PARTS))
    return [
        Moment(
            last + sent[last - 1], sent[last - 1], sum(ordered[start:last]) / (last - start), sum(ordered[:last]) / last
        )
        for start in range(0, len(ordered), size)
        for last in (min(start + size, len(ordered)),)
    ]

"""A run as outcomes of its examples, one for each, for worst cases over several runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bench.analysis.compare import outcome_of
from bench.analysis.metrics import Sharing
from bench.store import RunRecord, Store


@dataclass(frozen=True)
class Answered:
    """The outcomes of a run.

    right   whether each example was answered right, by its index in the dataset; game: in which game
    shared  what the examples of a single game share (`bench.analysis.metrics.Sharing`)
    """

    right: Mapping[int, bool]
    game: Mapping[int, int]
    shared: str


def answered(store: Store, record: RunRecord) -> Answered:
    """The outcomes of a finished run; none of another.

    An example that is in several games counts with its first one. Where some example has no outcome there are none:
    the others would be a biased sample.
    """
    right: dict[int, bool] = {}
    games: dict[int, int] = {}
    if record.status == "DONE":
        rows = store.rows(record.key)
        outcomes = outcome_of(store, record, rows)
        if len(outcomes) == len(rows):
            for (game, index), ok in outcomes.items():
                if index not in right:
                    right[index], games[index] = ok, game
    return Answered(right, games, Sharing.of(record.spec).shared)

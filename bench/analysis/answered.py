"""A run as outcomes of its examples, one for each, for worst cases over several runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.analysis.metrics import Sharing
from bench.rows import Row
from bench.store import RunRecord


@dataclass(frozen=True)
class Answered:
    """The outcomes of a run.

    right   whether each example was answered right, by its index in the dataset; game: in which game
    shared  what the examples of a single game share (`bench.analysis.metrics.Sharing`)
    """

    right: Mapping[int, bool]
    game: Mapping[int, int]
    shared: str

    @staticmethod
    def of(record: RunRecord, rows: Sequence[Row], outcomes: Mapping[tuple[int, int], bool]) -> Answered:
        """From the judged rows of a run and their outcomes by (game, index).

        An example that is in several games counts with its first one. Where some example has no outcome there are none:
        the others would be a biased sample. A run that is not DONE has none.
        """
        right: dict[int, bool] = {}
        games: dict[int, int] = {}
        if record.status == "DONE" and len(outcomes) == len(rows):
            for (game, index), ok in outcomes.items():
                if index not in right:
                    right[index], games[index] = ok, game
        return Answered(right, games, Sharing.of(record.spec).shared)

    def to_json(self) -> dict[str, Any]:
        """The outcomes as they are stored: see `bench.analysis.forms.OutcomesForm`."""
        right = "".join("1" if ok else "0" for ok in self.right.values())
        return {"index": list(self.right), "game": list(self.game.values()), "right": right, "shared": self.shared}

    @staticmethod
    def from_json(stored: Mapping[str, Any]) -> Answered:
        """Outcomes of that form."""
        index, game, right = stored["index"], stored["game"], (ok == "1" for ok in stored["right"])
        return Answered(dict(zip(index, right, strict=True)), dict(zip(index, game, strict=True)), stored["shared"])

"""Summaries of runs as they are stored, and the marks of what they are computed from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import ColumnElement, Float, Integer, Select, Text, bindparam, case, cast, delete, func, insert, select
from sqlalchemy.orm import Session

from bench.store.schema import hasty
from bench.store.tables import ExampleRow, GameRow, RunRow, SummaryRow


@dataclass(frozen=True)
class StoredSummary:
    """A line of the table. figures and outcomes are what stands there, of any form; outcomes is None if not read."""

    run: str
    stamp: str
    figures: Any
    outcomes: Any = None


def put_summaries(session: Session, summaries: Iterable[StoredSummary]) -> None:
    """Store these in place of older ones, those whose run is there; without waiting long for other writers."""
    lines = {one.run: asdict(one) for one in summaries}
    with hasty(session.connection()):
        session.execute(delete(SummaryRow).where(SummaryRow.run.in_(lines)))
        there = session.scalars(select(RunRow.key).where(RunRow.key.in_(lines))).all()
        if there:
            session.execute(insert(SummaryRow), [lines[key] for key in there])


def drop_summary(session: Session, run: str) -> None:
    """Delete the summary of a run."""
    session.execute(delete(SummaryRow).where(SummaryRow.run == run))


def stored_summaries(session: Session, keys: Sequence[str], outcomes: bool) -> dict[str, StoredSummary]:
    """The stored summaries of some runs, by key; outcomes: with those."""
    wanted = select(SummaryRow.run, SummaryRow.stamp, SummaryRow.figures)
    wanted = wanted.add_columns(SummaryRow.outcomes) if outcomes else wanted
    return {line[0]: StoredSummary(*line) for line in session.execute(wanted.where(SummaryRow.run.in_(keys)))}


def marks(session: Session, keys: Sequence[str]) -> dict[str, list[Any]]:
    """What tells the state of a run from others, by key: columns of its line, and sums over its rows and its games.

    The database computes the sums, which takes a tenth of the time of reading the rows. Another answer, label, count or
    time changes one of them, and so does a text of another length; a text of the same length does not. Runs that are
    not there are left out.
    """
    own = select(RunRow.key, RunRow.status, RunRow.reason, RunRow.finished, RunRow.clean_key, RunRow.origin)
    found = {line[0]: list(line[1:]) for line in session.execute(own.where(RunRow.key.in_(keys)))}
    for summed in (_ROWS, _GAMES):
        sums = {line[0]: list(line[1:]) for line in session.execute(summed, {"runs": list(found)})}
        for key, mark in found.items():
            mark.append(sums.get(key))
    return found


#: the columns of a row that some figure depends on, by what they hold
_NUMBERS = ("index", "label", "answer", "clean_answer", "forwards", "backwards", "queries", "simulated",
            "adaptation_steps")  # fmt: skip
_TEXTS = ("violation", "distances", "resent")


def _summed(values: Any, weight: Any = 1) -> ColumnElement[Any]:
    """A sum of whole numbers as floats: exact and the same in any order up to 2^53, and never an overflow beyond."""
    return func.sum(cast(values, Float(53)) * weight)


def _length(column: Any) -> ColumnElement[Any]:
    return func.length(cast(column, Text))


def _microseconds(column: Any) -> ColumnElement[Any]:
    return func.round(column * 1e6)


def _of_rows() -> Select[Any]:
    row = ExampleRow
    place = row.position + 1 + 7919 * row.game  # a prime, so that few places have the same weight
    sums = [_summed(getattr(row, name), place) for name in _NUMBERS]
    sums += [_summed(_length(getattr(row, name)), place) for name in _TEXTS]
    sums += [_summed(_microseconds(seconds)) for seconds in (row.attack_s, row.defense_s)]
    sums += [
        _summed(cast(row.poison, Integer), place),
        _summed(case((row.x_sha256 != row.adv_sha256, 1), else_=0), place),
    ]
    return select(row.run, func.count(), func.count(row.clean_answer), *sums)


def _of_games() -> Select[Any]:
    game = GameRow
    place = game.game + 1
    sums = [_summed(column, place) for column in (game.rows, game.background_steps)]
    sums += [_summed(_microseconds(seconds), place) for seconds in (game.attack_s, game.defense_s, game.wall_s)]
    sums += [_summed(_length(text), place) for text in (game.background_delays, game.flags)]
    return select(game.run, func.count(), *sums)


def _by_run(summed: Select[Any], run: Any) -> Select[Any]:
    return summed.where(run.in_(bindparam("runs", expanding=True))).group_by(run)


_ROWS, _GAMES = _by_run(_of_rows(), ExampleRow.run), _by_run(_of_games(), GameRow.run)

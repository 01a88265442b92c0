"""The games of a run: how far each has come, the state from which it resumes, and its seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from bench.rows import Meter, Resume
from bench.store.tables import GameRow


@dataclass(frozen=True)
class GameRecord:
    """How far a game has come, and its seconds."""

    game: int
    rows: int
    served: int
    digest: str
    done: bool
    attack_s: float
    defense_s: float
    wall_s: float
    background_answers: int
    background_steps: int
    background_s: float
    background_delays: list[float] | None
    flags: dict[str, str]

    @property
    def resume(self) -> Resume:
        return Resume(self.rows, self.served, self.digest)


def advance(session: Session, run: str, game: int, resume: Resume, meter: Meter, wall_s: float) -> None:
    """Note where a game resumes after a chunk, and add the seconds of the chunk: once, if it is noted twice."""
    row = _game(session, run, game)
    if row.rows and (row.rows, row.served, row.digest) == (resume.rows, resume.served, resume.digest):
        return
    row.rows, row.served, row.digest = resume.rows, resume.served, resume.digest
    _add_seconds(row, meter, wall_s)


def end(session: Session, run: str, game: int, meter: Meter, wall_s: float) -> None:
    """Mark a game as done, and add the seconds since its last chunk: once, if it is marked twice."""
    row = _game(session, run, game)
    if row.done:
        return
    row.done = True
    _add_seconds(row, meter, wall_s)


def delete_games(session: Session, run: str) -> None:
    """Delete the progress of all games of a run."""
    session.execute(delete(GameRow).where(GameRow.run == run))


def games_by_run(session: Session, keys: Sequence[str]) -> dict[str, list[GameRecord]]:
    """The games of some runs that have rows or seconds, by number."""
    names = [field.name for field in fields(GameRecord)]
    found: dict[str, list[GameRecord]] = {key: [] for key in keys}
    columns = select(GameRow.run, *(getattr(GameRow, name) for name in names))
    for run, *values in session.execute(columns.where(GameRow.run.in_(found)).order_by(GameRow.run, GameRow.game)):
        found[run].append(GameRecord(**dict(zip(names, values, strict=True))))
    return found


def _game(session: Session, run: str, game: int) -> GameRow:
    """The line of a game in its table, added where it is missing."""
    row = session.get(GameRow, (run, game))
    if row is None:
        row = GameRow(
            run=run, game=game, rows=0, served=0, digest="", done=False, attack_s=0.0, defense_s=0.0, wall_s=0.0,
            background_answers=0, background_steps=0, background_s=0.0, flags={},
        )  # fmt: skip
        session.add(row)
    return row


def _add_seconds(row: GameRow, meter: Meter, wall_s: float) -> None:
    row.attack_s += meter.attack_s
    row.defense_s += meter.defense_s
    row.wall_s += wall_s
    if meter.background.answers:
        row.background_answers = meter.background.answers
        row.background_steps = meter.background.steps
        row.background_s = meter.background.seconds
        row.background_delays = list(meter.background.delays)
    row.flags = {**row.flags, **meter.flags}

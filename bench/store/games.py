"""The games of a run: how far each has come, the state from which it resumes, and its seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, select, update
from sqlalchemy.orm import Session

from bench.rows import Meter, Resume
from bench.store.tables import GAMES, GameRow

#: what a game that has no line yet has spent
_NOTHING: dict[str, Any] = {"attack_s": 0.0, "defense_s": 0.0, "wall_s": 0.0, "flags": {}}
_THIS = (GAMES.c.run == bindparam("of"), GAMES.c.game == bindparam("number"))
_LINE, _MOVE = select(GAMES).where(*_THIS), update(GAMES).where(*_THIS)


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


def advance(connection: Connection, run: str, game: int, resume: Resume, meter: Meter, wall_s: float) -> None:
    """Note where a game resumes after a chunk, and add the seconds of the chunk: once, if it is noted twice."""
    known = _known(connection, run, game)
    if known is not None and known.rows and (known.rows, known.served, known.digest) == _place(resume):
        return
    rows, served, digest = _place(resume)
    _put(connection, run, game, known, meter, wall_s, {"rows": rows, "served": served, "digest": digest})


def end(connection: Connection, run: str, game: int, meter: Meter, wall_s: float) -> None:
    """Mark a game as done, and add the seconds since its last chunk: once, if it is marked twice."""
    known = _known(connection, run, game)
    if known is not None and known.done:
        return
    _put(connection, run, game, known, meter, wall_s, {"done": True})


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


def _place(resume: Resume) -> tuple[int, int, str]:
    return resume.rows, resume.served, resume.digest


def _known(connection: Connection, run: str, game: int) -> Any:
    """The line of a game in its table; None where it is missing."""
    return connection.execute(_LINE, {"of": run, "number": game}).first()


def _put(
    connection: Connection, run: str, game: int, known: Any, meter: Meter, wall_s: float, values: dict[str, Any]
) -> None:
    """Write these columns of a game and add its seconds. known: its line, None: it is added."""
    old = _NOTHING if known is None else known._mapping
    values = {
        **values,
        "attack_s": old["attack_s"] + meter.attack_s,
        "defense_s": old["defense_s"] + meter.defense_s,
        "wall_s": old["wall_s"] + wall_s,
    }
    if meter.background.answers:
        values |= {
            "background_answers": meter.background.answers,
            "background_steps": meter.background.steps,
            "background_s": meter.background.seconds,
            "background_delays": list(meter.background.delays),
        }
    if meter.flags:
        values["flags"] = {**old["flags"], **meter.flags}
    if known is None:
        connection.execute(insert(GAMES), {"run": run, "game": game, **values})
    else:
        connection.execute(_MOVE, {"of": run, "number": game, **values})

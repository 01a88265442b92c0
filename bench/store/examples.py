"""The rows of a run, one per example, and the files that hold the images of their chunks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import fields
from itertools import chain, groupby
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, Select, Text, bindparam, cast, delete, func, insert, select
from sqlalchemy.orm import Session

from bench.errors import DamagedRun, one_line
from bench.rows import Row
from bench.store.schema import Unreadable, read_all
from bench.store.tables import EXAMPLES, IMAGES, ExampleRow, ImageRow

#: the columns of a row; `to_columns` and `rows_of` convert the values of some
COLUMNS = tuple(field.name for field in fields(Row))
#: those of them that are JSON
JSON_COLUMNS = ("distances", "neighbours", "resent")
#: of both tables: the lines of a game from a position on, and a new line
_CLEAR = [
    delete(table).where(
        table.c.run == bindparam("of"), table.c.game == bindparam("number"), table.c[start] >= bindparam("first")
    )
    for table, start in ((EXAMPLES, "position"), (IMAGES, "start"))
]
_ADD, _ADD_FILE = insert(EXAMPLES), insert(IMAGES)


def to_columns(row: Row) -> dict[str, Any]:
    """The columns of a row. A distance that is not finite becomes null: JSON has no NaN."""
    distances = {norm: value if math.isfinite(value) else None for norm, value in row.distances.items()}
    return {**vars(row), "distances": distances}


def rows_of(names: Sequence[str], lines: Iterable[Sequence[Any]]) -> list[Row]:
    """The rows of lines of the table, each the values of these columns; `DamagedRun` where one of them is damaged.

    Columns that are not among the names keep their defaults; distances, which have none, are empty then.
    """
    objects = [names.index(name) for name in JSON_COLUMNS if name in names]
    measured = names.index("distances") if "distances" in names else None
    named = names if measured is not None else (*names, "distances")
    rows = []
    for line in lines:
        values = [*line] if measured is not None else [*line, {}]
        for at in objects:
            if isinstance(values[at], Unreadable):
                place = f"{values[names.index('position')]} of game {values[names.index('game')]}"
                raise DamagedRun(f"The row at position {place} cannot be read: it is damaged in the database.")
        if measured is not None:
            far = values[measured]
            values[measured] = {norm: math.nan if value is None else value for norm, value in far.items()}
        rows.append(Row(**dict(zip(named, values, strict=True))))
    return rows


def put_chunk(connection: Connection, run: str, rows: Sequence[Row], image_file: str) -> None:
    """Insert consecutive rows of one game and the file of their images, in place of all from the first one on."""
    game, start = rows[0].game, rows[0].position
    for clear in _CLEAR:
        connection.execute(clear, {"of": run, "number": game, "first": start})
    connection.execute(_ADD, [{"run": run, **to_columns(row)} for row in rows])
    connection.execute(_ADD_FILE, {"run": run, "game": game, "start": start, "count": len(rows), "file": image_file})


def delete_rows(session: Session, run: str) -> None:
    """Delete all rows of a run, and the names of the files of their images."""
    for table in (ExampleRow, ImageRow):
        session.execute(delete(table).where(table.run == run))


def rows_by_run(
    session: Session, keys: Sequence[str], judged: bool, without: Sequence[str] = ()
) -> dict[str, list[Row]]:
    """The rows of some runs by game and position; judged: without the attacker's inputs among those of other users.

    without: columns that are not read: `distances`, which are empty then, and columns with a default, which they keep.
    """
    names = tuple(name for name in COLUMNS if name not in without)
    found: dict[str, list[Row]] = {}
    for run, lines in columns_by_run(session, keys, names, judged).items():
        try:
            found[run] = rows_of(names, lines)
        except DamagedRun as error:
            raise DamagedRun(f"The run {run[:12]} is damaged. {one_line(error)} --rerun all plays it.") from None
    return found


def columns_by_run(
    session: Session, keys: Sequence[str], names: Sequence[str], judged: bool = True
) -> dict[str, list[Any]]:
    """These columns of the rows of some runs, as bare tuples by game and position. judged: as for `rows_by_run`.

    One statement for all: with one for each, a database of 2000 runs is read in three times the time.
    """
    found: dict[str, list[Any]] = {key: [] for key in keys}
    for run, *values in session.execute(_by_position(tuple(names), judged), {"runs": list(found)}):
        found[run].append(tuple(values))
    return found


def columns(session: Session, keys: Sequence[str], names: Sequence[str]) -> tuple[list[int], list[Sequence[Any]]]:
    """The judged rows of some runs, run by run, as columns; and how many rows each run has.

    No object is made for a row, and all texts of a column of JSON are read as one. An unreadable value is `Unreadable`.
    """
    wanted = _by_position(tuple(names), judged=True, as_text=JSON_COLUMNS)
    by_run: dict[str, list[Any]] = {key: [] for key in keys}
    for run, lines in groupby(session.connection().execute(wanted, {"runs": list(by_run)}), key=itemgetter(0)):
        by_run[run] = list(lines)
    read: list[Sequence[Any]] = list(zip(*chain.from_iterable(by_run.values()), strict=True)) or [()] * (len(names) + 1)
    found: list[Sequence[Any]] = [
        read_all(texts) if name in JSON_COLUMNS else texts for name, texts in zip(names, read[1:], strict=True)
    ]
    return [len(by_run[key]) for key in keys], found


def _by_position(names: tuple[str, ...], judged: bool, as_text: Sequence[str] = ()) -> Select[Any]:
    columns = {name: getattr(ExampleRow, name) for name in names}
    columns |= {name: cast(column, Text) for name, column in columns.items() if name in as_text}
    wanted = select(ExampleRow.run, *columns.values())
    wanted = wanted.where(ExampleRow.run.in_(bindparam("runs", expanding=True)))
    if judged:
        wanted = wanted.where(ExampleRow.poison.is_(False))
    return wanted.order_by(ExampleRow.run, ExampleRow.game, ExampleRow.position)


def count_rows(session: Session, run: str) -> int:
    """How many rows a run has."""
    return int(session.scalar(select(func.count()).where(ExampleRow.run == run)) or 0)


def image_files(session: Session, run: str) -> list[tuple[int, int, int, str]]:
    """(game, start, count, file) of the proposed images of a run."""
    images = session.scalars(select(ImageRow).where(ImageRow.run == run).order_by(ImageRow.game, ImageRow.start))
    return [(image.game, image.start, image.count, image.file) for image in images]

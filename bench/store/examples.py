"""The rows of a run, one per example, and the files that hold the images of their chunks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from sqlalchemy import Select, bindparam, delete, func, insert, select
from sqlalchemy.orm import Session

from bench.rows import Row
from bench.store.tables import ExampleRow, ImageRow

#: the columns of a row; `to_columns` and `from_columns` convert the values of some
COLUMNS = tuple(field.name for field in fields(Row))


def to_columns(row: Row) -> dict[str, Any]:
    """The columns of a row. A distance that is not finite becomes null: JSON has no NaN."""
    distances = {norm: value if math.isfinite(value) else None for norm, value in row.distances.items()}
    return {**asdict(row), "distances": distances}


def from_columns(values: Sequence[Any]) -> Row:
    """The row of a line of the table, from its values in the order of `COLUMNS`."""
    columns = dict(zip(COLUMNS, values, strict=True))
    distances = {norm: math.nan if value is None else value for norm, value in columns["distances"].items()}
    return Row(**{**columns, "distances": distances})


def put_chunk(session: Session, run: str, rows: Sequence[Row], image_file: str) -> None:
    """Insert consecutive rows of one game and the file of their images, in place of all from the first one on."""
    game, start = rows[0].game, rows[0].position
    for table, column in ((ExampleRow, ExampleRow.position), (ImageRow, ImageRow.start)):
        session.execute(delete(table).where(table.run == run, table.game == game, column >= start))
    session.execute(insert(ExampleRow), [{"run": run, **to_columns(row)} for row in rows])
    session.execute(
        insert(ImageRow), [{"run": run, "game": game, "start": start, "count": len(rows), "file": image_file}]
    )


def delete_rows(session: Session, run: str) -> None:
    """Delete all rows of a run, and the names of the files of their images."""
    for table in (ExampleRow, ImageRow):
        session.execute(delete(table).where(table.run == run))


def rows_of(session: Session, run: str, judged: bool) -> list[Row]:
    """The rows of a run by game and position; judged: without the attacker's inputs among those of other users."""
    return [from_columns(values) for values in columns_of(session, run, COLUMNS, judged)]


def columns_of(session: Session, run: str, names: Sequence[str], judged: bool = True) -> list[Any]:
    """These columns of a run's rows, as bare tuples by game and position. judged: as for `rows_of`."""
    return list(session.execute(_by_position(tuple(names), judged), {"run_key": run}).all())


def _by_position(names: tuple[str, ...], judged: bool) -> Select[Any]:
    columns = select(*(getattr(ExampleRow, name) for name in names)).where(ExampleRow.run == bindparam("run_key"))
    if judged:
        columns = columns.where(ExampleRow.poison.is_(False))
    return columns.order_by(ExampleRow.game, ExampleRow.position)


def count_rows(session: Session, run: str) -> int:
    """How many rows a run has."""
    return int(session.scalar(select(func.count()).where(ExampleRow.run == run)) or 0)


def image_files(session: Session, run: str) -> list[tuple[int, int, int, str]]:
    """(game, start, count, file) of the proposed images of a run."""
    images = session.scalars(select(ImageRow).where(ImageRow.run == run).order_by(ImageRow.game, ImageRow.start))
    return [(image.game, image.start, image.count, image.file) for image in images]

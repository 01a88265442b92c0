"""Runs that were played elsewhere: they are inserted whole, with where they came from and what was replayed here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import insert
from sqlalchemy.orm import Session

from bench.errors import StoreError
from bench.rows import Row
from bench.store.examples import to_columns
from bench.store.games import GameRecord
from bench.store.runs import RunRecord
from bench.store.tables import ExampleRow, GameRow, ImageRow, RunRow


@dataclass(frozen=True)
class WholeRun:
    """A finished run with all that belongs to it. images: (game, start, count, file), as `Store.image_files` has it."""

    record: RunRecord
    rows: Sequence[Row]
    games: Sequence[GameRecord]
    images: Sequence[tuple[int, int, int, str]]


def add(session: Session, run: WholeRun) -> None:
    """Insert a run; the commit raises `IntegrityError` where it is there already."""
    record, spec = run.record, run.record.spec
    names = {part: spec[part]["name"] for part in ("defense", "base", "attack", "dataset")}
    session.add(RunRow(**asdict(record), **names))
    session.flush()  # the other tables refer to it
    _insert(session, GameRow, [{"run": record.key, **asdict(game)} for game in run.games])
    _insert(session, ExampleRow, [{"run": record.key, **to_columns(row)} for row in run.rows])
    _insert(
        session,
        ImageRow,
        [{"run": record.key, "game": g, "start": s, "count": c, "file": f} for g, s, c, f in run.images],
    )


def _insert(session: Session, table: type, lines: list[dict[str, Any]]) -> None:
    if lines:
        session.execute(insert(table), lines)


def note_replayed(session: Session, key: str, games: Iterable[int]) -> None:
    """Add to the games of a merged run that were replayed here, without a difference."""
    run = session.get(RunRow, key)
    if run is None or run.origin is None:
        raise StoreError(f"The run {key[:12]} came in no bundle, so nothing of it has to be replayed.")
    run.origin = {**run.origin, "replayed": sorted({*run.origin.get("replayed", ()), *games})}

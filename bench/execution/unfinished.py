"""What a command left unfinished when its time limit passed, and an estimate of the time that it needs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bench.deadline import in_units
from bench.planning.plan import Planned
from bench.planning.rules import rows_of
from bench.planning.spec import RunSpec
from bench.store import RunRecord, Store


@dataclass(frozen=True)
class Unfinished:
    """A run that has not ended.

    record   what is stored of it; None: it was never begun
    rows     examples that are not answered yet
    seconds  what they may take in one process, at the speed of the rows that are most like them in the database;
             without training and augmented sets. None: the database has no such rows.
    """

    spec: RunSpec
    record: RunRecord | None
    rows: int
    seconds: float | None


def unfinished(planned: Iterable[Planned], store: Store) -> list[Unfinished]:
    """The planned runs, and the `clean` runs that they are paired with, that have not ended; each once."""
    specs = {spec.key: spec for item in planned for spec in (item.clean, item.spec) if spec is not None}
    records = {key: store.find(key) for key in specs}
    left = []
    for key, spec in specs.items():
        record = records[key]
        if record is None or record.status == "RUNNING":
            rows = rows_of(spec) - (0 if record is None else store.count_rows(key))
            rate = _seconds_of_a_row(spec, store)
            left.append(Unfinished(spec, record, rows, None if rate is None else rate * rows))
    return left


def _seconds_of_a_row(spec: RunSpec, store: Store) -> float | None:
    """Mean wall-clock seconds of a committed row: of this run, else of runs that share ever less with it."""
    among = {"defense": [spec.defense.name], "dataset": [spec.dataset.name]}
    cell = {**among, "attack": [spec.attack.name], "base": [spec.base.name]}
    for keys in ([spec.key], *([run.key for run in store.runs(**wanted)] for wanted in (cell, among))):
        games = [game for key in keys for game in store.games(key)]
        if rows := sum(game.rows for game in games):
            return sum(game.wall_s for game in games) / rows
    return None


def summary(left: list[Unfinished], workers: int) -> str:
    """One line for the reader: what is left, how long that may take, what to do."""
    rows = sum(run.rows for run in left)
    known = [run.seconds for run in left if run.seconds is not None]
    estimate = ""
    if known:
        more = "" if len(known) == len(left) else f" for {len(known)} of them"
        estimate = f", about {in_units(sum(known) / min(workers, len(left)))}{more} without training"
    runs = "1 run is" if len(left) == 1 else f"{len(left)} runs are"
    return f"the time is up: {runs} left with {rows} rows{estimate}; the same command goes on from there"

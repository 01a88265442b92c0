"""Runs as they are stored: one by its key, lists of them, and the suites that they belong to."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from bench.errors import BadValue, DamagedRun, StoreError, UnknownName, one_line
from bench.planning.spec import RunSpec
from bench.store.schema import Unreadable
from bench.store.tables import RunRow, SuiteRow


@dataclass(frozen=True)
class RunRecord:
    """A run as stored.

    origin: of a run that came in a bundle: `file` (its name), `bundle` (its sha256), `merged` (when), and `replayed`
    (the games that were replayed here without a difference); None: it was played with this database.
    """

    key: str
    status: str
    reason: str
    detail: str
    spec: dict[str, Any]
    clean_key: str | None
    provenance: dict[str, Any]
    host: str
    pid: int
    process_start: float
    heartbeat: float
    created: float
    finished: float | None
    origin: dict[str, Any] | None = None

    @property
    def verification(self) -> str:
        """How much was played here: `played here` (all), `claimed` (none), `replayed 2 of 5` (games) or `verified`."""
        if self.origin is None:
            return "played here"
        game = self.spec["game"]
        replayed, games = len(self.origin.get("replayed", ())), int(game["params"][game["facts"]["games_key"]])
        if not replayed:
            return "claimed"
        return "verified" if replayed >= games else f"replayed {replayed} of {games}"


def find(session: Session, key: str, checked: bool = True) -> RunRecord | None:
    """The run with this key; `DamagedRun` where it is damaged, unless it is not checked."""
    run = session.get(RunRow, key)
    return None if run is None else _record(run, checked)


def resolve(session: Session, prefix: str) -> RunRecord:
    """The only run whose key begins with `prefix`; `StoreError` or `UnknownName` where it is not exactly one."""
    if not re.fullmatch(r"[0-9a-f]{4,64}", prefix):
        raise StoreError(f"{prefix!r} is no run: give its key or at least 4 hex digits of it; see: bench list runs")
    matching = session.scalars(select(RunRow).where(RunRow.key.startswith(prefix)).limit(2)).all()
    if len(matching) > 1:
        raise StoreError(f"{prefix!r} begins the keys of several runs; give more digits; see: bench list runs")
    if not matching:
        raise UnknownName("run", prefix, [], "bench list runs")
    return _record(matching[0])


def select_runs(
    session: Session, column_values: dict[str, Iterable[str]], damaged: Callable[[str], None]
) -> list[RunRecord]:
    """The runs whose columns have one of these values each, oldest first.

    damaged: is told of each that cannot be read; it is left out.
    """
    conditions = [getattr(RunRow, column).in_(list(values)) for column, values in column_values.items()]
    runs = session.scalars(select(RunRow).where(*conditions).order_by(RunRow.created, RunRow.key))
    return _sound(runs, damaged)


def _sound(runs: Iterable[RunRow], damaged: Callable[[str], None]) -> list[RunRecord]:
    records = []
    for run in runs:
        try:
            records.append(_record(run))
        except DamagedRun as error:
            damaged(f"{one_line(error)} It is left out.")
    return records


def add_to_suite(session: Session, suite: str, keys: Iterable[str]) -> None:
    """Insert the keys that the suite does not have yet, in one order, so that two processes cannot deadlock."""
    missing = set(keys) - set(session.scalars(select(SuiteRow.run).where(SuiteRow.suite == suite)))
    session.add_all(SuiteRow(suite=suite, run=key) for key in sorted(missing))


def runs_of_suite(session: Session, suite: str, damaged: Callable[[str], None]) -> list[RunRecord]:
    """The runs of a suite that have begun, oldest first. damaged: see `select_runs`."""
    runs = session.scalars(
        select(RunRow)
        .join(SuiteRow, SuiteRow.run == RunRow.key)
        .where(SuiteRow.suite == suite)
        .order_by(RunRow.created, RunRow.key)
    )
    return _sound(runs, damaged)


def _record(run: RunRow, checked: bool = True) -> RunRecord:
    """The run; `DamagedRun` where its line is damaged."""
    if checked and (what := _damage(run)):
        raise DamagedRun(f"The run {run.key[:12]} is damaged in the database: {what}. --rerun all plays it.")
    return RunRecord(**{field.name: getattr(run, field.name) for field in fields(RunRecord)})


def _damage(run: RunRow) -> str:
    """What of a run's line cannot be read; "" for nothing."""
    try:
        RunSpec.from_dict(run.spec)
    except (BadValue, RecursionError) as error:
        return f"what was asked for cannot be read ({one_line(error).rstrip('.')})"
    sources = [run.provenance, *([] if run.origin is None else [run.origin])]
    known = all(isinstance(source, dict) and not isinstance(source, Unreadable) for source in sources)
    known = known and isinstance(run.provenance.get("environment", {}), dict)
    if not known or not (run.origin is None or isinstance(run.origin.get("replayed"), list)):
        return "its provenance cannot be read"
    return ""

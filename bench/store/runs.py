"""Runs as they are stored: one by its key, lists of them, and the suites that they belong to."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from bench.errors import StoreError, UnknownName
from bench.store.tables import RunRow, SuiteRow


@dataclass(frozen=True)
class RunRecord:
    """A run as stored."""

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


def find(session: Session, key: str) -> RunRecord | None:
    """The run with this key."""
    run = session.get(RunRow, key)
    return None if run is None else _record(run)


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


def select_runs(session: Session, column_values: dict[str, Iterable[str]]) -> list[RunRecord]:
    """The runs whose columns have one of these values each, oldest first."""
    conditions = [getattr(RunRow, column).in_(list(values)) for column, values in column_values.items()]
    runs = session.scalars(select(RunRow).where(*conditions).order_by(RunRow.created, RunRow.key))
    return [_record(run) for run in runs]


def add_to_suite(session: Session, suite: str, keys: Iterable[str]) -> None:
    """Insert the keys that the suite does not have yet, in one order, so that two processes cannot deadlock."""
    missing = set(keys) - set(session.scalars(select(SuiteRow.run).where(SuiteRow.suite == suite)))
    session.add_all(SuiteRow(suite=suite, run=key) for key in sorted(missing))


def runs_of_suite(session: Session, suite: str) -> list[RunRecord]:
    """The runs of a suite that have begun, oldest first."""
    runs = session.scalars(
        select(RunRow)
        .join(SuiteRow, SuiteRow.run == RunRow.key)
        .where(SuiteRow.suite == suite)
        .order_by(RunRow.created, RunRow.key)
    )
    return [_record(run) for run in runs]


def _record(run: RunRow) -> RunRecord:
    return RunRecord(**{field.name: getattr(run, field.name) for field in fields(RunRecord)})

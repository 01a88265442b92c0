"""Summaries of finished runs, kept in the database, so that who lists or ranks runs reads no rows.

A summary is believed only where its stamp is that of now. The stamp covers what the summary was computed from: the
request, the line of the run (its status, its end, where it came from), sums over its rows and games, the same of its
clean run, and the code that computes it. Whatever changes one of them (a run that is played anew, a row that is edited,
another version of this program) outdates the summary, and it is computed from the rows again.

Who ends a run keeps its summary; who finds none, an outdated or a damaged one, computes it and keeps it where the
database can be written. `bench verify` holds a summary against the rows.
"""

from __future__ import annotations

import hashlib
import platform
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from math import isclose
from pathlib import Path
from typing import Any

import bench
from bench.analysis.answered import Answered
from bench.analysis.figures import clean_run_of, figures_of, is_minimal, outcomes_of
from bench.analysis.forms import FiguresForm, OutcomesForm, has_form
from bench.errors import DamagedRun, one_line
from bench.source import tree_hash
from bench.store import RunRecord, Store, StoredSummary, in_parts

#: columns of rows that no figure of a run depends on and that take long to read
UNREAD = ("neighbours",)
#: places in the package whose code decides what a summary says
SOURCES = ("analysis", "store", "norms.py", "rows.py", "threat.py")
#: packages that do so too
PACKAGES = ("numpy", "scipy")


@dataclass(frozen=True)
class Summary:
    """A run without its rows: its figures (`figures_of`), and its outcomes if they were asked for."""

    figures: dict[str, Any]
    answered: Answered | None = None


def summary(store: Store, record: RunRecord, outcomes: bool = False) -> Summary:
    """The summary of a run; `DamagedRun` where it has to be computed and a row cannot be read."""
    return _summaries(store, [record], outcomes)[record.key]


def summaries_of(store: Store, records: Sequence[RunRecord]) -> dict[str, Summary]:
    """The summaries of many runs by key, read a hundred at a time; `DamagedRun` as for `summary`."""
    return {key: one for part in in_parts(records) for key, one in _summaries(store, part, False).items()}


def summaries(
    store: Store, records: Sequence[RunRecord], outcomes: bool = False
) -> Iterator[tuple[RunRecord, Summary]]:
    """Many runs in their order, each with its summary; they are read a hundred at a time.

    A run whose rows are damaged is left out, and a warning says so.
    """
    for part in in_parts(records):
        try:
            found = _summaries(store, part, outcomes)
        except DamagedRun:  # of one of them: which one?
            found = {key: one for record in part for key, one in _or_warning(store, record, outcomes).items()}
        yield from ((record, found[record.key]) for record in part if record.key in found)


def _or_warning(store: Store, record: RunRecord, outcomes: bool) -> dict[str, Summary]:
    try:
        return _summaries(store, [record], outcomes)
    except DamagedRun as error:
        warnings.warn(f"{one_line(error)} It is left out.", stacklevel=4)
        return {}


def answered(store: Store, record: RunRecord) -> Answered:
    """The outcomes of a finished run; none of another."""
    found = summary(store, record, outcomes=True).answered
    assert found is not None
    return found


def keep(store: Store, records: Sequence[RunRecord]) -> set[str]:
    """Compute the summaries of these runs from their rows and store them; the keys of those that could be stored.

    The summary of a run waits until its clean run has ended.
    """
    stamps = _stamps(store, records)
    return _keep(store, stamps, from_rows(store, [record for record in records if record.key in stamps]))


def differences(store: Store, record: RunRecord) -> dict[str, tuple[Any, Any]]:
    """What a stored summary that readers believe says (first) and the rows do not (second), by dotted names."""
    stamp = _stamps(store, [record]).get(record.key)
    stored = store.summaries([record.key], outcomes=True).get(record.key)
    if stored is None or stored.stamp != stamp:
        return {}
    made = from_rows(store, [record])[record.key]
    assert made.answered is not None
    if not (has_form(FiguresForm, stored.figures) and has_form(OutcomesForm, stored.outcomes)):
        return {"summary": ("damaged", "computed anew")}
    said = {**stored.figures, "outcomes": stored.outcomes}
    return differing(said, {**made.figures, "outcomes": made.answered.to_json()})


def differing(said: Any, found: Any, name: str = "") -> dict[str, tuple[Any, Any]]:
    """The values that differ by more than rounding on another machine, by dotted names."""
    if isinstance(said, Mapping) and isinstance(found, Mapping):
        pairs = {key: (said.get(key), found.get(key)) for key in [*said, *(key for key in found if key not in said)]}
    elif isinstance(said, list) and isinstance(found, list) and len(said) == len(found):
        pairs = {str(number): pair for number, pair in enumerate(zip(said, found, strict=True))}
    elif isinstance(said, float) and isinstance(found, float):
        return {} if isclose(said, found, rel_tol=1e-9, abs_tol=1e-12) else {name: (said, found)}
    else:
        return {} if said == found else {name: (said, found)}
    return {
        place: value
        for key, (one, other) in pairs.items()
        for place, value in differing(one, other, f"{name}.{key}" if name else key).items()
    }


# -- stored ones ----------------------------------------------------------------------------------------------------


def _summaries(store: Store, records: Sequence[RunRecord], outcomes: bool) -> dict[str, Summary]:
    """Summaries by key: those that are believed, and the others computed and kept."""
    stamps = _stamps(store, records)
    found = {
        key: Summary(stored.figures, Answered.from_json(stored.outcomes) if outcomes else None)
        for key, stored in store.summaries(stamps, outcomes).items()
        if stored.stamp == stamps[key]
        and has_form(FiguresForm, stored.figures)
        and (not outcomes or has_form(OutcomesForm, stored.outcomes))
    }
    if missing := [record for record in records if record.key not in found]:
        made = from_rows(store, missing)
        _keep(store, stamps, made)
        found |= made
    return found


def _keep(store: Store, stamps: Mapping[str, str], made: Mapping[str, Summary]) -> set[str]:
    kept = [
        StoredSummary(key, stamps[key], one.figures, one.answered.to_json())
        for key, one in made.items()
        if key in stamps and one.answered is not None
    ]
    return {one.run for one in kept} if kept and store.put_summaries(kept) else set()


def _stamps(store: Store, records: Sequence[RunRecord]) -> dict[str, str]:
    """What the summaries of these runs are computed from and by, as sha256 by key.

    Without runs that go on, whose clean run does, or that have changed since they were read: nothing is kept of those.
    """
    marks = store.marks(dict.fromkeys(key for one in records for key in (one.key, one.clean_key) if key is not None))
    stamps = {}
    for one in records:
        mark, clean = marks.get(one.key), marks.get(one.clean_key or "")
        read = [one.status, one.reason, one.finished, one.clean_key, one.origin]
        if mark is None or mark[: len(read)] != read or "RUNNING" in (one.status, clean and clean[0]):
            continue
        whole = repr([computed_by(), one.spec, mark, clean])
        stamps[one.key] = hashlib.sha256(whole.encode("utf-8", "backslashreplace")).hexdigest()
    return stamps


@cache
def computed_by() -> list[str]:
    """The code that computes summaries: hashes of its sources, and versions of what it computes with."""
    home = Path(bench.__file__).parent
    numbers = [f"{name} {version(name)}" for name in PACKAGES]
    return [tree_hash(*(home / name for name in SOURCES)), f"python {platform.python_version()}", *numbers]


# -- from rows ------------------------------------------------------------------------------------------------------


def from_rows(store: Store, records: Sequence[RunRecord]) -> dict[str, Summary]:
    """The summaries of some runs, a hundred or so, from their rows; `DamagedRun` where one cannot be read."""
    keys = [record.key for record in records]
    near = any(is_minimal(record) for record in records)
    rows, games = store.all_rows_of(keys, UNREAD if near else (*UNREAD, "distances")), store.games_of(keys)
    answers = clean_answers_of(store, records)
    made = {}
    for record in records:
        served, clean = rows[record.key], answers[record.key]
        lacks = served and not clean and clean_run_of(record)
        pair = store.find(record.clean_key) if lacks and record.clean_key else None
        judged = [row for row in served if not row.poison]
        right = outcomes_of(record, judged, clean)
        figures = figures_of(record, served, games[record.key], clean, right, pair)
        made[record.key] = Summary(figures, Answered.of(record, judged, right))
    return made


def clean_answers_of(store: Store, records: Sequence[RunRecord]) -> dict[str, dict[tuple[int, int], int]]:
    """Of each run by key: clean answers by (game, index), from its clean run; a `clean` run is its own. {} where there
    are none."""
    pairs = {record.key: clean_run_of(record) for record in records}
    read = store.facts({key for key in pairs.values() if key}, ("game", "index", "answer"))
    answers = {key: {(game, index): answer for game, index, answer in rows} for key, rows in read}
    return {key: answers.get(own or "", {}) for key, own in pairs.items()}

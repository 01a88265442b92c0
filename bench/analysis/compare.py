"""Two runs over the same inputs, by a paired test; runs over different inputs are refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.analysis.describe import clean_answers, threat_tag
from bench.analysis.figures import is_minimal, outcomes_of
from bench.analysis.metrics import Outcomes, Sharing, refuses
from bench.analysis.pairs import Difference, paired, paired_repeated
from bench.errors import BadValue
from bench.rows import Row
from bench.store import RunRecord, Store

#: examples that are named where inputs differ
NAMED = 5


@dataclass(frozen=True)
class Comparison:
    """Robust accuracies of two runs over the same n inputs, and their difference B - A."""

    a: str
    b: str
    a_says: str
    b_says: str
    n: int
    a_value: float
    b_value: float
    difference: Difference


def compare_runs(store: Store, a: RunRecord, b: RunRecord) -> Comparison:
    """B - A; raises `BadValue` for runs that are not over the same inputs, or that have no rows."""
    rows = {record.key: store.rows(record.key) for record in (a, b)}
    for record in (a, b):
        if record.status != "DONE":
            raise BadValue(f"The run {record.key[:12]} is {record.status}, not DONE; compare finished runs.")
    _same_inputs(a, rows[a.key], b, rows[b.key])
    outcomes = [_by_example(rows[record.key], outcome_of(store, record, rows[record.key])) for record in (a, b)]
    for record, outcome in zip((a, b), outcomes, strict=True):
        if missing := len(rows[record.key]) - len(outcome):
            raise BadValue(
                f"{missing} examples of {record.key[:12]} are beyond its budget or refused, and have no clean answer "
                f"to fall back on: play the clean run that it is paired with, with: bench run --attack clean"
            )
    keys = sorted(outcomes[0])
    first, second = ([outcome[key] for key in keys] for outcome in outcomes)
    difference = _difference((a, b), (rows[a.key], rows[b.key]), keys, first, second)
    return Comparison(
        a.key, b.key, _says(a), _says(b), len(keys), sum(first) / len(keys), sum(second) / len(keys), difference
    )


def outcome_of(store: Store, record: RunRecord, rows: Sequence[Row]) -> Outcomes:
    """Whether each example (game, index) was answered right: at the budget, for attacks of minimal norm."""
    needs_clean = is_minimal(record) or refuses(rows)
    return outcomes_of(record, rows, clean_answers(store, record) if needs_clean else {})


def _by_example(rows: Sequence[Row], outcome: Outcomes) -> dict[tuple[int, int], bool]:
    """By (repetition, index): in `probe` each index is in one game, elsewhere in every one."""
    seen: dict[int, int] = {}
    outcomes = {}
    for row in rows:
        if (row.game, row.index) in outcome:
            number = seen.get(row.index, 0)
            seen[row.index] = number + 1
            outcomes[number, row.index] = outcome[row.game, row.index]
    return outcomes


def _same_inputs(a: RunRecord, rows_a: Sequence[Row], b: RunRecord, rows_b: Sequence[Row]) -> None:
    datasets = [(record.spec["dataset"]["name"], record.spec["dataset"]["source"]) for record in (a, b)]
    if datasets[0] != datasets[1]:
        raise BadValue(
            f"{a.key[:12]} is over {datasets[0][0]} and {b.key[:12]} over {datasets[1][0]}, or over another version of "
            f"it: their inputs differ, so they cannot be compared."
        )
    inputs = [{row.index: row.x_sha256 for row in rows} for rows in (rows_a, rows_b)]
    counts = [len(rows) for rows in (rows_a, rows_b)]
    only_a, only_b = inputs[0].keys() - inputs[1].keys(), inputs[1].keys() - inputs[0].keys()
    other = {index for index in inputs[0].keys() & inputs[1].keys() if inputs[0][index] != inputs[1][index]}
    parts = [
        f"{len(examples)} {text} (such as {', '.join(map(str, sorted(examples)[:NAMED]))})"
        for examples, text in (
            (only_a, f"examples are only in {a.key[:12]}"),
            (only_b, f"only in {b.key[:12]}"),
            (other, "have other pixels"),
        )
        if examples
    ]
    if parts:
        raise BadValue(f"The inputs differ: {'; '.join(parts)}. Compare runs with the same n, seed and dataset.")
    if counts[0] != counts[1]:
        raise BadValue(
            f"{a.key[:12]} has {counts[0]} rows and {b.key[:12]} {counts[1]} for the same examples; compare runs with "
            f"the same --repeats."
        )


def _difference(
    records: Sequence[RunRecord],
    rows: Sequence[Sequence[Row]],
    keys: Sequence[tuple[int, int]],
    a: Sequence[bool],
    b: Sequence[bool],
) -> Difference:
    """B - A by the test that fits what the examples (repetition, index) of the two runs share."""
    splits = all(record.spec["game"]["facts"]["splits"] for record in records)
    games = [{row.index: row.game for row in run_rows} for run_rows in rows]
    if splits and games[0] == games[1] and len(set(games[0].values())) > 1:
        return paired(a, b, [games[0][index] for _, index in keys])
    if len({number for number, _ in keys}) > 1:
        return paired_repeated(a, b, [number for number, _ in keys], [index for _, index in keys])
    return paired(a, b, given=_given([Sharing.of(record.spec).shared for record in records]))


def _given(shared: Sequence[str]) -> str:
    """What the examples of both runs share; a stream if they share different things."""
    different = sorted(set(shared) - {""}, reverse=True)
    return different[0] if different else ""


def _says(record: RunRecord) -> str:
    spec = record.spec
    return f"{spec['defense']['name']} on {spec['base']['name']} / {spec['attack']['name']}, {threat_tag(spec)}"

"""Stored runs as values of a program: one `Result` per run, and `Results` in a row."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

from bench.analysis.describe import NESTED, accuracies_of, describe, described, examples, flat_rows, names_of
from bench.analysis.frames import NAMES, frame_of, load_pandas
from bench.analysis.intervals import Estimate
from bench.analysis.notebook import facts_of, table_of
from bench.analysis.summaries import summaries_of
from bench.store import RunRecord, Store

if TYPE_CHECKING:
    from pandas import DataFrame

#: runs that a notebook shows before the rest is only counted
SHOWN = 50


class Result:
    """One run as it is stored, whether it is DONE, SKIPPED, FAILED or still RUNNING.

    Its attributes are the fields of the object that `bench run --json` prints, such as

    run              its key, 64 hex digits
    status, reason   DONE, or why it is not
    defense, base, attack, dataset, norm, eps, tier, n, seed, protocol
    violations       proposals that broke the threat model and were judged as the clean image
    seconds          by part: attack, defense, harness, total
    answer_s         median seconds of an answer; None without one
    ledger           what attack and defense spent, summed over the examples
    flags            what a reader must know about the number: id, value, message
    redraws, median_distance
                     if the run has them (else `AttributeError`)

    but for the accuracies, which are an `Estimate` each, and `threat`, which is in words. The facts of the examples are
    read from the database when they are first asked for, and then kept.
    """

    run: str
    status: str
    defense: str
    base: str
    attack: str
    dataset: str
    norm: str
    eps: float
    tier: str
    n: int
    seed: int
    protocol: str
    violations: int
    seconds: dict[str, float]
    answer_s: float | None
    threat_in_short: str
    ledger: dict[str, int]
    flags: list[dict[str, Any]]

    def __init__(self, store: Store, record: RunRecord) -> None:
        self._store = store
        self._record = record
        self._names = names_of(record)

    @cached_property
    def _facts(self) -> dict[str, Any]:
        return describe(self._store, self._record)

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_"):  # of an object that is being copied, these are not there yet
            if name in self._names:  # before the figures, which have to be read
                return self._names[name]
            if name in self._facts:
                return self._facts[name]
        raise AttributeError(f"a {type(self).__name__} has no attribute {name!r}")

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._facts})

    @property
    def reason(self) -> str:
        """Why the run was skipped or has failed, on one line; "" for the others."""
        return self._record.reason

    @property
    def detail(self) -> str:
        """The traceback of a run that has failed; "" for the others."""
        return self._record.detail

    @property
    def spec(self) -> dict[str, Any]:
        """Every resolved parameter of the run, from which its key follows; JSON values."""
        return copy.deepcopy(self._record.spec)

    @property
    def threat(self) -> str:
        """What the attacker may do and know, in words; `to_dict()["threat"]` has it by field."""
        return str(self._facts["threat_in_words"])

    @property
    def robust_accuracy(self) -> Estimate | None:
        """Share of examples answered right under attack, in [0, 1], with its 95 % interval; None without rows."""
        return _estimate(self._facts["robust_accuracy"])

    @property
    def clean_accuracy(self) -> Estimate | None:
        """Share of examples answered right without attack, likewise; None where no clean answer is known."""
        return _estimate(self._facts["clean_accuracy"])

    @property
    def uncut_accuracy(self) -> Estimate | None:
        """For attacks of minimal norm: robust accuracy whatever the distance; None for the others."""
        return _estimate(self._facts.get("uncut_accuracy"))

    def stored(self) -> tuple[Store, RunRecord]:
        """The database that holds the run, and what it holds of it."""
        return self._store, self._record

    def to_dict(self) -> dict[str, Any]:
        """The object that `bench run --json` prints: JSON values only, a copy of your own."""
        return copy.deepcopy(self._facts)

    def rows(self) -> list[dict[str, Any]]:
        """One flat dict per example, as a line of `bench export --format csv`: the run's names, then its facts.

        The accuracies of the run, which end such a line, are `clean_accuracy` and `robust_accuracy`.
        """
        return flat_rows(self._record, examples(self._store, self._record, NESTED))

    def to_pandas(self) -> DataFrame:
        """One line per example, with the columns and types that `bench.load` gives.

        Raises `BadValue` where pandas is not installed.
        """
        return frame_of(self._store, [self._record])

    def __repr__(self) -> str:
        robust = "" if self.robust_accuracy is None else f", robust {self.robust_accuracy}"
        title = f"{self.run[:10]}: {self.defense} on {self.base} / {self.attack} / {self.dataset}"
        return " ".join(f"<Result {title}, {_status(self)}{robust}>".split())

    def _repr_html_(self) -> str:
        """A table for notebooks."""
        answer = "" if self.answer_s is None else f"{1000 * self.answer_s:.3g} ms"
        facts = [
            ("run", self.run[:10]),
            ("status", _status(self)),
            ("defense", f"{self.defense} on {self.base}"),
            ("attack", f"{self.attack} on {self.dataset}, n {self.n}, seed {self.seed}"),
            ("threat", self.threat),
            ("clean accuracy", _text(self.clean_accuracy)),
            ("robust accuracy", _text(self.robust_accuracy)),
            ("an answer", answer),
            *((f"flag {flag['id']}", str(flag["message"])) for flag in self.flags),
        ]
        return facts_of([(name, value) for name, value in facts if value])


class Results(Sequence[Result]):
    """Runs of one database in a row, in the order in which they were planned or begun."""

    def __init__(self, store: Store, results: Iterable[Result]) -> None:
        self._store = store
        self._results = list(results)

    def __len__(self) -> int:
        return len(self._results)

    @overload
    def __getitem__(self, which: int) -> Result: ...

    @overload
    def __getitem__(self, which: slice) -> Results: ...

    def __getitem__(self, which: int | slice) -> Result | Results:
        return Results(self._store, self._results[which]) if isinstance(which, slice) else self._results[which]

    def to_pandas(self, examples: bool = False) -> DataFrame:
        """One line per run: its names, accuracies in [0, 1] (NaN: none) with their intervals, seconds, flags, reason.

        examples: one line per example of all runs instead, as `Result.to_pandas` gives them.
        Raises `BadValue` where pandas is not installed.
        """
        pd = load_pandas()
        if examples:
            return frame_of(self._store, [result._record for result in self])
        self.read()
        return pd.DataFrame([_summary(result) for result in self], columns=list(SUMMARY)).astype(SUMMARY)

    def read(self) -> None:
        """Read the figures of these runs now, where they were not read before."""
        missing = [result for result in self if "_facts" not in vars(result)]
        found = summaries_of(self._store, [result._record for result in missing])
        for result in missing:
            vars(result)["_facts"] = described(result._record, found[result._record.key].figures)

    def __repr__(self) -> str:
        states = Counter(result.status for result in self)
        return f"<Results: {', '.join([f'{len(self)} runs', *(f'{n} {status}' for status, n in states.items())])}>"

    def _repr_html_(self) -> str:
        """A table for notebooks; of the first runs if there are many."""
        rest = len(self) - SHOWN
        note = f"and {rest} more; see to_pandas()" if rest > 0 else ""
        return table_of(COLUMNS, [_line(result) for result in self[:SHOWN]], note)


def _estimate(stored: dict[str, Any] | None) -> Estimate | None:
    return None if stored is None else Estimate(*(stored[name] for name in ("value", "low", "high", "method")))


def _text(estimate: Estimate | None) -> str:
    return "" if estimate is None else str(estimate)


def _status(result: Result) -> str:
    """The status, with its reason if it has one."""
    return result.status + (f": {result.reason}" if result.reason else "")


#: columns of `Results.to_pandas`, and their types
SUMMARY = {
    **NAMES,
    "clean_accuracy": "float64",
    "clean_low": "float64",
    "clean_high": "float64",
    "robust_accuracy": "float64",
    "robust_low": "float64",
    "robust_high": "float64",
    "answer_s": "float64",
    "total_s": "float64",
    "violations": "int64",
    "flags": "str",
    "reason": "str",
}


def _summary(result: Result) -> dict[str, Any]:
    """A run as a line of `Results.to_pandas`."""
    line = {name: getattr(result, name) for name in (*NAMES, "answer_s", "violations", "reason")}
    line |= accuracies_of(result._facts)
    return {**line, "total_s": result.seconds["total"], "flags": ", ".join(flag["id"] for flag in result.flags)}


#: columns of a notebook's table
COLUMNS = ("run", "defense", "base", "attack", "dataset", "threat", "n", "clean accuracy", "robust accuracy", "status")


def _line(result: Result) -> list[str]:
    """A run as a line of a notebook's table."""
    names = [result.run[:10], result.defense, result.base, result.attack, result.dataset, result.threat_in_short]
    shares = [_text(result.clean_accuracy), _text(result.robust_accuracy)]
    return [*names, str(result.n), *shares, ", ".join([_status(result), *(flag["id"] for flag in result.flags)])]

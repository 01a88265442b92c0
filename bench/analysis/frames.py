"""Stored examples as one pandas frame, read run by run and typed column by column; pandas is imported on use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.analysis.describe import names_of, resent_in_words
from bench.analysis.figures import clean_run_of
from bench.errors import BadValue
from bench.norms import NORMS
from bench.store import RunRecord, Store

if TYPE_CHECKING:
    from pandas import DataFrame

#: the facts of an example as `bench export --format csv` calls them: which column of the store each is, and its type.
#: Int64 and boolean are types of pandas with <NA> for missing values
FACTS = {
    "index": ("index", "int64"),
    "trial": ("game", "int64"),
    "position": ("position", "int64"),
    "label": ("label", "int64"),
    "clean_answer": ("clean_answer", "Int64"),
    "attacked_answer": ("answer", "int64"),
    "distances": ("distances", "object"),  # a column for each norm
    "violation": ("violation", "str"),
    "x_sha256": ("x_sha256", "str"),
    "adv_sha256": ("adv_sha256", "str"),
    "forwards": ("forwards", "int64"),
    "backwards": ("backwards", "int64"),
    "queries": ("queries", "int64"),
    "simulated": ("simulated", "int64"),
    "adaptation_steps": ("adaptation_steps", "int64"),
    "believed": ("believed", "boolean"),
    "fooled_inside": ("fooled_inside", "boolean"),
    "resent": ("resent", "object"),  # a text each for `attacked` and `clean`
    "seconds_attack": ("attack_s", "float64"),
    "seconds_defense": ("defense_s", "float64"),
}
#: the names of the example's run, which come before the facts (see `bench.analysis.describe.names_of`)
NAMES = {
    "run": "str",
    "status": "str",
    "defense": "str",
    "base": "str",
    "attack": "str",
    "dataset": "str",
    "norm": "str",
    "eps": "float64",
    "tier": "str",
    "n": "int64",
    "seed": "int64",
    "protocol": "str",
    "verification": "str",
}
#: rows that are held as Python objects before they are typed
BLOCK = 30_000


def load_pandas() -> Any:
    """The module pandas; if it is missing, `BadValue` says how to install it."""
    try:
        import pandas
    except ImportError:
        raise BadValue(
            'A data frame needs pandas; install it with: pip install "adversarial-game-bench[pandas]"'
        ) from None
    return pandas


def frame_of(store: Store, records: Sequence[RunRecord]) -> DataFrame:
    """One line per stored example of these runs, in their order: the run's names, then the facts.

    Columns as `bench export --format csv` has them, without the accuracies of the run at its end. Whole numbers are
    int64; clean_answer, which a run without a clean answer lacks, is Int64, believed and fooled_inside are boolean, all
    three with <NA>; a missing distance is NaN.
    """
    pd = load_pandas()
    wanted = [column for column, _ in FACTS.values()]
    runs, facts = _typed(store, [record.key for record in records], wanted, [kind for _, kind in FACTS.values()])
    facts.columns = list(FACTS)
    names = pd.DataFrame([names_of(record) for record in records], columns=list(NAMES)).astype(NAMES)
    frame = pd.concat([names.take(runs).reset_index(drop=True), facts], axis=1)
    frame["clean_answer"] = facts["clean_answer"].fillna(_clean_answers(store, records, runs, facts))
    where, stored = list(frame).index("distances"), frame.pop("distances")
    measured = [pd.Series([far.get(norm) for far in stored], dtype="float64") for norm in NORMS]
    distance = np.select([frame["norm"] == norm for norm in NORMS], measured, np.nan)
    frame.insert(where, "distance", distance)
    for number, (norm, values) in enumerate(zip(NORMS, measured, strict=True), 1):
        frame.insert(where + number, f"distances_{norm}", values)
    where, resent = list(frame).index("resent"), [resent_in_words(answers) for answers in frame.pop("resent")]
    for number, name in enumerate(resent_in_words(None)):
        frame.insert(where + number, name, pd.Series([words[name] for words in resent], dtype="str"))
    return frame


def _clean_answers(store: Store, records: Sequence[RunRecord], runs: Any, facts: DataFrame) -> Any:
    """For each line, the answer of the paired clean run to the same example; <NA> if there is none."""
    sources = [clean_run_of(record) for record in records]
    keys = list(dict.fromkeys(key for key in sources if key is not None))
    numbers = {key: number for number, key in enumerate(keys)}
    place = ["source", "trial", "index"]
    answered, clean = _typed(store, keys, ["game", "index", "answer"], ["int64"] * 3)
    clean.columns = ["trial", "index", "answer"]
    clean = clean.assign(source=answered).drop_duplicates(place, keep="last")
    source_of = np.array([-1 if key is None else numbers[key] for key in sources], dtype=np.int64)
    lines = facts[["trial", "index"]].assign(source=source_of[runs])
    return lines.merge(clean, how="left", on=place)["answer"].astype("Int64")


def _typed(store: Store, keys: Sequence[str], columns: list[str], types: list[str]) -> tuple[Any, DataFrame]:
    """Columns of the rows of these runs, and for each line the number of its run, (N,)."""
    pd = load_pandas()
    lengths: list[int] = []
    held: list[list[Any]] = [[] for _ in columns]
    parts = []
    for counts, read in store.columns(keys, columns):
        lengths += counts
        for column, values in zip(held, read, strict=True):
            column.extend(values)
        if len(held[0]) >= BLOCK:
            parts.append(_frame(pd, held, types))
            held = [[] for _ in columns]
    parts.append(_frame(pd, held, types))
    return np.repeat(np.arange(len(lengths)), np.array(lengths, dtype=np.int64)), pd.concat(parts, ignore_index=True)


def _frame(pd: Any, columns: Sequence[Sequence[Any]], types: Sequence[str]) -> DataFrame:
    """A frame with these columns, which get numbers as names."""
    return pd.DataFrame({i: pd.Series(v, dtype=t) for i, (v, t) in enumerate(zip(columns, types, strict=True))})

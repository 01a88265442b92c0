"""Describes a run for its readers: from stored facts to the object that `--json` prints and the page shows."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.analysis.summaries import clean_answers_of, summaries, summary
from bench.errors import DamagedRun, one_line
from bench.norms import NORMS
from bench.rows import Row
from bench.store import RunRecord, Store, in_parts
from bench.threat import ThreatModel, tier_of

#: figures that only some runs have, and that are told last
LAST = ("redraws", "resubmission", "harm", "uncut_accuracy", "median_distance")


def names_of(record: RunRecord) -> dict[str, Any]:
    """The names and numbers that identify a run for a reader: the first columns of every table of examples."""
    spec, threat = record.spec, record.spec["threat"]
    return {
        "run": record.key,
        "status": record.status,
        "defense": spec["defense"]["name"],
        "base": spec["base"]["name"],
        "attack": spec["attack"]["name"],
        "dataset": spec["dataset"]["name"],
        "norm": threat["norm"],
        "eps": threat["eps"],
        "tier": tier_of(ThreatModel(**threat)),
        "n": spec["n"] if spec.get("chosen") is None else len(spec["chosen"]),
        "seed": spec["seed"],
        "protocol": spec["game"]["protocol"],
        "verification": record.verification,
    }


def describe(store: Store, record: RunRecord) -> dict[str, Any]:
    """What `bench run --json` prints for one run; JSON values only."""
    return described(record, summary(store, record).figures)


def describe_all(store: Store, records: Sequence[RunRecord]) -> Iterator[tuple[RunRecord, dict[str, Any]]]:
    """Many runs, each with its description; see `bench.analysis.summaries.summaries`.

    A run whose rows are damaged is left out, and a warning says so.
    """
    return ((record, described(record, found.figures)) for record, found in summaries(store, records))


def described(record: RunRecord, figures: dict[str, Any]) -> dict[str, Any]:
    """A run with its figures (`bench.analysis.figures.figures_of`)."""
    spec = record.spec
    return {
        **names_of(record),
        **{name: value for name, value in figures.items() if name not in ("flags", *LAST)},
        "threat": spec["threat"],
        "threat_in_words": threat_card(spec),
        "threat_in_short": threat_tag(spec),
        "game": spec["game"],
        "flags": figures["flags"],
        "reason": record.reason,
        **{name: figures[name] for name in LAST if name in figures},
    }


def clean_answers(store: Store, record: RunRecord) -> dict[tuple[int, int], int]:
    """Clean answers by (game, index), from the paired `clean` run; a `clean` run is its own pair."""
    return clean_answers_of(store, [record])[record.key]


def threat_tag(spec: dict[str, Any]) -> str:
    """The threat model in a few words, enough to tell the rows of a table apart."""
    threat, game = spec["threat"], spec["game"]
    parts = [f"{threat['norm']} {threat['eps']:.4g}"]
    if game["tag"]:
        parts.append(game["tag"])
    if threat.get("surrogate"):
        parts.append(f"{threat['surrogate']} architecture")
    if threat["queries"]:
        parts.append(f"{threat['queries']} queries")
    return ", ".join(parts)


def threat_card(spec: dict[str, Any]) -> str:
    """The threat model and the game in words."""
    game = spec["game"]
    own = f" (protocol {game['protocol']})" if game["source"] else ""
    return f"{ThreatModel(**spec['threat']).card()}; {game['card']}{own}"


def example(row: Row, norm: str, clean: dict[tuple[int, int], int]) -> dict[str, Any]:
    """One example as `bench export` writes it."""
    clean_answer = row.clean_answer
    return {
        "index": row.index,
        "trial": row.game,
        "position": row.position,
        "label": row.label,
        "clean_answer": clean.get((row.game, row.index)) if clean_answer is None else clean_answer,
        "attacked_answer": row.answer,
        "distance": _number(row.distances.get(norm)),
        "distances": {name: _number(row.distances.get(name)) for name in NORMS},
        "violation": row.violation,
        "x_sha256": row.x_sha256,
        "adv_sha256": row.adv_sha256,
        "forwards": row.forwards,
        "backwards": row.backwards,
        "queries": row.queries,
        "simulated": row.simulated,
        "adaptation_steps": row.adaptation_steps,
        "believed": row.believed,
        "fooled_inside": row.fooled_inside,
        "neighbours": row.neighbours,
        "resent": row.resent,
        "seconds": {"attack": row.attack_s, "defense": row.defense_s},
    }


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


#: columns that only JSON has: lists by set
NESTED = ("neighbours",)


def examples(store: Store, record: RunRecord, without: Sequence[str] = ()) -> list[dict[str, Any]]:
    """All examples of a run as `bench export` writes them; `DamagedRun` where one cannot be read.

    without: columns that are not read, as for `Store.all_rows_of`.
    """
    return _examples(store, [record], without)[record.key]


def examples_of(
    store: Store, records: Sequence[RunRecord], without: Sequence[str] = ()
) -> Iterator[tuple[RunRecord, list[dict[str, Any]]]]:
    """Many runs in their order, each with its examples; they are read a hundred at a time.

    A run whose rows are damaged is left out, and a warning says so.
    """
    for part in in_parts(records):
        try:
            found = _examples(store, part, without)
        except DamagedRun:  # of one of them: which one?
            found = {}
            for record in part:
                try:
                    found |= _examples(store, [record], without)
                except DamagedRun as error:
                    warnings.warn(f"{one_line(error)} It is left out.", stacklevel=2)
        yield from ((record, found[record.key]) for record in part if record.key in found)


def _examples(store: Store, records: Sequence[RunRecord], without: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    rows = store.all_rows_of([record.key for record in records], without)
    answers = clean_answers_of(store, records)
    return {
        record.key: [
            example(row, record.spec["threat"]["norm"], answers[record.key])
            for row in rows[record.key]
            if not row.poison
        ]
        for record in records
    }


def accuracies_of(described: Mapping[str, Any]) -> dict[str, Any]:
    """The accuracies of a described run with their intervals, without nesting; None where there is none."""
    figures = {}
    for name in ("clean", "robust"):
        estimate = described[f"{name}_accuracy"] or {}
        figures[f"{name}_accuracy"] = estimate.get("value")
        figures |= {f"{name}_{end}": estimate.get(end) for end in ("low", "high")}
    return figures


def flat_rows(
    record: RunRecord, examples: Sequence[dict[str, Any]], figures: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Examples of a run as lines of a table: the run's names, the facts, and figures of the run, without nesting.

    The answers to an image that is sent again are one text, such as `3 3 8`.
    """
    names, last = names_of(record), figures or {}
    rows = []
    for facts in examples:
        row = dict(names)
        for name, value in facts.items():
            if name in NESTED:
                continue
            if name == "resent":
                row.update(resent_in_words(value))
            elif isinstance(value, dict):
                row.update({f"{name}_{part}": v for part, v in value.items()})
            else:
                row[name] = value
        row.update(last)
        rows.append(row)
    return rows


def resent_in_words(resent: Mapping[str, Sequence[int]] | None) -> dict[str, str]:
    """The answers to an image that is sent again (`Row.resent`) as a text each; "" where it is sent once."""
    return {f"resent_{of}": " ".join(map(str, (resent or {}).get(of, ()))) for of in ("attacked", "clean")}

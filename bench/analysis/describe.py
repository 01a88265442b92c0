"""Describes a run for its readers: from stored facts to the object that `--json` prints and the page shows."""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from bench.analysis.harm import Harm, harm
from bench.analysis.intervals import Estimate
from bench.analysis.metrics import (
    Sharing,
    answered_right,
    at_budget,
    clean_accuracy,
    detection_rate,
    false_rejections,
    median_distance,
    redraws,
    resubmission,
    robust_accuracy,
    within_trials,
)
from bench.errors import DamagedRun, one_line
from bench.norms import NORMS
from bench.rows import Row
from bench.store import GameRecord, RunRecord, Store, in_parts
from bench.threat import ThreatModel, tier_of

#: flags of runs whose figure must not be compared with others
UNRANKED = ("V1", "survivors", "draws", "poison")


#: columns of rows that no figure of a run depends on and that take long to read
UNREAD = ("neighbours",)


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
    ((_, described),) = _read_together(store, [record])
    return described


def describe_all(store: Store, records: Sequence[RunRecord]) -> Iterator[tuple[RunRecord, dict[str, Any]]]:
    """Many runs, each with its description; they are read a hundred at a time.

    A run whose rows are damaged is left out, and a warning says so.
    """
    for part in in_parts(records):
        try:
            together = list(_read_together(store, part))
        except DamagedRun:  # of one of them: which one?
            together = [pair for record in part for pair in _or_warning(store, record)]
        yield from together


def _or_warning(store: Store, record: RunRecord) -> Iterator[tuple[RunRecord, dict[str, Any]]]:
    try:
        yield from _read_together(store, [record])
    except DamagedRun as error:
        warnings.warn(f"{one_line(error)} It is left out.", stacklevel=3)


def _read_together(store: Store, records: Sequence[RunRecord]) -> Iterator[tuple[RunRecord, dict[str, Any]]]:
    keys = [record.key for record in records]
    near = any(_is_minimal(record) for record in records)
    rows, games = store.all_rows_of(keys, UNREAD if near else (*UNREAD, "distances")), store.games_of(keys)
    pairs = {record.key: clean_run_of(record) for record in records}
    answers = dict(store.facts({key for key in pairs.values() if key}, ("game", "index", "answer")))
    for record in records:
        clean = {(game, index): answer for game, index, answer in answers.get(str(pairs[record.key]), ())}
        yield record, _described(store, record, rows[record.key], games[record.key], clean)


def _is_minimal(record: RunRecord) -> bool:
    return record.spec.get("attack_kind") == "minimal"


def _described(
    store: Store,
    record: RunRecord,
    served: Sequence[Row],
    games: Sequence[GameRecord],
    clean: Mapping[tuple[int, int], int],
) -> dict[str, Any]:
    """A run from its rows, its games and its clean answers (`clean_answers`)."""
    spec, minimal = record.spec, _is_minimal(record)
    rows = [row for row in served if not row.poison]
    sharing, facts = Sharing.of(spec), spec["game"]["facts"]
    threat = ThreatModel(**spec["threat"])
    right = at_budget(rows, threat.norm, threat.eps, clean) if minimal else answered_right(rows, clean)
    robust = robust_accuracy(rows, sharing, right) if len(right) == len(rows) else None
    delays = answer_delays(games, rows)
    result = {
        **names_of(record),
        "clean_accuracy": _estimate(clean_accuracy(rows, sharing, clean)),
        "robust_accuracy": _estimate(robust),
        **_refusals(spec, rows, sharing, clean),
        "violations": sum(bool(row.violation) for row in served),
        "seconds": seconds(games, served),
        "answer_s": float(np.median(delays)) if delays else None,
        "answer_p95_s": float(np.quantile(delays, 0.95)) if delays else None,
        "probe_s": statistics.median(row.defense_s for row in rows) if rows and facts["answers_clean"] else None,
        "ledger": ledger(games, served),
        "threat": spec["threat"],
        "threat_in_words": threat_card(spec),
        "threat_in_short": threat_tag(spec),
        "game": spec["game"],
        "flags": flags(store, record, games, served, clean),
        "reason": record.reason,
    }
    if facts["splits"] and robust is not None:
        result["robust_accuracy"]["within_trials"] = _estimate(within_trials(rows, right))
    again = redraws(right)
    if again is not None:
        result["redraws"] = asdict(again)
    if (again_sent := resubmission(rows)) is not None:
        result["resubmission"] = asdict(again_sent)
    if (lost := harm_of(record, served, clean)) is not None:
        result["harm"] = asdict(lost)
    if minimal:  # the image as the attack left it, whatever its distance; and how far that was
        result["uncut_accuracy"] = _estimate(robust_accuracy(rows, sharing, answered_right(rows, clean)))
        result["median_distance"] = median_distance(rows, threat.norm)
    return result


def harm_of(record: RunRecord, rows: Sequence[Row], clean: Mapping[tuple[int, int], int]) -> Harm | None:
    """What other users lost in a run by the attacker's inputs: see `bench.analysis.harm`.

    rows: all; clean: see `clean_answers`.
    """
    return None if record.spec["attack"]["name"] == "clean" else harm(rows, clean, Sharing.of(record.spec))


def _refusals(
    spec: Mapping[str, Any], rows: Sequence[Row], sharing: Sharing, clean: Mapping[tuple[int, int], int]
) -> dict[str, Any]:
    """What a defense that may refuse inputs did refuse; nothing for others."""
    if not spec.get("abstains"):
        return {}
    return {
        "false_rejections": _estimate(false_rejections(rows, sharing, clean)),
        "detection_rate": _estimate(detection_rate(rows, sharing)),
    }


def _estimate(estimate: Estimate | None) -> Any:
    return None if estimate is None else asdict(estimate)


def clean_answers(store: Store, record: RunRecord) -> dict[tuple[int, int], int]:
    """Clean answers by (game, index), from the paired `clean` run; a `clean` run is its own pair."""
    key = clean_run_of(record)
    if key is None:
        return {}
    ((_, rows),) = store.facts([key], ("game", "index", "answer"))
    return {(game, index): answer for game, index, answer in rows}


def clean_run_of(record: RunRecord) -> str | None:
    """Key of the run that holds this run's clean answers; None if its own rows hold them, or if no run does."""
    if record.spec["game"]["facts"]["answers_clean"]:
        return None
    return record.key if record.spec["attack"]["name"] == "clean" else record.clean_key


def seconds(games: Sequence[GameRecord], rows: Sequence[Row]) -> dict[str, float]:
    """Seconds of attack, defense and harness. Crafting that several runs share counts in each of them."""
    attack = sum(row.attack_s for row in rows)
    defense = sum(game.defense_s for game in games)
    harness = sum(max(game.wall_s - game.attack_s - game.defense_s, 0.0) for game in games)
    return {"attack": attack, "defense": defense, "harness": harness, "total": attack + defense + harness}


def answer_delays(games: Sequence[GameRecord], rows: Sequence[Row]) -> list[float]:
    """Seconds of each answer while serving: of the background in `probe`, else of the rows.

    A probe of a victim may leave out work that only later points feel, so it is no measure of serving.
    """
    delays = [delay for game in games for delay in game.background_delays or ()]
    return delays or [row.defense_s for row in rows]


def ledger(games: Sequence[GameRecord], rows: Sequence[Row]) -> dict[str, int]:
    """Sums over the examples of what attack and defense spent, and the optimiser steps of the background."""
    names = ("forwards", "backwards", "queries", "simulated", "adaptation_steps")
    spent = {name: sum(getattr(row, name) for row in rows) for name in names}
    return {**spent, "background_steps": sum(game.background_steps for game in games)}


def flags(
    store: Store,
    record: RunRecord,
    games: Sequence[GameRecord],
    rows: Sequence[Row],
    clean: Mapping[tuple[int, int], int],
) -> list[dict[str, Any]]:
    """Warnings that a reader of the result needs, each with its figure. rows: all; clean: see `clean_answers`."""
    found: list[dict[str, Any]] = []
    broken = [row for row in rows if row.violation]
    if broken:
        message = (
            f"{len(broken)} proposals broke the threat model and were judged as the clean image; not ranked. "
            f"First: example {broken[0].index}: {broken[0].violation}."
        )
        found.append({"id": "V1", "value": len(broken), "message": message})
    chosen = record.spec.get("chosen")
    if chosen is not None:
        message = (
            f"attacked only the {len(chosen)} of {record.spec['n']} examples that other attacks had left, so its share "
            f"is theirs and not that of a fair draw; not ranked."
        )
        found.append({"id": "survivors", "value": len(chosen), "message": message})
    if record.spec["threat"]["randomness"] == "shared":
        message = (
            "The attacker's copy drew what the deployed defense draws, which no attacker of a tier knows: a measure "
            "of the attack (S11), not of the defense; not ranked."
        )
        found.append({"id": "draws", "value": 1, "message": message})
    if (sent := sum(row.poison for row in rows)) and record.spec["attack"]["name"] != "clean":
        message = (
            f"Other users' inputs are judged, which nobody perturbed; the attacker sent {sent} among them, "
            f"{ThreatModel(**record.spec['threat']).place}. It measures what the defense loses by what it serves, and "
            f"not how it answers an attacked input; not ranked."
        )
        found.append({"id": "poison", "value": sent, "message": message})
    if rows and not record.spec["game"]["facts"]["answers_clean"] and not clean:
        pair = None if record.clean_key is None else store.find(record.clean_key)
        state = "is not there" if pair is None else f"is {pair.status}{f': {pair.reason}' if pair.reason else ''}"
        message = f"There is no clean accuracy: the paired run {str(record.clean_key)[:8]} {state}."
        found.append({"id": "no-clean", "value": 0, "message": message})
    found.extend(_not_replayed(record))
    for game in games:
        found.extend({"id": name, "value": game.game, "message": text} for name, text in game.flags.items())
    return found


#: flags of runs that came in a bundle
MERGED_FLAGS = ("claimed", "replayed")


def _not_replayed(record: RunRecord) -> list[dict[str, Any]]:
    """The flag of a run that came in a bundle and of which games were not replayed here."""
    if record.origin is None or record.verification == "verified":
        return []
    came, replayed = f"It came in the bundle {record.origin.get('file', '?')}", len(record.origin.get("replayed", ()))
    if not replayed:
        message = f"{came}, and none of its games was replayed here: its rows are the sender's word."
        return [{"id": "claimed", "value": 0, "message": message}]
    message = f"{came}; {record.verification} games were played again here, with the same rows."
    return [{"id": "replayed", "value": replayed, "message": message}]


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


def examples(store: Store, record: RunRecord) -> list[dict[str, Any]]:
    """All examples of a run as `bench export` writes them."""
    clean = clean_answers(store, record)
    norm = record.spec["threat"]["norm"]
    return [example(row, norm, clean) for row in store.rows(record.key)]


def figures_of(described: Mapping[str, Any]) -> dict[str, Any]:
    """The accuracies of a described run with their intervals, without nesting; None where there is none."""
    figures = {}
    for name in ("clean", "robust"):
        estimate = described[f"{name}_accuracy"] or {}
        figures[f"{name}_accuracy"] = estimate.get("value")
        figures |= {f"{name}_{end}": estimate.get(end) for end in ("low", "high")}
    return figures


def flat_rows(store: Store, record: RunRecord) -> list[dict[str, Any]]:
    """All examples as lines of a table: the run's names, then the facts, without nesting.

    The answers to an image that is sent again are one text, such as `3 3 8`.
    """
    names = names_of(record)
    rows = []
    for facts in examples(store, record):
        row = dict(names)
        for name, value in facts.items():
            if name == "neighbours":
                continue  # lists by set: only JSON has them
            if name == "resent":
                row.update(resent_in_words(value))
            elif isinstance(value, dict):
                row.update({f"{name}_{part}": v for part, v in value.items()})
            else:
                row[name] = value
        rows.append(row)
    return rows


def resent_in_words(resent: Mapping[str, Sequence[int]] | None) -> dict[str, str]:
    """The answers to an image that is sent again (`Row.resent`) as a text each; "" where it is sent once."""
    return {f"resent_{of}": " ".join(map(str, (resent or {}).get(of, ()))) for of in ("attacked", "clean")}

"""Figures of a run: what its rows, its games and the answers of its clean run say. Nothing is read here."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from bench.analysis.harm import harm_of
from bench.analysis.intervals import Estimate
from bench.analysis.metrics import (
    Outcomes,
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
from bench.rows import Row
from bench.store import GameRecord, RunRecord
from bench.threat import ThreatModel

#: flags of runs whose figure must not be compared with others
UNRANKED = ("V1", "survivors", "draws", "poison")


def is_minimal(record: RunRecord) -> bool:
    """Whether its attack looks for the nearest image, so that distances decide what it broke."""
    return record.spec.get("attack_kind") == "minimal"


def outcomes_of(record: RunRecord, rows: Sequence[Row], clean: Mapping[tuple[int, int], int]) -> Outcomes:
    """Whether each judged example was answered right: at the budget, for attacks of minimal norm."""
    if not is_minimal(record):
        return answered_right(rows, clean)
    threat = ThreatModel(**record.spec["threat"])
    return at_budget(rows, threat.norm, threat.eps, clean)


def figures_of(
    record: RunRecord,
    served: Sequence[Row],
    games: Sequence[GameRecord],
    clean: Mapping[tuple[int, int], int],
    right: Outcomes,
    pair: RunRecord | None,
) -> dict[str, Any]:
    """The figures of a run, as JSON values (`bench.analysis.forms.FiguresForm`).

    served: all its rows; clean: answers of its clean run by (game, index); right: the outcomes of its judged rows
    (`outcomes_of`); pair: its clean run, where that has no answers
    """
    spec = record.spec
    rows = [row for row in served if not row.poison]
    sharing, facts = Sharing.of(spec), spec["game"]["facts"]
    robust = robust_accuracy(rows, sharing, right) if len(right) == len(rows) else None
    delays = answer_delays(games, rows)
    result = {
        "clean_accuracy": _estimate(clean_accuracy(rows, sharing, clean)),
        "robust_accuracy": _estimate(robust),
        **_refusals(spec, rows, sharing, clean),
        "violations": sum(bool(row.violation) for row in served),
        "seconds": seconds(games, served),
        "answer_s": float(np.median(delays)) if delays else None,
        "answer_p95_s": float(np.quantile(delays, 0.95)) if delays else None,
        "probe_s": statistics.median(row.defense_s for row in rows) if rows and facts["answers_clean"] else None,
        "ledger": ledger(games, served),
        "flags": flags(record, games, served, clean, pair),
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
    if is_minimal(record):  # the image as the attack left it, whatever its distance; and how far that was
        result["uncut_accuracy"] = _estimate(robust_accuracy(rows, sharing, answered_right(rows, clean)))
        result["median_distance"] = median_distance(rows, spec["threat"]["norm"])
    return result


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
    record: RunRecord,
    games: Sequence[GameRecord],
    rows: Sequence[Row],
    clean: Mapping[tuple[int, int], int],
    pair: RunRecord | None,
) -> list[dict[str, Any]]:
    """Warnings that a reader of the result needs, each with its figure. rows: all; the others: as for `figures_of`."""
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

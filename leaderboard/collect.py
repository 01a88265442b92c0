"""Reads a database and collects what the pages show."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

from bench.analysis.answered import Answered
from bench.analysis.describe import described
from bench.analysis.figures import UNRANKED
from bench.analysis.report import published_figure
from bench.analysis.summaries import summaries
from bench.analysis.worst_case import breakers_in_words, worst_of
from bench.cache import digest
from bench.config import Suite
from bench.store import RunRecord, Store
from leaderboard.attack_ranking import Key, Tally, attacks_of, count
from leaderboard.content import TIERS, AuditSummary, Entry, Leaderboard, RunSummary, Share, Standing, share
from leaderboard.doubts import judged
from leaderboard.entries import base_key, entries_of, without_folders
from leaderboard.ranking import AnsweredRun, Battery, ranked, standings_of

#: statuses of runs that have ended
ENDED = ("DONE", "SKIPPED", "FAILED")


@dataclass(frozen=True)
class Rules:
    """By what the ranking is made.

    battery   see `leaderboard.ranking`
    suites    whose tables hold published figures
    command   the command that plays these attacks against what a run attacked; "" if it cannot be told
    """

    battery: Battery
    suites: Mapping[str, Suite] = field(default_factory=dict)
    command: Callable[[RunRecord, Sequence[str]], str] = lambda record, attacks: ""


def collect(store: Store, rules: Rules) -> Leaderboard:
    """All runs that have ended and all audits. No row is read where the database holds summaries of the runs."""
    records = [record for record in store.runs() if record.status in ENDED]
    entries = entries_of(records)
    by_entry: dict[Entry, list[RunRecord]] = defaultdict(list)
    for record in records:
        by_entry[entries[record.key]].append(record)
    base_times: dict[tuple[str, str], float] = {}
    runs: list[RunSummary] = []
    standings = []
    tallies: dict[Key, Tally] = {}
    in_order = sorted(by_entry, key=lambda entry: entry.defense != entry.base)  # bases first
    read = summaries(store, [record for entry in in_order for record in by_entry[entry]], outcomes=True)
    for entry, found in groupby(read, key=lambda one: entries[one[0].key]):
        own = [(record, described(record, one.figures), one.answered) for record, one in found]
        base = base_key(without_folders(own[0][0].spec))
        if entry.defense == entry.base:
            for machine, times in _answer_times(own).items():
                base_times[base, machine] = sorted(times)[len(times) // 2]
        answered = [
            _answered(outcomes, _summary(entry, record, result, base_times.get((base, _machine(record))), rules))
            for record, result, outcomes in own
        ]
        runs += [run.summary for run in answered]
        count(answered, tallies)
        records = [record for record, *_ in own]
        standings += [_with_command(one, records, rules) for one in standings_of(entry, answered, rules.battery)]
    audits = collect_audits(store, entries)
    standings = judged(ranked(standings), audits)
    return Leaderboard(sorted(runs, key=_run_order), standings, audits, rules.battery, attacks_of(tallies))


def _with_command(standing: Standing, records: Sequence[RunRecord], rules: Rules) -> Standing:
    """The standing with the command that plays what it lacks, as its run of most examples was played."""
    board = standing.board
    whole = [
        record
        for record in records
        if record.spec.get("chosen") is None
        and (record.spec["threat"]["norm"], record.spec["threat"]["eps"]) == (board.norm, board.eps)
        and record.spec["attack"]["name"] != "clean"
    ]
    if not standing.missing or not whole:
        return standing
    largest = max(whole, key=lambda record: (record.spec["n"], record.key))
    return replace(standing, command=rules.command(largest, standing.missing))


def _answer_times(described: Iterable[tuple[RunRecord, dict[str, Any], Any]]) -> dict[str, list[float]]:
    """Seconds of an answer in each run, by machine."""
    times: dict[str, list[float]] = defaultdict(list)
    for record, result, _ in described:
        if result["answer_s"] is not None:
            times[_machine(record)].append(result["answer_s"])
    return times


def _machine(record: RunRecord) -> str:
    """Identifies the machine and the kind of device of a run. Times of different machines are not compared."""
    made = record.provenance
    return digest([made.get("host"), made.get("processor"), made.get("environment", {}).get("device")])


def _answered(found: Answered | None, summary: RunSummary) -> AnsweredRun:
    assert found is not None  # it was asked for
    return AnsweredRun(summary, found.right, found.game, found.shared)


def _summary(
    entry: Entry, record: RunRecord, result: dict[str, Any], base_time: float | None, rules: Rules
) -> RunSummary:
    done = result["status"] == "DONE"
    spec = record.spec
    answer_s = result["answer_s"]
    return RunSummary(
        run=result["run"],
        status=result["status"],
        reason=result["reason"],
        entry=entry,
        attack=result["attack"],
        norm=result["norm"],
        eps=result["eps"],
        tier=result["tier"],
        threat=result["threat_in_words"],
        threat_tag=result["threat_in_short"],
        protocol=result["protocol"],
        n=result["n"],
        clean=share(result["clean_accuracy"]),
        robust=share(result["robust_accuracy"]) if done else None,
        refused=share(result.get("false_rejections")),
        detected=share(result.get("detection_rate")),
        published=published_figure(spec, rules.suites) if done else None,
        lost=share((result.get("harm") or {}).get("lost")),
        answer_s=answer_s,
        seconds=result["seconds"]["total"],
        flags=tuple((flag["id"], flag["message"]) for flag in result["flags"]),
        ranked=done and not any(flag["id"] in UNRANKED for flag in result["flags"]),
        coordinates=coordinates_of(spec),
        family=_family(without_folders(spec)),
        spent=_spent(result),
        times_base=None if answer_s is None or not base_time else answer_s / base_time,
    )


def coordinates_of(spec: Mapping[str, Any]) -> dict[str, float]:
    """The values that curves and surfaces run over, if they apply to the run."""
    threat, game = spec["threat"], spec["game"]
    coordinates = {"eps": threat["eps"]}
    if game["facts"]["background"] and spec["kind"] != "static":
        coordinates |= {name: value for name, value in game["params"].items() if name != game["facts"]["games_key"]}
        if threat["weights"] in ("simulated", "adapted"):
            coordinates |= {"delay": threat["delay"], "known": threat["known"]}
    if "delta" in spec["defense"]["params"]:
        coordinates["delta"] = spec["defense"]["params"]["delta"]
    return coordinates


def _family(spec: Mapping[str, Any]) -> str:
    """Equal for runs that differ only in their coordinates and in their number of examples."""
    blank: dict[str, Any] = {**spec, "n": 0, "chosen": None}
    blank["threat"] = {**spec["threat"], "eps": 0, "delay": 0, "known": 0}
    blank["game"] = {"protocol": spec["game"]["protocol"], "source": spec["game"]["source"]}
    blank["defense"] = {**spec["defense"], "params": {**spec["defense"]["params"], "delta": 0}}
    return digest(blank)


def _spent(result: Mapping[str, Any]) -> dict[str, float]:
    """What the attack spent on one example, on average."""
    n = max(result["n"], 1)
    ledger = {name: result["ledger"][name] / n for name in ("forwards", "backwards", "queries", "simulated")}
    return {**ledger, "seconds": result["seconds"]["attack"] / n}


def _run_order(run: RunSummary) -> tuple[str, str, float, str, bool, float, str]:
    """By board, then by attack; within an attack ranked runs first, then by robust accuracy, the highest first."""
    robust = -run.robust.value if run.robust else 1.0
    return *run.board, run.attack, not run.ranked, robust, run.run


def collect_audits(store: Store, entries: Mapping[str, Entry]) -> list[AuditSummary]:
    """All audits by board; on a board the most robust in the last tier first. entries: by the key of the run."""
    return sorted((_audit(result, entries) for result in store.audits()), key=_audit_order)


def _audit_order(audit: AuditSummary) -> tuple[str, str, float, float, str]:
    robust, _ = audit.tiers[-1]
    return *audit.board, -(robust.value if robust else -1.0), audit.defense


def _tier(verdict: Mapping[str, Any]) -> tuple[Share | None, str]:
    """The figure of a tier, and what broke its examples."""
    worst, words = worst_of(verdict), breakers_in_words(verdict["breakers"])
    if verdict.get("seen_by_all"):
        words += f"; the figure is over {worst['n']} of {verdict['n']} examples"
    return share(worst["robust_accuracy"]), words


def _audit(result: dict[str, Any], entries: Mapping[str, Entry]) -> AuditSummary:
    played = (entries[run] for run in result["runs"].values() if run in entries)
    entry = next((one for one in played if one.defense == result["defense"]), None)  # other steps are of its base
    flags = [(check["id"], check["message"]) for check in result["checks"] if check["tripped"]]
    if result["failed"]:
        message = f"{', '.join(result['failed'])} FAILED. The verdict lacks what these runs might have broken."
        flags.insert(0, ("incomplete", message))
    verdicts = [result["verdict"].get(tier) for tier in TIERS]
    gain = result["gain"]
    return AuditSummary(
        defense=result["defense"],
        variant=entry.variant if entry else "",
        base=result["base"],
        dataset=entry.dataset if entry else result["dataset"],
        norm=result["norm"],
        eps=result["eps"],
        budget=result["budget"],
        n=result["n"],
        clean=None if result["clean_accuracy"] is None else 100 * result["clean_accuracy"],
        tiers=tuple((None, "") if verdict is None else _tier(verdict) for verdict in verdicts),
        gain=None if gain is None else share(gain["difference"]),
        times=None if gain is None else gain["times_the_base"],
        flags=tuple(flags),
        entry=entry.key if entry else "",
    )

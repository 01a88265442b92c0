"""From the store to what the pages show."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from bench.analysis.compare import outcome_of
from bench.analysis.describe import describe
from bench.analysis.metrics import Sharing
from bench.cache import digest
from bench.planning.spec import placeless
from bench.store import RunRecord, Store
from bench.threat import ThreatModel, tier_of
from leaderboard.ranking import UNRANKED, Outcome, in_words, ranked, standings_of
from leaderboard.rows import TIERS, AuditLine, Book, Entry, RunLine, Share, share

#: statuses of runs that have ended
ENDED = ("DONE", "SKIPPED", "FAILED")


def load(store: Store) -> Book:
    """Everything that has ended, read entry by entry: the rows of one are held at a time."""
    records = [record for record in store.runs() if record.status in ENDED]
    entries = _entries(records)
    by_entry: dict[Entry, list[RunRecord]] = defaultdict(list)
    for record in records:
        by_entry[entries[record.key]].append(record)
    paces: dict[tuple[str, str], float] = {}
    lines: list[RunLine] = []
    standings = []
    for entry, own in sorted(by_entry.items(), key=lambda item: item[0].defense != item[0].base):  # bases first
        described = [(record, describe(store, record)) for record in own]
        base = _base_of(_without_places(own[0].spec))
        if entry.defense == entry.base:
            for where, times in _times(described).items():
                paces[base, where] = sorted(times)[len(times) // 2]
        outcomes = [
            _outcome(store, record, _line(entry, record, result, paces.get((base, _place(record)))))
            for record, result in described
        ]
        lines += [outcome.line for outcome in outcomes]
        standings += standings_of(entry, outcomes)
    return Book(sorted(lines, key=_order), ranked(standings), load_audits(store, entries))


def _times(described: Iterable[tuple[RunRecord, dict[str, Any]]]) -> dict[str, list[float]]:
    """Seconds of an answer, by where they were measured."""
    found: dict[str, list[float]] = defaultdict(list)
    for record, result in described:
        if result["answer_s"] is not None:
            found[_place(record)].append(result["answer_s"])
    return found


def _place(record: RunRecord) -> str:
    """The machine and the kind of device that played a run: times of others are not to be held against its own."""
    made = record.provenance
    return digest([made.get("host"), made.get("processor"), made.get("environment", {}).get("device")])


def _entries(records: Iterable[RunRecord]) -> dict[str, Entry]:
    """The entry of every run, with the parameters that tell those of the same names apart."""
    parts = {record.key: _parts(_without_places(record.spec)) for record in records}
    sizes: dict[tuple[str, str], set[int]] = defaultdict(set)
    seeds: dict[tuple[str, str], set[int]] = defaultdict(set)
    named: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = defaultdict(dict)
    for values in parts.values():
        drawn = values["names"][2], values["split"]
        sizes[drawn].add(values["test_size"])
        seeds[drawn].add(values["seed"])
        named[*values["names"], values["split"], values["seed"]][digest(values)] = values
    found = {}
    for key, values in parts.items():
        same, own = named[*values["names"], values["split"], values["seed"]], digest(values)
        defense, base, dataset = values["names"]
        drawn = dataset, values["split"]
        dataset += _points(values, len(sizes[drawn]) > 1, len(seeds[drawn]) > 1)
        found[key] = Entry(own, defense, base, dataset, values["seed"], _variant(values, same.values()))
    return found


def _parts(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a run's entry: everything but the attack, the threat model, the game and how many examples."""
    alone = spec["defense"]["name"] == spec["base"]["name"]
    params = {f"base.{name}": value for name, value in spec["base"]["params"].items()}
    params |= {f"dataset.{name}": value for name, value in spec["dataset"]["params"].items() if name != "split"}
    if not alone:
        params |= {f"defense.{name}": value for name, value in spec["defense"]["params"].items()}
    params |= {"base.seed": spec["base_seed"], "model": spec["network"]["name"]}
    return {
        "names": tuple(spec[part]["name"] for part in ("defense", "base", "dataset")),
        "params": params,
        "seed": spec["seed"],
        "split": str(spec["dataset"]["params"].get("split", "test")),
        "test_size": spec["test_size"],
        "sources": [spec[part]["source"] for part in ("defense", "base", "network", "dataset")],
    }


def _points(values: Mapping[str, Any], sizes: bool, seeds: bool) -> str:
    """What tells the attacked points of a dataset from others of its name, where there are several sizes or seeds:
    numbers over other points are of another board."""
    told = [values["split"]] if values["split"] != "test" else []
    told += [f"{values['test_size']} points"] if sizes else []
    told += [f"seed {values['seed']}"] if seeds else []
    return f" ({', '.join(told)})" if told else ""


def _variant(values: Mapping[str, Any], others: Iterable[Mapping[str, Any]]) -> str:
    """In what an entry differs from others of the same names: delta 0.5, k 128; or its source, where nothing else."""
    params, told, alike = values["params"], set(), False
    for other in others:
        differ = {name for name in params if params[name] != other["params"].get(name)}
        told |= differ
        alike |= not differ and other["sources"] != values["sources"]
    words = [f"{name.removeprefix('defense.').removeprefix('dataset.')} {params[name]}" for name in sorted(told)]
    return ", ".join([*words, f"source {digest(values['sources'])[:6]}"] if alike else words)


def _without_places(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A run's values with files by their names alone, as in its key: the same file in two folders is one entry."""
    return {name: placeless(value) for name, value in spec.items()}


def _base_of(spec: Mapping[str, Any]) -> str:
    """The trained network under a run: whose pace a runtime defense's is held against."""
    return digest(
        [spec["base"], spec["network"], spec["dataset"]["name"], spec["dataset"]["source"], spec["base_seed"]]
    )


def _outcome(store: Store, record: RunRecord, line: RunLine) -> Outcome:
    """Each example's answer in the first game that has it: one draw, as for other entries."""
    right: dict[int, bool] = {}
    games: dict[int, int] = {}
    if record.status == "DONE":
        rows = store.rows(record.key)
        found = outcome_of(store, record, rows)
        for (game, index), ok in found.items() if len(found) == len(rows) else ():  # a part would be no fair draw
            if index not in right:
                right[index], games[index] = ok, game
    return Outcome(line, right, games, Sharing.of(record.spec).shared)


def _line(entry: Entry, record: RunRecord, result: dict[str, Any], pace: float | None) -> RunLine:
    done = result["status"] == "DONE"
    spec = record.spec
    answer_s = result["answer_s"]
    coordinates = coordinates_of(spec)
    return RunLine(
        run=result["run"],
        status=result["status"],
        reason=result["reason"],
        entry=entry,
        attack=result["attack"],
        norm=result["norm"],
        eps=result["eps"],
        tier=tier_of(ThreatModel(**spec["threat"])),
        threat=result["threat_in_words"],
        threat_tag=result["threat_in_short"],
        protocol=result["protocol"],
        n=result["n"],
        clean=share(result["clean_accuracy"]),
        robust=share(result["robust_accuracy"]) if done else None,
        answer_s=answer_s,
        seconds=result["seconds"]["total"],
        flags=tuple((flag["id"], flag["message"]) for flag in result["flags"]),
        ranked=done and not any(flag["id"] in UNRANKED for flag in result["flags"]),
        coordinates=coordinates,
        family=_family(_without_places(spec)),
        spent=_spent(result),
        times_base=None if answer_s is None or not pace else answer_s / pace,
    )


def coordinates_of(spec: Mapping[str, Any]) -> dict[str, float]:
    """What curves run over, where it applies to a run."""
    threat, game = spec["threat"], spec["game"]
    found = {"eps": threat["eps"]}
    if game["facts"]["background"] and spec["kind"] != "static":
        found |= {name: value for name, value in game["params"].items() if name != game["facts"]["games_key"]}
        if threat["weights"] in ("simulated", "adapted"):
            found |= {"delay": threat["delay"], "known": threat["known"]}
    if "delta" in spec["defense"]["params"]:
        found["delta"] = spec["defense"]["params"]["delta"]
    return found


def _family(spec: Mapping[str, Any]) -> str:
    """Equal for runs that differ only in their coordinates and in how many examples they have."""
    blank: dict[str, Any] = {**spec, "n": 0, "chosen": None}
    blank["threat"] = {**spec["threat"], "eps": 0, "delay": 0, "known": 0}
    blank["game"] = {"protocol": spec["game"]["protocol"], "source": spec["game"]["source"]}
    blank["defense"] = {**spec["defense"], "params": {**spec["defense"]["params"], "delta": 0}}
    return digest(blank)


def _spent(result: Mapping[str, Any]) -> dict[str, float]:
    """What the attack spent on an example, on average."""
    n = max(result["n"], 1)
    ledger = {name: result["ledger"][name] / n for name in ("forwards", "backwards", "queries", "simulated")}
    return {**ledger, "seconds": result["seconds"]["attack"] / n}


def _order(line: RunLine) -> tuple[str, str, float, str, bool, float, str]:
    """Side by side what may be compared: dataset, norm, eps, attack; there ranked before unranked, robust first."""
    robust = -line.robust.value if line.robust else 1.0
    return *line.board, line.attack, not line.ranked, robust, line.run


def load_audits(store: Store, entries: Mapping[str, Entry]) -> list[AuditLine]:
    """The verdicts of all audits, those that stand best against full knowledge first; entries by the runs' keys."""
    return sorted((_audit(result, entries) for result in store.audits()), key=_standing)


def _standing(line: AuditLine) -> tuple[str, str, float, float, str]:
    full: Share | None = line.tiers[-1][0]
    return line.dataset, line.norm, line.eps, -(full.value if full else -1.0), line.defense


def _audit(result: dict[str, Any], entries: Mapping[str, Entry]) -> AuditLine:
    entry = entries.get(result["runs"].get("pgd-skip", ""))
    flags = [(check["id"], check["message"]) for check in result["checks"] if check["tripped"]]
    if result["failed"]:
        message = f"{', '.join(result['failed'])} FAILED, and the verdict lacks what that might have broken."
        flags.insert(0, ("incomplete", message))
    verdicts = [result["verdict"].get(tier) for tier in TIERS]
    gain = result["gain"]
    return AuditLine(
        defense=result["defense"],
        variant=entry.variant if entry else "",
        base=result["base"],
        dataset=entry.dataset if entry else result["dataset"],
        norm=result["norm"],
        eps=result["eps"],
        budget=result["budget"],
        n=result["n"],
        clean=None if result["clean_accuracy"] is None else 100 * result["clean_accuracy"],
        tiers=tuple(
            (None, "") if verdict is None else (share(verdict["robust_accuracy"]), in_words(verdict["breakers"]))
            for verdict in verdicts
        ),
        gain=None if gain is None else share(gain["difference"]),
        times=None if gain is None else gain["times_the_base"],
        flags=tuple(flags),
    )

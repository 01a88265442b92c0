"""Which runs attack the same entry, and what tells an entry from others with the same names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from bench.cache import digest
from bench.planning.spec import placeless
from bench.store import RunRecord
from leaderboard.content import Entry


def entries_of(records: Iterable[RunRecord]) -> dict[str, Entry]:
    """The entry of every run, by the key of the run."""
    parts = {record.key: _parts(without_folders(record.spec)) for record in records}
    sizes: dict[tuple[str, str], set[int]] = defaultdict(set)
    seeds: dict[tuple[str, str], set[int]] = defaultdict(set)
    namesakes: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = defaultdict(dict)
    for part in parts.values():
        sizes[_points(part)].add(part["test_size"])
        seeds[_points(part)].add(part["seed"])
        namesakes[_names(part)][digest(part)] = part
    entries = {}
    for key, part in parts.items():
        defense, base, dataset = part["names"]
        dataset += _points_in_words(part, len(sizes[_points(part)]) > 1, len(seeds[_points(part)]) > 1)
        variant = _variant(part, namesakes[_names(part)].values())
        extra = "unknown" if _given(part) else "none"
        network = str(part["params"]["model"])
        entries[key] = Entry(digest(part), defense, base, dataset, part["seed"], variant, network, extra)
    return entries


def without_folders(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The spec of a run with file names only, as in its key: the same file in two folders gives the same entry."""
    return {name: placeless(value) for name, value in spec.items()}


def base_key(spec: Mapping[str, Any]) -> str:
    """Identifies the trained network under a run. The time of a defense is compared with that of this network."""
    return digest(
        [spec["base"], spec["network"], spec["dataset"]["name"], spec["dataset"]["source"], spec["base_seed"]]
    )


def _parts(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a spec that makes the entry: without attack, threat model, game and number of examples."""
    params = {f"base.{name}": value for name, value in spec["base"]["params"].items()}
    params |= {f"dataset.{name}": value for name, value in spec["dataset"]["params"].items() if name != "split"}
    if spec["defense"]["name"] != spec["base"]["name"]:
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


def _given(part: Mapping[str, Any]) -> bool:
    """Whether the weights of the network came from elsewhere: its training is not known."""
    return "given" in part["names"][:2] or bool(part["params"].get("base.weights")) or ":" in part["params"]["model"]


def _points(part: Mapping[str, Any]) -> tuple[str, str]:
    return part["names"][2], part["split"]


def _names(part: Mapping[str, Any]) -> tuple[Any, ...]:
    return *part["names"], part["split"], part["seed"]


def _points_in_words(part: Mapping[str, Any], sizes: bool, seeds: bool) -> str:
    """Which points of the dataset were attacked: split, number and seed, each only if it is not always the same.

    Figures over different points stand on different boards.
    """
    words = [part["split"]] if part["split"] != "test" else []
    words += [f"{part['test_size']} points"] if sizes else []
    words += [f"seed {part['seed']}"] if seeds else []
    return f" ({', '.join(words)})" if words else ""


def _variant(part: Mapping[str, Any], namesakes: Iterable[Mapping[str, Any]]) -> str:
    """The parameters in which an entry differs from others with the same names: `delta 0.5, k 128`.

    Two entries with equal parameters and different source code are told apart by a digest of the source.
    """
    params, only_source = part["params"], False
    differing = {"model"} if "given" in part["names"][:2] else set()  # such a base is nothing but its network
    for other in namesakes:
        names = {name for name in params if params[name] != other["params"].get(name)}
        differing |= names
        only_source |= not names and other["sources"] != part["sources"]
    words = [f"{name.removeprefix('defense.').removeprefix('dataset.')} {params[name]}" for name in sorted(differing)]
    return ", ".join([*words, f"source {digest(part['sources'])[:6]}"] if only_source else words)

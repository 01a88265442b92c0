"""Every registered defense under every registered attack, on digits: it runs or says why not, and never cheats."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import plugins, registry
from bench.contracts import Attack
from bench.norms import NORMS
from tests.conftest import Bench, sets

plugins.load_all()
DEFENSES = [entry.name for entry in registry.defenses]
ATTACKS = [entry.name for entry in registry.attacks]

SMALL = {
    "defense__epochs": 1, "defense__k": 64, "defense__bank_steps": 2, "defense__replace_steps": 2,
    "defense__craft_steps": 2, "defense__batch_size": 2,
    "defense__steps": 2, "defense__samples": 8, "defense__proxy_samples": 2,
    "attack__steps": 3, "attack__binary_search_steps": 2, "attack__targets": 2, "attack__square_queries": 20,
    "attack__draws": 20, "attack__rounds": 2, "attack__samples": 2, "attack__copies": 2, "attack__candidates": 2,
    "threat__queries": 6, "threat__resubmits": 2, "threat__delay": 2,
    "game__p": 4, "game__trials": 1,
}  # fmt: skip


#: a network that is given: the mean image of each class, as a linear layer
OWN = """
import torch
from sklearn.datasets import load_digits
from torch import nn

def build(num_classes, image_shape):
    net = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Flatten(), nn.Linear(64, 10))
    bunch = load_digits()
    means = torch.stack([torch.tensor(bunch.data[bunch.target == k] / 16).mean(0) for k in range(10)]).float()
    with torch.no_grad():
        net[0].weight.fill_(1)
        net[0].bias.fill_(0)
        net[2].weight.copy_(means)
        net[2].bias.copy_(-(means**2).sum(1) / 2)
    return net
"""


def of_base(base: str) -> dict[str, object]:
    """Values by which a base is quick; `given` needs a network, and `tent` one with batch norm."""
    if base == "tent":
        return {"base__epochs": 1, "base__model": "cifar-resnet20"}
    if base != "given":
        return {"base__epochs": 3}
    Path("own.py").write_text(OWN)
    return {"base__model": "own.py:build", "surrogate__epochs": 3}


def small_for(defense: str) -> dict[str, object]:
    """The values of `SMALL` that this defense or an attack has."""
    known = {f"{section}.{field}" for section, names in (("attack", registry.attacks), ("defense", registry.defenses))
             for entry in names for field in entry.load().Params.model_fields
             if section == "attack" or (entry.name == defense and not entry.base)}  # fmt: skip
    return {key: value for key, value in SMALL.items()
            if key.partition("__")[0] not in ("attack", "defense") or key.replace("__", ".") in known}  # fmt: skip


@pytest.mark.parametrize("defense", DEFENSES)
def test_every_attack_runs_or_declines(bench: Bench, defense: str) -> None:
    attacks = [part for name in ATTACKS for part in ("--attack", name)]
    done = bench(
        "run",
        "--defense",
        defense,
        *attacks,
        "-n",
        "4",
        "--json",
        "--workers",
        "1",
        *sets(**small_for(defense), **of_base(defense)),
    )
    assert done.code == 0, done.err
    assert [run["attack"] for run in done.runs] == ATTACKS
    for run in done.runs:
        assert run["status"] == "DONE" or (run["status"] == "SKIPPED" and run["reason"])
        assert run["violations"] == 0 and not [flag for flag in run["flags"] if flag["id"] == "V1"]
    # none of ours declines on digits, but for the mean over draws where there are none, and queries without company
    cls = registry.defenses.load(defense)
    declined = set() if cls.randomised else {"eot", "diffhammer"}
    declined |= {"pgd-skip-copies"} if cls.kind == "static" else set()
    declined |= {"unrolled", "apgd-unrolled"} if cls.not_unrolled else set()
    declined |= {"square", "hopskipjump", "hopskipjump-linf", "oars"} if cls.kind == "batch" else set()
    poisons = {"dia", "rttdp", "repeat", "greedy-poison"}
    declined |= poisons if cls.kind == "static" else {"dia"} if cls.kind == "online" else set()
    declined |= {"greedy-poison"} if cls.abstains else set()
    if not cls.differentiable:  # then a backward pass needs a stand-in: bpda
        entries = [registry.attacks[name].resolved() for name in ATTACKS if name != "bpda"]
        declined |= {entry.name for entry in entries if entry.load().needs_gradients
                     and (entry.preset or {}).get("weights") in ("simulated", "adapted")}  # fmt: skip
    assert {run["attack"] for run in done.runs if run["status"] == "SKIPPED"} == declined


@pytest.mark.parametrize("norm", [norm for norm in NORMS if norm != Attack.norm])
def test_every_attack_within_a_radius_runs_in_its_norms_and_declines_the_others(bench: Bench, norm: str) -> None:
    entries = [registry.attacks[name].resolved() for name in ATTACKS]
    unrolling = ("unrolled", "apgd-unrolled")  # they decline rmc in any norm
    entries = [entry for entry in entries if entry.name not in unrolling]
    classes = {entry.name: entry.load() for entry in entries if "eps" not in (entry.preset or {})}
    has_it = {name: norm in (cls.norms or (cls.norm,)) for name, cls in classes.items() if cls.kind == "budget"}
    attacks = [part for name in has_it for part in ("--attack", name)]
    # of attacks that have one norm, or a radius of their own
    others = ("attack__targets", "attack__binary_search_steps", "attack__candidates")
    given = {key: value for key, value in small_for("rmc").items() if key not in others}
    done = bench(
        "run",
        "--defense",
        "rmc",
        *attacks,
        "--norm",
        norm,
        "-n",
        "4",
        "--json",
        "--workers",
        "1",
        *sets(**given, **of_base("regular")),
    )
    assert done.code == 0, done.err
    assert {run["attack"]: run["status"] for run in done.runs} == {
        name: "DONE" if has else "SKIPPED" for name, has in has_it.items()
    }
    for run in done.runs:
        assert run["norm"] == norm and run["violations"] == 0
        assert run["status"] == "DONE" or f"it has no {norm} form" in run["reason"]


@pytest.mark.parametrize("base", [entry.name for entry in registry.defenses if entry.base])
def test_every_runtime_defense_on_every_base(bench: Bench, base: str) -> None:
    names = [entry.name for entry in registry.defenses if not entry.base and entry.name != "tent"]
    runtime = [part for name in names for part in ("--defense", name)]  # tent: only on networks with batch norm
    small = {key: value for key, value in SMALL.items() if key.startswith("defense__") or key == "attack__steps"}
    done = bench(
        "run",
        *runtime,
        "--base",
        base,
        "--attack",
        "bim",
        "-n",
        "4",
        "--json",
        "--workers",
        "1",
        *sets(**small, **of_base(base)),
    )
    assert done.code == 0, done.err
    assert {run["status"] for run in done.runs} == {"DONE"} and {run["base"] for run in done.runs} == {base}

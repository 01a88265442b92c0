"""The attacks that an audit plays, from cheap to expensive, and their budgets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from bench.planning.rules import protocols_with

#: sizes by budget. n: examples; few: examples of attacks that are expensive against a defense that adapts
SIZES: dict[str, dict[str, int]] = {
    "quick": {"n": 30, "few": 10, "queries": 100, "hops": 100, "draws": 1000, "asked": 20, "rounds": 3, "square": 200,
              "steps": 20, "tried": 4},
    "standard": {"n": 100, "few": 20, "queries": 300, "hops": 300, "draws": 10_000, "asked": 200, "rounds": 10,
                 "square": 1000, "steps": 100, "tried": 8},
    "full": {"n": 200, "few": 40, "queries": 1000, "hops": 1000, "draws": 10_000, "asked": 200, "rounds": 10,
             "square": 5000, "steps": 100, "tried": 8},
}  # fmt: skip
BUDGETS = tuple(SIZES)

#: the direct attack: its steps together are four or five radii long, so that a pixel can cross the ball and settle
DIRECT: dict[str, dict[str, Any]] = {
    "quick": {"attack.steps": 40, "attack.rel_step_size": 0.1},
    "standard": {"attack.steps": 100, "attack.rel_step_size": 0.05},
    "full": {"attack.steps": 100, "attack.rel_step_size": 0.05},
}


@dataclass(frozen=True)
class Step:
    """One run of an audit.

    name       unique in the audit; what checks refer to
    counts     its examples enter the worst case; else it only serves a check
    survivors  it attacks only what the steps before it left
    on_base    it is played against the base alone
    eps        factor of the radius, or 0 for no bound
    optional   it is left out where the dataset has too few points for it
    """

    name: str
    attack: str
    n: int
    sets: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    counts: bool = True
    survivors: bool = False
    on_base: bool = False
    eps: float = 1.0
    optional: bool = False


@dataclass(frozen=True)
class Subject:
    """The facts of a defense on which the battery depends.

    is_base  it is a base, or does without one; the others: see `Defense`; unrolls: it can be unrolled
    """

    kind: str
    is_base: bool
    randomised: bool
    differentiable: bool = True
    unrolls: bool = False
    watches_queries: bool = False


def battery(subject: Subject, budget: str) -> list[Step]:
    """The steps of an audit. The first of them that breaks an example is named as its breaker."""
    size = SIZES[budget]
    n, slow = size["n"], subject.kind != "static"
    few = size["few"] if slow else n
    asking: dict[str, Any] = {"game.protocol": protocols_with(background=True)[0]} if subject.kind == "batch" else {}
    if subject.watches_queries:  # what it does about queries is seen only where they are served
        asking["threat.queries_served"] = True
    thorough = {"attack.steps": size["steps"], "attack.square_queries": size["square"]}
    direct = DIRECT[budget]
    # the forward pass through a defense without a gradient, and the backward pass through its proxy
    around = "" if subject.differentiable else "bpda:"
    steps = [
        Step("fgsm", "fgsm", n),
        Step("pgd", "pgd", n),
        Step("autoattack", "autoattack", n, thorough, survivors=not slow),
        Step("gray-box", "gray-box", n),
        Step("transfer", "transfer", n),
        Step("square", "square", few, {"threat.queries": size["queries"], **asking}),
        Step("hopskipjump-linf", "hopskipjump-linf", few, {"threat.queries": size["hops"], **asking}),
        *_watched(subject, size, few),
        Step("pgd-skip-delayed", f"{around}pgd-skip-delayed", n, direct),
        Step("pgd-skip-partial", f"{around}pgd-skip-partial", n, direct),
        Step("pgd-skip", f"{around}pgd-skip", n, direct),
        Step("random-search", "random-search", few, _draws(subject, size)),
        Step("transfer-from-base", "transfer-from-base", n, {**direct, "attack.restarts": 5}),
        *_strength(subject, size, n, direct, around),
    ]
    if slow:
        steps += [Step(name, name, few, {"attack.rounds": size["rounds"]}) for name in ("gmsa-avg", "gmsa-min", "fpa")]
        steps += [
            Step(f"{name}, one round", name, few, {"attack.rounds": 1}, counts=False)
            for name in ("gmsa-avg", "gmsa-min", "fpa")
        ]
    # copies with draws of their own, of a defense whose state comes from its draws; they need its gradient, since no
    # wrapper goes around them
    if slow and subject.randomised and subject.differentiable:
        steps.append(Step("pgd-skip-copies", "pgd-skip-copies", few, direct))
        copied = {"attack.rounds": size["rounds"], "attack.copies": 3}
        steps.append(Step("gmsa-avg, three copies", "gmsa-avg", few, copied))
    steps.append(Step("autoattack-skip", f"{around}autoattack-skip", n, thorough, survivors=True))
    if subject.unrolls:
        unrolled = {"attack.steps": size["steps"]}
        steps.append(Step("apgd-unrolled", "apgd-unrolled", few, unrolled, survivors=True))
    if subject.randomised:
        steps.append(Step("eot:pgd-skip", f"eot:{around}pgd-skip", few, direct, survivors=True))
        steps += [
            Step(
                f"eot, {name} randomness", f"eot:{around}pgd-skip", size["few"], {**direct, "threat.randomness": value},
                counts=False,
            )
            for name, value in (("hidden", "private"), ("known", "shared"))
        ]  # fmt: skip
    if subject.randomised and subject.kind != "batch" and subject.differentiable:
        hammer = {"attack.steps": size["steps"] // 2, "attack.losses": "margin", "threat.resubmits": 1}
        steps.append(Step("diffhammer", "diffhammer", few, hammer, survivors=True))
    if slow:
        steps += _among_others(subject, size, n, few)
    if budget != "quick" and not around:
        steps.append(Step("bpda:pgd-skip", "bpda:pgd-skip", few, direct, survivors=True))
    return steps


def _draws(subject: Subject, size: Mapping[str, int]) -> dict[str, Any]:
    """Fewer draws are asked about where an answer takes steps of its own: a state, or an adaptation to the input."""
    asked = size["draws"] if subject.kind == "static" and not subject.unrolls else size["asked"]
    return {"attack.draws": size["draws"], "threat.queries": asked}


def _watched(subject: Subject, size: Mapping[str, int], few: int) -> list[Step]:
    """Attacks that adapt to refusals, for a defense that watches queries."""
    if not subject.watches_queries:
        return []
    names = {"oars:square": size["queries"], "oars:hopskipjump-linf": size["hops"]}
    return [
        Step(name, name, few, {"threat.queries": queries, "threat.accounts": queries})
        for name, queries in names.items()
    ]


def _among_others(subject: Subject, size: Mapping[str, int], n: int, few: int) -> list[Step]:
    """What other users lose, for a defense that learns from what it serves. No input of theirs is attacked."""
    tried = {"attack.candidates": size["tried"], "attack.victims": size["tried"]}
    sends: list[tuple[str, int, dict[str, Any]]] = [("repeat", n, {}), ("rttdp", n, {}), ("greedy-poison", few, tried)]
    if subject.kind == "batch" and subject.differentiable:
        sends.append(("dia", few, {"attack.steps": size["steps"], "attack.goal": "margins", "threat.share": 0.2}))
    return [Step(name, name, count, sets, counts=False, optional=True) for name, count, sets in sends]


def _strength(subject: Subject, size: Mapping[str, int], n: int, direct: Mapping[str, Any], around: str) -> list[Step]:
    """Variants of the direct attack that its checks need, and what the base alone loses."""
    one_step = {"attack.steps": 1, "attack.rel_step_size": 1}
    steps = [
        Step("pgd-skip, one step", f"{around}pgd-skip", n, one_step, counts=False),
        Step("pgd-skip, half the radius", f"{around}pgd-skip", n, direct, counts=False, eps=0.5),
        Step("pgd-skip, twice the radius", f"{around}pgd-skip", n, direct, counts=False, eps=2.0),
        Step("pgd-skip, no bound", f"{around}pgd-skip", n, direct, counts=False, eps=0.0),
        Step("pgd-skip, twice the work", f"{around}pgd-skip", n,
             {**direct, "attack.steps": 2 * direct["attack.steps"], "attack.restarts": 2}),
    ]  # fmt: skip
    if not subject.is_base:
        thorough = {"attack.steps": size["steps"], "attack.square_queries": size["square"]}
        steps += [
            Step("base: pgd-skip", "pgd-skip", n, direct, counts=False, on_base=True),
            Step("base: pgd", "pgd", n, counts=False, on_base=True),
            Step("base: autoattack", "autoattack", n, thorough, counts=False, on_base=True),
        ]
    return steps

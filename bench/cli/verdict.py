"""The verdict of an audit in a few lines: the worst case, what broke it, what tripped, and what to do."""

from __future__ import annotations

from typing import Any

from bench.analysis.worst_case import breakers_in_words, worst_of
from bench.auditing.findings import CHECKS
from bench.auditing.glossary import term
from bench.cli.tables import share

#: checks of the defense (what it is, gains, and costs others); the others say that an attack was too weak or cheated
_OF_THE_DEFENSE = {id_ for id_ in CHECKS if id_.startswith("M")} | {"S15", "P1"}


def headline(result: dict[str, Any]) -> str:
    """What was audited."""
    on = "" if result["base"] == result["defense"] else f" on {result['base']}"
    return (
        f"{result['defense']}{on}, {result['dataset']}, {result['norm']} {result['eps']:.4g}, {result['n']} examples, "
        f"budget {result['budget']}"
    )


def summary(result: dict[str, Any]) -> list[tuple[str, str]]:
    """The verdict by lines: what each is about, and its text."""
    clean = "not known" if result["clean_accuracy"] is None else f"{100 * result['clean_accuracy']:.1f} %"
    lines = [("clean", clean), ("worst case", _worst(result["verdict"])), ("attacks", _trust(result))]
    flags = ", ".join(result["flags"]) or "none"
    return [*lines, ("flags", f"{flags}, of {len(result['checks'])} checks")]


def to_do(result: dict[str, Any]) -> list[tuple[str, str]]:
    """What follows from each flag and from each step that failed."""
    found = [(flag, known.meaning) for flag in result["flags"] if (known := term(flag)) is not None]
    failed = [(name, f"{result['left_out'][name]} Mend it and give the same command.") for name in result["failed"]]
    return [*failed, *found]


def _worst(verdict: dict[str, Any]) -> str:
    """The lowest figure; of equal ones, that of the attacker who knows least."""
    if not verdict:
        return "not known: no attack was played to its end"
    tier = min(verdict, key=lambda name: worst_of(verdict[name])["robust_accuracy"]["value"])
    broken = breakers_in_words(verdict[tier]["breakers"])
    by = f", broken by {broken}" if broken else ", and nothing broke an example"
    return f"{in_words(verdict[tier])} robust, to an attacker of {tier}{by}"


def in_words(verdict: dict[str, Any]) -> str:
    """The figure of a tier in percent, with how many examples it is over where not every attack saw all."""
    worst, fewer = worst_of(verdict), verdict.get("seen_by_all")
    figure = f"{share(worst['robust_accuracy'])} %"
    if not fewer:
        return figure
    if worst is verdict:
        return f"at most {figure} (some attacks saw {fewer['n']} of the {verdict['n']} examples)"
    more = f"{share(verdict['robust_accuracy'])} %"
    return f"{figure} (of the {fewer['n']} examples that every attack saw; of all {verdict['n']}, at most {more})"


def _trust(result: dict[str, Any]) -> str:
    """What the checks say of the attacks, and what follows for the figure."""
    broken = [*(["V1"] if "V1" in result["flags"] else []), *(f"{name} failed" for name in result["failed"])]
    weak = [flag for flag in result["flags"] if flag not in _OF_THE_DEFENSE and flag != "V1"]
    lowest = min((worst_of(one)["robust_accuracy"]["value"] for one in result["verdict"].values()), default=None)
    said = [f"do not use the figure: {', '.join(broken)}"] if broken else []
    if weak:
        high = "nothing can be lower than 0 %" if lowest == 0 else "the figure may be too high"
        said.append(f"weaker than they look: {', '.join(weak)}; {high}")
    return "; ".join(said) or "no check says that they are too weak"

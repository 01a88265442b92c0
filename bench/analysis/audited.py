"""The verdict of an audit as a value of a program."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from bench.analysis.notebook import facts_of
from bench.analysis.worst_case import worst_of


class Audited:
    """What an audit found.

    verdict   the worst case by what the attacker knows: for each level the share of examples that no attack broke, with
              its interval, and the attacks that broke the others
    flags     identifiers of the checks that tripped, such as M3; checks: all of them, with what they measured
    failed    names of the steps that failed, left_out: why other steps were not played
    runs      the key of the run of each step
    """

    def __init__(self, facts: Mapping[str, Any]) -> None:
        self._facts = dict(facts)

    @property
    def verdict(self) -> dict[str, Any]:
        return copy.deepcopy(self._facts["verdict"])

    @property
    def flags(self) -> list[str]:
        return list(self._facts["flags"])

    @property
    def checks(self) -> list[dict[str, Any]]:
        return copy.deepcopy(self._facts["checks"])

    @property
    def failed(self) -> list[str]:
        return list(self._facts["failed"])

    @property
    def left_out(self) -> dict[str, str]:
        return dict(self._facts["left_out"])

    @property
    def runs(self) -> dict[str, str]:
        return dict(self._facts["runs"])

    def to_dict(self) -> dict[str, Any]:
        """The object that `bench audit --json` prints; a copy of your own."""
        return copy.deepcopy(self._facts)

    def _lines(self) -> list[tuple[str, str]]:
        facts = self._facts
        lines = [("defense", f"{facts['defense']} on {facts['base']}, {facts['dataset']}, eps {facts['eps']:.3g}")]
        if facts["clean_accuracy"] is not None:
            lines.append(("clean accuracy", f"{facts['clean_accuracy']:.1%}"))
        lines += [(f"worst case, {level}", _share(verdict)) for level, verdict in self.verdict.items()]
        tripped = {one["id"]: one["message"] for one in self.checks if one["tripped"]}
        lines += [(f"flag {name}", str(message)) for name, message in tripped.items()]
        return lines + [("failed", ", ".join(self.failed))] * bool(self.failed)

    def __repr__(self) -> str:
        return "\n".join(f"{name}: {value}" for name, value in self._lines())

    def _repr_html_(self) -> str:
        """A table for notebooks."""
        return facts_of(self._lines())


def _share(verdict: Mapping[str, Any]) -> str:
    worst = worst_of(verdict)
    robust = worst["robust_accuracy"]
    return f"{robust['value']:.1%} ({robust['low']:.1%} to {robust['high']:.1%}), n {worst['n']}"

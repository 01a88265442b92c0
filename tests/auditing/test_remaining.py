"""The time that an audit still takes, which learns from what was played; and its verdict in a few lines."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bench.auditing.findings import CHECKS
from bench.auditing.remaining import Remaining
from bench.cli.verdict import headline, summary, to_do
from bench.execution.runner import Listener
from tests.conftest import spec_of


class Told(Listener):
    """Keeps what was said of the whole."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def whole(self, text: str) -> None:
        self.texts.append(text)


def test_the_time_that_is_left_is_that_of_the_pace_here() -> None:
    now = [100.0]
    specs = [replace(spec_of("regular", "fgsm", 10), seed=seed) for seed in range(4)]
    expected = {spec.key: 20.0 for spec in specs} | {"behaviour": 20.0}
    told = Told()
    remaining = Remaining(told, expected, workers=2, clock=lambda: now[0])
    assert remaining.left_s() == 50.0  # nothing is known: two processes share 100 s
    remaining.finished(specs[0], "DONE", "")  # long ago: it says nothing about the pace
    assert remaining.left_s() == 40.0
    remaining.started(specs[1], 0)
    now[0] += 30  # half of it in 30 s: a second of estimate takes three
    remaining.chunk(specs[1], 5, 5)
    assert remaining.left_s() == pytest.approx(70 * 3)
    now[0] += 30
    remaining.chunk(specs[1], 5, None)
    remaining.finished(specs[1], "DONE", "")
    assert remaining.left_s() == pytest.approx(60 * 3)
    del expected[specs[2].key]  # nothing is left to attack there
    remaining.finished(specs[3], "FAILED", "why")
    assert remaining.left_s() == pytest.approx(20 * 3)
    assert told.texts[0] == "1 of 5 steps, about 40 s left" and told.texts[-1] == "3 of 4 steps, about 60 s left"


def result(**values: Any) -> dict[str, Any]:
    """The result of an audit as far as its summary needs it."""
    share = {"value": 0.5, "low": 0.3, "high": 0.7}
    verdict = {
        "train-time": {"robust_accuracy": {**share, "value": 0.8}, "breakers": {"fgsm": 1.0}},
        "aware-realistic": {"robust_accuracy": share, "breakers": {"pgd-skip-delayed": 0.75, "fgsm": 0.25}},
        "aware-full": {"robust_accuracy": share, "breakers": {"pgd-skip": 1.0}},
    }
    told = {"defense": "rmc", "base": "regular", "dataset": "digits", "norm": "linf", "eps": 0.2, "n": 30}
    told |= {"budget": "quick", "clean_accuracy": 0.967, "verdict": verdict, "flags": [], "checks": [{}] * 24}
    return {**told, "failed": [], "left_out": {}, **values}


def test_the_verdict_names_the_worst_case_and_the_one_who_needs_least_for_it() -> None:
    lines = dict(summary(result()))
    assert headline(result()) == "rmc on regular, digits, linf 0.2, 30 examples, budget quick"
    assert lines["worst case"] == (
        "50.0 [30.0, 70.0] % robust, to an attacker of aware-realistic, broken by pgd-skip-delayed 75%, fgsm 25%"
    )
    assert lines["clean"] == "96.7 %" and lines["flags"] == "none, of 24 checks"
    assert lines["attacks"] == "no check says that they are too weak" and to_do(result()) == []
    nothing = dict(summary(result(verdict={}, clean_accuracy=None)))
    assert nothing["worst case"].startswith("not known") and nothing["clean"] == "not known"
    stands = {"aware-full": {"robust_accuracy": {"value": 1.0, "low": 0.9, "high": 1.0}, "breakers": {}}}
    assert dict(summary(result(verdict=stands)))["worst case"].endswith("and nothing broke an example")
    full = {**result()["verdict"]["aware-full"], "n": 30}
    none = {"robust_accuracy": {"value": 0.0, "low": 0.0, "high": 0.3}, "n": 10}
    told = dict(summary(result(verdict={"aware-full": {**full, "seen_by_all": none}}, flags=["S5"])))
    assert told["worst case"].startswith(
        "0.0 [0.0, 30.0] % (of the 10 examples that every attack saw; of all 30, at most 50.0 [30.0, 70.0] %) robust,"
    )
    assert told["attacks"].endswith("nothing can be lower than 0 %")
    more = {"robust_accuracy": {"value": 0.8, "low": 0.4, "high": 0.9}, "n": 10}
    told = dict(summary(result(verdict={"aware-full": {**full, "seen_by_all": more}})))
    assert told["worst case"].startswith("at most 50.0 [30.0, 70.0] % (some attacks saw 10 of the 30 examples) robust")


@pytest.mark.parametrize(
    ("flags", "failed", "said"),
    [
        (["M3", "S15", "P1"], [], "no check says that they are too weak"),
        (["M3", "S5", "V2"], [], "weaker than they look: S5, V2; the figure may be too high"),
        (["V1", "S4"], [], "do not use the figure: V1; weaker than they look: S4; the figure may be too high"),
        ([], ["square"], "do not use the figure: square failed"),
    ],
)
def test_whether_to_believe_it_follows_from_the_attacks(flags: list[str], failed: list[str], said: str) -> None:
    told = result(flags=flags, failed=failed, left_out=dict.fromkeys(failed, "FAILED: no such thing"))
    assert dict(summary(told))["attacks"] == said
    steps = dict(to_do(told))
    assert set(steps) == {*flags, *failed} and all("FAILED: no such thing" in steps[name] for name in failed)
    lost = {"aware-full": {"robust_accuracy": {"value": 0.0, "low": 0.0, "high": 0.1}, "breakers": {"pgd": 1.0}}}
    assert dict(summary({**told, "verdict": lost}))["attacks"] == said.replace(
        "the figure may be too high", "nothing can be lower than 0 %"
    )
    for flag in flags:
        assert CHECKS[flag].meaning[:30] in steps[flag]

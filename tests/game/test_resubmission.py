"""An image that is sent several times: all answers are kept, one wrong one is enough, the clean floor is beside."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from bench.analysis.metrics import resubmission
from bench.errors import BadValue
from bench.rows import REFUSED, Row
from bench.threat import ThreatModel
from tests.conftest import Bench, sets


def row(attacked: list[int], clean: list[int]) -> Row:
    made = Row(0, 0, 0, 3, 3, 3, {"linf": 0.1}, "", "x", "adv", 0, 0, 0, 0, 0, None, None, 0.0, 0.0)
    return replace(made, resent={"attacked": attacked, "clean": clean})


def test_average_worst_and_the_clean_floor_are_over_all_answers() -> None:
    found = resubmission([row([3, 3, 4, 3], [3, 3, 3, 5]), row([3, REFUSED, 3, 3], [3, 3, 3, 3])])
    assert found is not None
    assert (found.times, found.average, found.worst, found.after) == (4, 7 / 8, 1 / 2, {"1": 1.0, "4": 0.5})
    assert (found.clean_average, found.clean_worst) == (7 / 8, 1 / 2)
    refusing = resubmission([row([REFUSED, REFUSED], [REFUSED, REFUSED])])
    assert refusing is not None and refusing.worst == refusing.average == refusing.clean_worst == 0.0
    assert resubmission([replace(row([3], [3]), resent=None)]) is None


def test_a_threat_model_says_how_often_and_keeps_its_old_key_where_once() -> None:
    assert "resubmits" not in ThreatModel().to_dict() and ThreatModel(resubmits=3).to_dict()["resubmits"] == 3
    assert "sends an image 3 times" in ThreatModel(resubmits=3).card()
    with pytest.raises(BadValue, match="resubmits is 0"):
        ThreatModel(resubmits=0)


@pytest.mark.parametrize(
    ("defense", "protocol"), [("noise-vote", "probe"), ("rmc", "probe"), ("rmc", "stream"), ("dent", "stream")]
)
def test_answers_to_all_sends_are_stored_repeated_and_verified(bench: Bench, defense: str, protocol: str) -> None:
    own = {"noise-vote": {"defense__samples": 5}, "dent": {"defense__batch_size": 4}}
    small = own.get(defense, {"defense__k": 64, "defense__epochs": 1, "defense__bank_steps": 2})
    done = bench(
        "run", "--defense", defense, "--attack", "persistent", "-n", "8", "--json", "--workers", "1",
        *sets(base__epochs=5, threat__resubmits=3, attack__steps=5, game__protocol=protocol, **small,
              **({"game__p": 4, "game__trials": 1} if protocol == "probe" else {})),
    )  # fmt: skip
    assert done.code == 0, done.err
    (run,) = [run for run in done.runs if run["attack"] == "persistent"]
    again = run["resubmission"]
    assert again["times"] == 3 and again["worst"] <= again["average"] and set(again["after"]) == {"1", "3"}
    assert again["worst"] == pytest.approx(run["robust_accuracy"]["value"]), "one wrong answer is enough"
    if defense != "noise-vote":  # a mean over all answers, those of copies too
        examples = json.loads(bench("export", run["run"], "--format", "json").out)[0]["examples"]
        assert all(example["adaptation_steps"] > 0 for example in examples)
    assert bench("verify", run["run"]).code == 0

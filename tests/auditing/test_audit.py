"""Every check of an audit in both directions: a planted fault trips it, a sound thing does not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attacks.pgd import PGD
from bench import config, registry
from bench.analysis.harm import Harm
from bench.analysis.pairs import paired
from bench.analysis.worst_case import (
    AttackRun,
    breakers_of,
    gain_over_base,
    over_runs,
    seen_by_all,
    tier_verdict,
    worst_of,
)
from bench.auditing import prepare
from bench.auditing.audit import Player
from bench.auditing.battery import BUDGETS, Step, Subject, battery
from bench.auditing.behaviour import behaviour
from bench.auditing.cost import Pace, costs, times_the_base
from bench.auditing.findings import CHECKS, Finding, finding
from bench.auditing.strength import Played, belief, comparisons, gain, others, planted, settled, silent
from bench.checks.defense import DefenseSubject
from bench.draws import Draws
from bench.execution.runner import Listener
from bench.game.oracle import Trace
from bench.game.resources import Resources
from bench.game.start import other_network
from bench.rows import Row
from bench.settings import Settings
from bench.store import Store
from bench.threat import ThreatModel, tier_of
from bench.values import State
from defenses.rmc import RMC
from tests import planted as faults
from tests.conftest import Bench, spec_of

ROW = Row(
    game=0, position=0, index=0, label=0, answer=0, clean_answer=0, distances={"linf": 0.1, "l2": 0.1, "l0": 1},
    violation="", x_sha256="a",
    adv_sha256="b", forwards=1, backwards=1, queries=0, simulated=0, adaptation_steps=0, believed=False,
    fooled_inside=False, attack_s=0.0, defense_s=0.0,
)  # fmt: skip


def played(right: int, count: int = 100, rows: Sequence[Row] = ()) -> Played:
    """A step under which the first `right` of `count` examples stood."""
    return Played({i: i < right for i in range(count)}, rows)


def found(steps: dict[str, Played], base: str = "regular") -> dict[str, Finding]:
    return {one.id: one for one in comparisons(steps, base)}


# -- the strength of the attack: tables by hand ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("id_", "strong", "weak"),
    [
        ("S1", "pgd-skip", "pgd-skip, one step"),
        ("S2", "pgd-skip", "square"),
        ("S5", "pgd-skip", "pgd-skip, twice the work"),
        ("S8", "pgd-skip", "random-search"),
        ("S9", "pgd-skip", "transfer-from-base"),
        ("S10", "pgd-skip", "hopskipjump-linf"),
        ("S11", "eot, known randomness", "eot, hidden randomness"),
        ("S14", "gmsa-min", "gmsa-min, one round"),
    ],
)
def test_an_attack_that_is_weaker_than_it_should_be_trips_its_check(id_: str, strong: str, weak: str) -> None:
    sound = found({strong: played(20), weak: played(60)})[id_]
    assert not sound.tripped and sound.value == pytest.approx(-0.4)
    faulty = found({strong: played(60), weak: played(20)})[id_]
    assert faulty.tripped and faulty.value == pytest.approx(0.4) and CHECKS[id_].meaning in faulty.message
    same = found({strong: played(20), weak: played(20)})[id_]
    assert not same.tripped and same.value == 0
    chance = found({strong: played(11, 30), weak: played(10, 30)})[id_]
    assert chance.value > CHECKS[id_].threshold and not chance.tripped  # one example of 30 is within the interval
    assert id_ not in found({strong: played(20)})


def test_victims_of_one_game_are_no_independent_evidence() -> None:
    """Eight of 100 fall to the weaker attack alone, all in one of five games: their state may have done it."""
    lucky = {i: not (i % 5 == 0 and i < 40) for i in range(100)}
    steps = {"pgd-skip": played(100), "pgd-skip, one step": Played(lucky, ())}
    alone = {one.id: one for one in comparisons(steps, "rmc")}["S1"]
    games = {one.id: one for one in comparisons(steps, "rmc", {i: i % 5 for i in range(100)})}["S1"]
    assert alone.tripped and alone.value == games.value == pytest.approx(0.08) and not games.tripped


def test_the_surest_black_box_speaks_not_the_luckiest() -> None:
    few = {i: i >= 2 for i in range(20)}  # breaks 2 of 20: 10 points, and may be chance
    steps = {"pgd-skip": played(100), "hopskipjump-linf": Played(few, ()), "gray-box": played(90)}
    black = found(steps)["S2"]
    assert black.tripped and "gray-box" in black.message


def test_accuracies_beside_a_difference_are_over_the_same_examples() -> None:
    steps = {"pgd-skip": played(10, 100), "random-search": played(15, 20)}
    assert "50.0% under pgd-skip, 75.0% under random-search, n 20" in found(steps)["S8"].message


def test_a_black_box_is_held_against_the_worst_case_of_those_who_know() -> None:
    half = {i: i < 50 for i in range(100)}
    other = {i: i >= 50 for i in range(100)}
    steps = {"pgd-skip": Played(half, ()), "autoattack-skip": Played(other, ()), "square": played(30)}
    assert not found(steps)["S2"].tripped and found(steps)["S2"].value == pytest.approx(-0.3)


def test_examples_that_come_back_at_a_larger_radius_trip_s3() -> None:
    names = ("pgd-skip, half the radius", "pgd-skip", "pgd-skip, twice the radius")
    sound = found(dict(zip(names, (played(80), played(50), played(10)), strict=True)))["S3"]
    assert not sound.tripped and sound.value == 0
    back = Played({i: i >= 90 for i in range(100)}, ())
    faulty = found({names[0]: played(80), names[1]: played(50), names[2]: back})["S3"]
    assert faulty.tripped and faulty.value == pytest.approx(0.1)


def test_an_attack_that_fails_without_a_bound_or_on_the_bare_network_trips() -> None:
    assert not found({"pgd-skip, no bound": played(5)})["S4"].tripped
    assert found({"pgd-skip, no bound": played(6)})["S4"].tripped
    assert not found({"base: pgd-skip": played(5), "pgd-skip": played(90)})["S12"].tripped
    assert found({"base: pgd-skip": played(50), "pgd-skip": played(0)})["S12"].tripped
    assert found({"pgd-skip": played(50)})["S12"].tripped
    assert "S12" not in found({"base: pgd-skip": played(50)}, base="pgd-at")


def test_an_iterate_that_was_better_than_what_was_returned_trips_s7() -> None:
    fine = [replace(ROW, fooled_inside=True, believed=True)] * 50 + [ROW] * 50
    lost = [replace(ROW, fooled_inside=True, believed=False)] * 2 + [ROW] * 98
    assert not silent({"p": played(1, rows=fine)}, "p").tripped  # type: ignore[union-attr]
    assert silent({"p": played(1, rows=lost)}, "p").tripped  # type: ignore[union-attr]
    blind = [replace(ROW, fooled_inside=None, believed=None)]
    assert silent({"p": played(1, rows=blind)}, "p") is None and silent({}, "p") is None
    assert belief({"p": played(1, rows=blind)}, "p") is None


def test_what_the_attack_believed_is_held_against_the_judge() -> None:
    agree = [replace(ROW, believed=True, answer=1)] * 4 + [ROW] * 6
    differ = [replace(ROW, believed=True)] * 4 + [ROW] * 6
    assert not belief({"p": played(1, rows=agree)}, "p").tripped  # type: ignore[union-attr]
    trips = belief({"p": played(1, rows=differ)}, "p")
    assert trips is not None and trips.tripped and trips.value == pytest.approx(0.4)


def test_a_loss_that_still_rises_trips_s6() -> None:
    def of(losses: list[float]) -> Finding:
        trace = Trace([None] * len(losses), [torch.full((4,), -loss) for loss in losses], [])
        made = settled(trace, 4, "p")
        assert made is not None
        return made

    flat = of([-9, -5, -3, -2, -1.5] + [-1.4] * 12)
    rising = of([-20 + i for i in range(18)])
    broken = of([-10 + i for i in range(18)])
    assert not flat.tripped and rising.tripped and rising.value == pytest.approx(10 / 17)
    assert not broken.tripped and broken.value == 0  # what was broken need not be attacked longer
    assert not of([-9, -1, *[-5.0] * 12]).tripped  # the best so far counts
    assert settled(Trace(), 4, "p") is None


class Rounded(nn.Module):
    """A linear network behind a rounding."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inside(torch.round(x * 20) / 20)


def test_points_that_are_certainly_adversarial_are_found_where_there_is_a_gradient() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 40))
    x, draws = torch.rand(8, 1, 6, 6) * 0.5 + 0.25, Draws(0, "t", range(8))
    for norm, eps in (("linf", 0.1), ("l2", 0.5), ("l1", 1.5)):
        threat = ThreatModel(norm=norm, eps=eps)
        sound = planted(network, x, threat, 40, 0.1, draws)
        assert not sound.tripped and sound.value >= 0.9
        masked = planted(Rounded(network), x, threat, 40, 0.1, draws)
        assert masked.tripped and masked.value < 0.5


def test_a_gain_that_cannot_be_told_from_nothing_trips_s15() -> None:
    wins = gain(paired([False] * 60 + [True] * 40, [True] * 80 + [True] * 20), 30.0)
    assert not wins.tripped and wins.value > 0.02
    nothing = gain(paired([False] * 60 + [True] * 40, [False] * 58 + [True] * 42), 30.0)
    assert nothing.tripped and "30 times the base's time" in nothing.message


def test_what_other_users_lose_for_sure_trips_p1() -> None:
    def lost(attacked: list[bool], clean: list[bool]) -> Harm:
        return Harm(paired(attacked, clean), [])

    right = [True] * 40
    harms = {"repeat": lost([False, *right[1:]], right), "dia": lost([False] * 12 + right[12:], right)}
    found = others(harms)
    assert found is not None and found.tripped and "+30.0 points" in found.message and "under dia" in found.message
    chance = others({"repeat": harms["repeat"]})  # one of 40: its interval contains 0
    assert chance is not None and chance.value == pytest.approx(1 / 40) and not chance.tripped
    deaf = others({"repeat": lost(right, right)})
    assert deaf is not None and deaf.value == 0 and not deaf.tripped
    assert others({}) is None


@pytest.mark.parametrize(
    ("subject", "names"),
    [
        (Subject("static", False, False), set()),
        (Subject("static", False, True), {"diffhammer", "eot:pgd-skip"}),
        (Subject("static", False, True, differentiable=False), {"eot:pgd-skip"}),
        (Subject("static", False, False, unrolls=True), {"apgd-unrolled"}),
        (Subject("online", False, False), {"repeat", "rttdp", "greedy-poison"}),
        (Subject("online", False, True),
         {"repeat", "rttdp", "greedy-poison", "diffhammer", "eot:pgd-skip", "pgd-skip-copies"}),
        (Subject("online", False, False, watches_queries=True),
         {"repeat", "rttdp", "greedy-poison", "oars:square", "oars:hopskipjump-linf"}),
        (Subject("batch", False, False, unrolls=True), {"repeat", "rttdp", "greedy-poison", "dia", "apgd-unrolled"}),
        (Subject("batch", False, False, differentiable=False), {"repeat", "rttdp", "greedy-poison"}),
    ],
)  # fmt: skip
def test_the_battery_follows_from_what_a_defense_declares(subject: Subject, names: set[str]) -> None:
    steps = {step.name: step for step in battery(subject, "standard")}
    poisons = {"repeat", "rttdp", "greedy-poison", "dia"}
    others = {"diffhammer", "oars:square", "oars:hopskipjump-linf", "eot:pgd-skip", "apgd-unrolled", "pgd-skip-copies"}
    assert set(steps) & (poisons | others) == names
    for name in names:
        among = name in poisons  # nobody's input is attacked, so it counts in no worst case
        assert steps[name].counts != among and steps[name].optional == among


@pytest.mark.parametrize(
    ("subject", "asked"),
    [
        (Subject("static", True, False), 10_000),
        (Subject("static", False, False, unrolls=True), 200),  # an answer takes steps, as one that keeps a state does
        (Subject("online", False, False), 200),
    ],
)
def test_random_draws_are_asked_about_as_far_as_answers_are_cheap(subject: Subject, asked: int) -> None:
    (step,) = [step for step in battery(subject, "standard") if step.name == "random-search"]
    assert step.sets == {"attack.draws": 10_000, "threat.queries": asked}


def test_thresholds_are_crossed_from_the_right_side() -> None:
    for check in CHECKS.values():
        above, below = (finding(check.id, check.threshold + step, "x") for step in (1e-6, -1e-6))
        assert (above.tripped, below.tripped) == ((True, False) if check.sign == "above" else (False, True))
        assert finding(check.id, check.threshold, "x").tripped == (check.sign == "at most")
        assert not finding(check.id, check.threshold + 1, "x", sure=False).tripped


# -- behaviour --------------------------------------------------------------------------------------------------------


def behaved(resources: Resources, cls: type, n: int = 12) -> dict[str, Finding]:
    registry.register_defense("planted", cls)
    return {one.id: one for one in behaviour(DefenseSubject(resources, spec_of("planted", "clean", n=n)))}


@pytest.mark.parametrize(
    ("cls", "id_"),
    [
        (faults.HiddenRandomness, "M1"),
        (faults.RandomUndeclared, "M1"),
        (faults.Softmaxed, "M2"),
        (faults.Counting, "M3"),
        (faults.DeadProxy, "M4"),
        (faults.BatchLeak, "M5"),
        (faults.OrderDependent, "M6"),
        (faults.Tires, "M6"),
        (faults.ForgetsOnRestore, "M7"),
        (faults.LeftTraining, "M8"),
    ],
)
def test_a_planted_fault_trips_its_check_and_a_sound_defense_none(resources: Resources, cls: type, id_: str) -> None:
    assert behaved(resources, cls)[id_].tripped
    sound = behaviour(DefenseSubject(resources, spec_of("regular", "clean")))
    assert [one for one in sound if one.tripped] == [] and {one.id for one in sound} == {f"M{i}" for i in range(1, 10)}


def test_a_defense_with_another_network_than_its_base_trips_a_check_and_one_that_adapts_it_does_not(
    resources: Resources,
) -> None:
    assert behaved(resources, faults.OwnNetwork)["M9"].tripped
    for name in ("rmc", "dent", "anti-adversary", "noise-vote", "deepnn"):
        spec = (
            spec_of(name, "clean", n=12, defense__k=64) if name in ("rmc", "deepnn") else spec_of(name, "clean", n=12)
        )
        run = resources.of(spec)
        assert other_network(run.trained(), run.fitted(), run.points(spec.indices)[0]) == 0.0, name


def test_a_restore_that_forgets_the_optimiser_is_found(resources: Resources) -> None:
    """The weights come back and Adam's moments do not: the next answers are others."""

    class ForgetsMoments(RMC):
        def restore(self, state: State) -> None:
            kept = {name: tensor for name, tensor in self._learner.tensors().items() if name.startswith("adam.")}
            super().restore(State({**state.tensors, **kept}, state.facts))

    registry.register_defense("forgetful", ForgetsMoments)
    subject = DefenseSubject(resources, spec_of("forgetful", "clean", n=12))
    assert {one.id: one.tripped for one in behaviour(subject)}["M7"]


def test_what_is_declared_is_no_fault(resources: Resources) -> None:
    """Declared randomness, batches and states are said, not tripped, except that an answer optimises."""
    assert not behaved(resources, faults.Counting)["M1"].tripped
    for name, tripped in (("dent", {"M3"}), ("noise-vote", set()), ("anti-adversary", {"M3"}), ("rmc", {"M3"})):
        keys = {} if name in ("anti-adversary", "rmc") else {"dent": {"defense__batch_size": 4}}.get(name, {})
        made = behaviour(DefenseSubject(resources, spec_of(name, "clean", n=12, **keys)))
        assert {one.id for one in made if one.tripped} - {"M6"} == tripped


# -- verdicts ---------------------------------------------------------------------------------------------------------


def test_what_an_attacker_knows_is_one_of_four() -> None:
    names = {
        "square": "gray-black-box", "gray-box": "gray-black-box", "transfer": "gray-black-box", "pgd": "train-time",
        "autoattack": "train-time", "transfer-from-base": "train-time", "pgd-skip-delayed": "aware-realistic",
        "pgd-skip-partial": "aware-realistic", "pgd-skip": "aware-full", "fpa": "aware-full", "gmsa-min": "aware-full",
        "bpda": "aware-full", "random-search": "aware-full", "clean": "gray-black-box",
    }  # fmt: skip
    assert {name: tier_of(spec_of("rmc", name).threat) for name in names} == names


def test_the_worst_case_of_a_tier_and_who_broke_what() -> None:
    steps: Any = [("pgd", "train-time"), ("square", "gray-black-box"), ("skip", "aware-full"), ("late", "aware-full")]
    outcomes = {
        "pgd": {0: False, 1: True, 2: True, 3: True},
        "square": {0: True, 1: False},
        "skip": {0: False, 1: True, 2: False, 3: True},
        "late": {0: False, 1: True, 2: False, 3: True},
    }
    assert breakers_of(steps, outcomes, "train-time") == {0: "pgd", 1: None, 2: None, 3: None}
    # what needs the most knowledge comes first, then what anybody could do
    assert breakers_of(steps, outcomes, "aware-full") == {0: "skip", 1: "square", 2: "skip", 3: None}
    verdict = tier_verdict(steps, outcomes, "aware-full", None)
    assert verdict is not None and verdict["robust_accuracy"]["value"] == 0.25 and verdict["n"] == 4
    assert verdict["breakers"] == {"skip": pytest.approx(2 / 3), "square": pytest.approx(1 / 3)}
    in_games = tier_verdict(steps, outcomes, "aware-full", {0: 0, 1: 1, 2: 0, 3: 1})
    assert in_games is not None and "games" in in_games["robust_accuracy"]["method"]
    one_stream = tier_verdict(steps, outcomes, "aware-full", None, "stream")
    assert one_stream is not None and one_stream["robust_accuracy"]["method"] == "Wilson, given this one stream"
    assert tier_verdict(steps, {}, "aware-full", None) is None


def test_a_figure_over_examples_that_some_attacks_did_not_see_stands_beside_that_of_those_that_all_saw() -> None:
    """Four examples; `few` saw the first two, and `rest` what was left of these."""
    steps: Any = [("pgd", "train-time"), ("few", "aware-full"), ("rest", "aware-full")]
    outcomes = {
        "pgd": {0: True, 1: True, 2: True, 3: False},
        "few": {0: False, 1: True},
        "rest": {1: False},
    }
    verdict = tier_verdict(steps, outcomes, "aware-full", {0: 0, 1: 1, 2: 0, 3: 1}, of_the_rest={"rest"})
    assert verdict is not None
    assert (verdict["robust_accuracy"]["value"], verdict["n"]) == (0.25, 4)
    fewer = verdict["seen_by_all"]
    assert (fewer["robust_accuracy"]["value"], fewer["n"]) == (0.0, 2) and worst_of(verdict) == fewer
    assert "2 games" in fewer["robust_accuracy"]["method"]
    # an attack on what is left saw no example that others had broken; of those that stand, it must have seen all
    names, stood = ["pgd", "few", "rest"], {0: False, 1: False, 2: True, 3: False}
    assert seen_by_all(names, outcomes, {"rest"}, stood) == {0, 1}
    assert seen_by_all(names, {**outcomes, "rest": {}}, {"rest"}, {**stood, 1: True}) == {0}
    assert seen_by_all(names, outcomes, (), stood) == {1}
    # where nothing stands that some attack did not see, all is known of every example
    assert seen_by_all(names, outcomes, {"rest"}, {**stood, 2: False}) == {0, 1, 2, 3}
    one_game = tier_verdict(steps, outcomes, "aware-full", {0: 0, 1: 0, 2: 1, 3: 1}, "state", {"rest"})
    assert (
        one_game is not None and one_game["seen_by_all"]["robust_accuracy"]["method"] == "Wilson, given this one state"
    )
    # the tier of `pgd` alone: every attack saw every example
    alone = tier_verdict(steps, outcomes, "train-time", None, of_the_rest={"rest"})
    assert alone is not None and alone["seen_by_all"] is None and worst_of(alone) is alone
    # the lower of the two is told: the figure over all is at most what is left
    better = tier_verdict(
        steps, {**outcomes, "few": {0: True, 1: True}, "rest": {0: True, 1: True}}, "aware-full", None
    )
    assert (
        better is not None and better["seen_by_all"]["robust_accuracy"]["value"] == 1.0 and worst_of(better) is better
    )


def test_the_breaker_is_the_cheapest_and_of_equals_the_one_in_the_fewest_wrappers() -> None:
    def run(key: str, attack: str, cost: float, *right: bool) -> AttackRun:
        return AttackRun(key, attack, "aware-full", cost, dict(enumerate(right)), dict.fromkeys(range(4), 0))

    runs = [
        run("1", "bpda:pgd-skip", 20.0, False, False, True, False),
        run("9", "pgd-skip", 20.0, False, True, True, False),
        run("5", "pgd", 10.0, True, True, True, False),
    ]
    verdict = over_runs(runs, range(4), "aware-full")
    assert verdict is not None
    assert verdict["breakers"] == {name: pytest.approx(1 / 3) for name in ("pgd", "pgd-skip", "bpda:pgd-skip")}


def test_the_gain_is_worst_case_against_worst_case() -> None:
    ours = [{0: True, 1: True, 2: False}, {0: True, 1: False}]
    theirs = [{0: False, 1: True, 2: True, 9: True}]
    value, base, difference = gain_over_base(ours, theirs, None) or pytest.fail()
    assert (value, base) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert (difference.only_a, difference.only_b) == (2, 1)
    assert gain_over_base([{0: True}], [{1: True}], None) is None


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize(
    "subject",
    [Subject("static", True, False), Subject("static", False, True), Subject("online", False, True),
     Subject("batch", False, False), Subject("static", False, False, differentiable=False),
     Subject("static", False, True, differentiable=False)],
)  # fmt: skip
def test_a_battery_names_each_step_once(subject: Subject, budget: Any) -> None:
    steps = battery(subject, budget)
    names = [step.name for step in steps]
    assert len(set(names)) == len(names) and {"fgsm", "pgd", "pgd-skip", "autoattack"} <= set(names)
    assert ("gmsa-min" in names) == (subject.kind != "static") and ("base: pgd" in names) == (not subject.is_base)
    attacks, around = {step.name: step.attack for step in steps}, "" if subject.differentiable else "bpda:"
    assert attacks["pgd-skip"] == f"{around}pgd-skip"
    assert attacks.get("eot:pgd-skip", f"eot:{around}pgd-skip") == f"eot:{around}pgd-skip"
    assert ("eot:pgd-skip" in names) == subject.randomised and ("bpda:pgd-skip" in names) == (
        budget != "quick" and subject.differentiable
    )


def test_the_cost_of_an_answer_is_that_of_a_processor_in_turns_with_the_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A clock that an answer of the defense moves by 6 s and a pass of the network by 2 s, with a pause in between."""
    clock = [0.0]
    monkeypatch.setattr("bench.auditing.cost.time.process_time", lambda: clock[0])
    shapes = []

    class Network(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            clock[0] += 2 + (20 if len(shapes) == 5 else 0)
            return x.flatten(1)[:, :10]

    class Costly(faults.Counting):
        def fork(self, noise_key: int | None = None) -> Any:
            return Costly()

        def predict(self, x: Tensor) -> Tensor:
            shapes.append(len(x))
            clock[0] += 6 + (30 if len(shapes) == 3 else 0)
            return torch.zeros((len(x), 10))

    assert times_the_base(Costly(), Network(), torch.rand(12, 1, 8, 8)) == pytest.approx(3.0)
    assert set(shapes) == {1} and len(shapes) == 10


def test_what_an_audit_costs_is_counted_in_answers_probes_and_passes() -> None:
    """By hand, with 1 s an answer, 0.1 s a probe and 1 ms a pass."""
    direct = {"attack__steps": 10, "attack__restarts": 1, "game__p": 4, "game__trials": 2}
    probed = spec_of("rmc", "pgd-skip", n=6, **direct)
    partial = spec_of("rmc", "pgd-skip-partial", n=6, threat__known=0.5, **direct)
    asked = spec_of("rmc", "square", n=6, threat__queries=50)
    rounds = {"attack__rounds": 3, "attack__steps": 10}
    specs = {
        "skip": probed, "again": probed, "partial": partial, "asked": asked, "base": probed,
        "fpa": spec_of("rmc", "fpa", n=6, **rounds), "gmsa-avg": spec_of("rmc", "gmsa-avg", n=6, **rounds),
    }  # fmt: skip
    steps = [Step(name, name, 6, on_base=name == "base") for name in specs]
    found = costs(steps, specs, Pace(1.0, 0.1, 0.001))
    assert found["skip"] == pytest.approx(6 * (10 * 0.001 + 0.1) + 8)  # a background of 4 in each of two games
    assert found["again"] == pytest.approx(found["skip"] - 8)  # the same background
    assert found["partial"] == pytest.approx(found["again"] + 4)  # its own copy saw half
    assert found["base"] == pytest.approx(6 * 0.01)
    passes = 1 if asked.game.protocol == "probe" else 0
    assert found["asked"] == pytest.approx(6 * (50 * 0.1 + (0.1 if passes else 1)))
    assert found["fpa"] == pytest.approx(6 * (30 * 0.001 + 6 * 0.1 + 2))
    assert found["gmsa-avg"] == pytest.approx(6 * (60 * 0.001 + 6 * 0.1 + 2))


def test_an_ensemble_costs_what_its_parts_cost() -> None:
    """APGD and FAB for each target; Square passes forwards only, which are a third of a pass."""
    effort = {
        "autoattack": 100 * (2 + 9 + 9) + 900 / 3,
        "apgd-unrolled": 100 * 2 * (1 + 10 * 4),  # APGD on the cross-entropy alone, through four steps
    }
    for name, passes in effort.items():
        cls = registry.attacks.load(name)
        made = cls(cls.Params(steps=100, restarts=2, target_classes=9, square_queries=900))
        assert made.effort(ThreatModel()).passes == pytest.approx(passes)


def test_what_others_lose_is_left_out_with_its_reason_where_it_cannot_be_told(
    cache_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More inputs of the attacker than the data set has points, and a run whose clean run has no answers."""
    registry.register_defense("counting", faults.Counting)
    settings = Settings(cache_root, None, "cpu", None, (), 50, 5.0, 1)
    greedy = [replace(one, sets={"threat.share": 0.95}) if one.name == "repeat" else one
              for one in battery(Subject("online", False, False), "quick")]  # fmt: skip
    with monkeypatch.context() as patched:
        patched.setattr("bench.auditing.audit.battery", lambda *asked: greedy)
        few = prepare("counting", "", "digits", "quick", config.load(None), settings, sets={"base.epochs": 1})
    assert set(few.impossible) == {"repeat"} and "lower n or threat.share" in few.impossible["repeat"]
    assert not set(few.impossible) & {step.name for step in few.steps}
    store = Store.open(f"sqlite:///{tmp_path / 'audit.db'}")
    assert Player(few, store, settings).left_out == few.impossible
    plan = prepare("counting", "", "digits", "quick", config.load(None), settings, n=6, sets={"base.epochs": 1})
    (step,) = [step for step in plan.steps if step.name == "repeat"]
    player = Player(plan, store, settings)
    player._run([plan.planned["repeat"]], Listener())
    player._take(step, plan.planned["repeat"].spec)
    assert set(player.harms) == {"repeat"} and not player.left_out
    monkeypatch.setattr("bench.auditing.audit.harm_of", lambda *facts: None)
    blind = Player(plan, store, settings)
    blind._take(step, plan.planned["repeat"].spec)
    assert not blind.harms and "its clean run has no answers" in blind.left_out["repeat"]


def test_an_audit_at_another_radius_attacks_at_it_and_leaves_the_defense_as_it_is(cache_root: Path) -> None:
    settings = Settings(cache_root, None, "cpu", None, (), 50, 5.0, 1)
    plan = prepare("rmc", "", "digits", "standard", config.load(None), settings, eps=0.05)
    usual = prepare("rmc", "", "digits", "standard", config.load(None), settings)
    radii = {name: item.spec.threat.eps for name, item in plan.planned.items()}
    others = {"repeat", "rttdp", "greedy-poison"}  # what is sent among other users' inputs has a radius of its own
    scaled = {"pgd-skip, half the radius": 0.025, "pgd-skip, twice the radius": 0.1, "pgd-skip, no bound": 1.0}
    assert radii == {
        name: scaled.get(name, usual.planned[name].spec.threat.eps if name in others else 0.05)
        for name in usual.planned
    }
    assert usual.main.threat.eps == 0.2 and plan.main.defense == usual.main.defense
    assert plan.main.defense.params["eps"] == 0.2, "its copies are crafted as before"
    assert plan.key != usual.key


# -- whole audits -----------------------------------------------------------------------------------------------------


def audited(cache_root: Path, defense: str, n: int = 20, epochs: int = 40) -> dict[str, Any]:
    """A quick audit in this process, over the registry as it stands."""
    settings = Settings(cache_root, None, "cpu", None, (), 50, 5.0, 1)
    plan = prepare(defense, "", "digits", "quick", config.load(None), settings, n=n, sets={"base.epochs": epochs})
    store = Store.open("audit.db")
    assert store is not None
    player = Player(plan, store, settings)
    player.play(Listener())
    return player.result()


def test_masked_gradients_are_found_by_many_checks(cache_root: Path) -> None:
    registry.register_defense("masked", faults.Masked)
    result = audited(cache_root, "masked", 12)
    assert {"M4", "S2", "S8", "S9", "S13"} <= set(result["flags"])
    assert result["verdict"]["train-time"]["robust_accuracy"]["value"] <= 0.1  # the base's images break it


@pytest.mark.parametrize(
    ("cls", "trips"),
    [(faults.LeavesTheBall, {"V1"}), (faults.ReturnsStart, {"S4", "S8", "S9", "S12"})],
)
def test_a_planted_attack_is_found_out(cache_root: Path, cls: type, trips: set[str]) -> None:
    """In the place of the direct attack: one that leaves the ball, one that returns its start."""
    registry.attacks._entries["pgd-skip"] = replace(registry.attacks["pgd-skip"], target=_with_params(cls))
    assert trips <= set(audited(cache_root, "regular")["flags"])


def test_an_audit_of_an_adversarially_trained_network_is_as_hard_as_direct_calls(cache_root: Path) -> None:
    """Its worst case is at most 3 points above what foolbox's PGD or AutoAttack of its authors gives on the points."""
    import foolbox
    from pyautoattack import AutoAttack

    result = audited(cache_root, "pgd-at", 30)
    assert result["flags"] == []
    settings = Settings(cache_root, None, "cpu", None, (), 50, 5.0, 1)
    plan = prepare("pgd-at", "", "digits", "quick", config.load(None), settings, n=30, sets={"base.epochs": 40})
    resources = Resources(settings)
    x, y = resources.of(plan.main).points(plan.main.indices)
    network, eps = resources.of(plan.main).base().network, plan.main.threat.eps
    torch.manual_seed(0)
    model = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
    attack = foolbox.attacks.LinfPGD(rel_stepsize=0.05, steps=200)
    by_foolbox = attack.run(model, x, foolbox.criteria.Misclassification(y), epsilon=eps)
    library = AutoAttack(network, norm="Linf", eps=eps, seed=0, version="standard", device="cpu")
    library.square.n_queries = 500
    by_library, _ = library.run_standard_evaluation(x, y, batch_size=30)
    strongest = min(float((network(images).argmax(1) == y).float().mean()) for images in (by_foolbox, by_library))
    assert result["verdict"]["aware-full"]["robust_accuracy"]["value"] <= strongest + 0.03


def _with_params(cls: type) -> type:
    """A planted attack with the parameters that the battery sets."""
    return type(cls.__name__, (cls,), {"Params": PGD.Params, "norms": ("linf", "l2"), "__module__": cls.__module__})


class StopsEarly(PGD):
    """Takes two tiny steps, whatever it is told."""

    def __init__(self, params: Any = None) -> None:
        super().__init__(params)
        self.params = self.params.model_copy(update={"steps": self.params.steps // 4, "rel_step_size": 0.01})


def test_an_attack_that_stops_too_early_is_found_out(cache_root: Path) -> None:
    registry.attacks._entries["pgd-skip"] = replace(registry.attacks["pgd-skip"], target=StopsEarly)
    flags = set(audited(cache_root, "regular")["flags"])
    assert {"S6", "S12"} <= flags, flags


def test_the_command_says_its_cost_plays_resumes_and_keeps_its_verdict(bench: Bench) -> None:
    args = ("audit", "regular", "--budget", "quick", "-n", 10, "--workers", 1, "--set", "base.epochs=40")
    dry = bench(*args, "--dry-run")
    assert dry.code == 0 and "steps" in dry.err and not Path("results").exists()
    done = bench(*args, "--json")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert "about s" in done.err
    assert set(result) >= {"defense", "base", "dataset", "verdict", "gain", "checks", "flags"}
    assert result["gain"] is None and result["verdict"]["aware-full"]["robust_accuracy"]["value"] <= 0.1
    assert [check["id"] for check in result["checks"] if check["tripped"]] == result["flags"]
    assert set(result["checks"][0]) == {"id", "value", "threshold", "tripped", "message"}
    again = bench(*args, "--json")
    assert ": started" not in again.err and json.loads(again.out)["runs"] == result["runs"]
    store = Store.open(config.load(None).store.db)
    assert store is not None and [kept["defense"] for kept in store.audits()] == ["regular"]
    text = bench(*args)
    assert "worst case by" in text.out and "checks" in text.out


def test_a_step_that_fails_is_named_and_tried_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    args = ("audit", "regular", "--budget", "quick", "-n", 4, "--workers", 1, "--set", "base.epochs=40", "--json")

    def broken(*given: object) -> torch.Tensor:
        raise RuntimeError("no such thing")

    with monkeypatch.context() as patch:
        patch.setattr("attacks.query.Square.perturb", broken)
        done = bench(*args)
    result = json.loads(done.out)
    assert done.code == 1 and result["failed"] == ["square"]
    assert result["left_out"]["square"].startswith("FAILED") and "no such thing" in result["left_out"]["square"]
    again = bench(*args)
    assert again.code == 0 and json.loads(again.out)["failed"] == []


def test_an_audit_that_cannot_begin_says_why(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*given: object) -> torch.Tensor:
        raise RuntimeError("no such thing")

    monkeypatch.setattr("attacks.gradient.FoolboxAttack.perturb", broken)
    fresh = ("--set", "base.epochs=7")  # of another base no images are kept
    done = bench("audit", "regular", "--budget", "quick", "-n", 4, "--workers", 1, *fresh)
    assert done.code == 1 and done.out == ""
    assert "The audit cannot begin: fgsm FAILED" in done.err and "no such thing" in done.err


def test_only_what_is_left_is_attacked_and_such_a_run_is_not_ranked(bench: Bench) -> None:
    args = ("audit", "regular", "--budget", "quick", "-n", 12, "--workers", 1, "--set", "base.epochs=6", "--json")
    result = json.loads(bench(*args).out)
    left = [name for name in ("autoattack", "autoattack-skip") if name in result["runs"]]
    assert left, "the network is trained so briefly that PGD leaves nothing; train it longer"
    shown = json.loads(bench("show", result["runs"][left[0]], "--json").out)
    assert 0 < shown["n"] < 12 and [flag["id"] for flag in shown["flags"]] == ["survivors"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("regular", "--budget", "huge"), "--budget is 'huge'"),
        (("regulr",), "Did you mean 'regular'"),
        (("regular", "-n", "1"), "at least 2"),
        (("regular", "--set", "defense.kk=3"), "defense.kk"),
        (("noise-vote", "--set", "game.repeats=3"), "plays every game once"),
    ],
)
def test_a_wrong_request_is_one_line(bench: Bench, args: tuple[str, ...], message: str) -> None:
    done = bench("audit", *args)
    assert done.code == 2 and message in done.err and not Path("results").exists()

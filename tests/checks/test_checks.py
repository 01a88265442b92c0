"""`bench check` holds for every registered name, and each check finds its planted fault."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import checks, config, plugins, registry
from bench.errors import BadValue
from bench.game.resources import Resources
from tests import planted
from tests.conftest import Bench

plugins.load_all()
DEFENSES = [entry.name for entry in registry.defenses if entry.name != "given"]  # it has no network by itself
ATTACKS = [entry.name for entry in registry.attacks]


#: what a plug-in owes does not depend on how long it adapts or trains; tent needs batch norm, which the digits' own
#: network has not
QUICK = {
    "tent": 'base.regular = { model = "cifar-resnet20", epochs = 1 }',
    "rmc": 'defense.rmc = { k = 64, epochs = 1, bank_steps = "5" }',
    "rmc-plus": 'defense.rmc-plus = { k = 64, epochs = 1, bank_steps = "5", replace_steps = 5 }',
    "knn-at": "defense.knn-at = { k = 64, epochs = 1, craft_steps = 2 }",
    "purify": "dataset.digits.defense.purify = { epochs = 2, width = 8 }",
    **{
        base: f"dataset.digits.base.{base}.epochs = 2"
        for base in ("fgsm-at", "pgd-at", "jacobian", "cross-lipschitz", "feature-denoising")
    },
}


def run(resources: Resources, name: str, kind: str, base: str = "") -> dict[str, checks.Result]:
    toml = None
    if text := QUICK.get(name if kind == "defense" else base):
        toml = Path("quick.toml")
        toml.write_text(text)
    return {r.name: r for r in checks.run_checks(name, kind, config.load(toml), resources, "digits", base)}


@pytest.mark.parametrize("name", DEFENSES)
def test_every_registered_defense_keeps_the_contract(resources: Resources, name: str) -> None:
    results = run(resources, name, "defense")
    assert len(results) == len(checks.DEFENSE_CHECKS)
    assert [r for r in results.values() if not r.passed] == []


#: what an attack that declines `regular` is checked against instead
INSTEAD = {
    "unrolled": "anti-adversary", "apgd-unrolled": "anti-adversary",  # they need an adaptation
    "eot": "random-transform", "diffhammer": "random-transform",  # they need draws
    "dia": "dent", "rttdp": "dent", "repeat": "dent", "pgd-skip-copies": "rmc",  # they need a state
    "greedy-poison": "dent",
}  # fmt: skip


@pytest.mark.parametrize("base", ["", "rmc"])
@pytest.mark.parametrize("name", ATTACKS)
def test_every_registered_attack_keeps_the_contract(resources: Resources, name: str, base: str) -> None:
    if base == "rmc" and name in ("unrolled", "apgd-unrolled", "dia"):
        with pytest.raises(BadValue, match=f"^{name} declines rmc: .* It can be checked with --base {INSTEAD[name]}"):
            run(resources, name, "attack", base)
        return
    results = run(resources, name, "attack", base)
    said = results["declines with a reason or runs"].message
    if base or name not in INSTEAD:
        assert said == f"runs against {base or 'regular'}"
    else:
        assert said.startswith(f"runs against {INSTEAD[name]}; {name} declines regular: ")
    assert len(results) == len(checks.ATTACK_CHECKS)
    assert [r for r in results.values() if not r.passed] == []


@pytest.mark.parametrize(
    ("name", "base"),
    [("eot:bpda:pgd-skip", "random-transform"), ("eot:unrolled:pgd-skip", "ttc"), ("bpda:unrolled", "anti-adversary")],
)  # fmt: skip
def test_wrappers_in_wrappers_keep_the_contract(resources: Resources, name: str, base: str) -> None:
    results = run(resources, name, "attack", base)
    assert [r for r in results.values() if not r.passed] == []
    assert results["declines with a reason or runs"].message == f"runs against {base}"


@pytest.mark.parametrize(
    "cls",
    [
        planted.Wrapped, planted.Counting, planted.Batched, planted.BigBatches, planted.CopiesBox,
        planted.SoundNeighbours, planted.Detector, planted.Remembering,
    ],
)  # fmt: skip
def test_sound_plug_ins_of_all_three_kinds_pass(resources: Resources, cls: type) -> None:
    registry.register_defense("sound", cls)
    assert [r for r in run(resources, "sound", "defense").values() if not r.passed] == []


@pytest.mark.parametrize(
    ("cls", "check"),
    [
        (planted.WritesIntoInput, "answers leave their input alone"),
        (planted.HiddenRandomness, "no hidden randomness"),
        (planted.ForgetsOnRestore, "restore undoes answers bit for bit"),
        (planted.ForgetsOnRestore, "a snapshot survives the disk"),
        (planted.LeakyFork, "forks are independent"),
        (planted.LivingSnapshot, "a snapshot stays as it was"),
        (planted.RestoresAlias, "restore undoes answers bit for bit"),
        (planted.SameLogits, "restore undoes answers bit for bit"),
        (planted.CountingNeighbours, "probe equals fork and predict"),
        (planted.AnswersIntoBase, "answers leave their input alone"),
        (planted.StatefulButStatic, "a static answer ignores the stream"),
        (planted.BatchLeak, "cutting the stream changes nothing"),
        (planted.NotRandomAsDeclared, "declared randomness is true"),
        (planted.RandomUndeclared, "declared randomness is true"),
        (planted.NanDefense, "answers finite logits"),
        (planted.WrongShapeDefense, "answers finite logits"),
        (planted.RaisingDefense, "answers finite logits"),
        (planted.NoColumnForRefusals, "answers finite logits"),
        (planted.RefusesUndeclared, "answers finite logits"),
        (planted.RefusesEverything, "some inputs are answered"),
        (planted.RefusesWhatItWouldGetWrong, "test labels shape no answer"),
        (planted.RefusesTheBrightestOfTheCall, "cutting the stream changes nothing"),
        (planted.RefusesTheBrightestOfTheCall, "a static answer ignores the stream"),
        (planted.RemembersProbes, "probe equals fork and predict"),
        (planted.ProxyNeverRefuses, "the proxy has gradients"),
        (planted.DeadProxy, "the proxy has gradients"),
        (planted.LivingProxy, "the proxy has gradients"),
    ],
)
def test_a_planted_fault_trips_its_check(resources: Resources, cls: type, check: str) -> None:
    registry.register_defense("faulty", cls)
    result = run(resources, "faulty", "defense")[check]
    assert not result.passed and result.message and "\n" not in result.message


def test_a_defense_that_cannot_be_fitted_is_asked_nothing_else(resources: Resources) -> None:
    registry.register_defense("faulty", planted.CannotBeFitted)
    results = run(resources, "faulty", "defense")
    assert [(r.name, r.passed, r.message) for r in results.values()] == [
        ("is fitted", False, "raised ValueError: nothing to adapt")
    ]
    with pytest.raises(BadValue, match=r"^pgd cannot be checked against faulty, which raised ValueError: nothing to"):
        run(resources, "pgd", "attack", "faulty")


def test_what_a_defense_needs_can_be_set(bench: Bench) -> None:
    done = bench("check", "tent")
    assert done.code == 1 and done.out.count("FAIL") == 1 and "--set base.model=cifar-resnet20" in done.out
    done = bench("check", "tent", "--set", "base.model=cifar-resnet20", "--set", "base.epochs=1")
    assert done.code == 0 and "FAIL" not in done.out and "ok    is fitted: on regular, digits" in done.out
    done = bench("check", "dia", "--base", "tent", "--in-process")
    assert done.code == 2 and "cannot be checked against tent" in done.err and len(done.err.splitlines()) == 1


def test_a_copy_of_the_network_may_be_changed(resources: Resources) -> None:
    registry.register_defense("sound", planted.AnswersIntoCopy)
    assert run(resources, "sound", "defense")["answers leave their input alone"].passed


@pytest.mark.parametrize(
    ("cls", "check"),
    [
        (planted.LeavesTheBall, "stays in the ball and the box"),
        (planted.LeavesTheBox, "stays in the ball and the box"),
        (planted.NanAttack, "returns images of the right shape"),
        (planted.WrongShapeAttack, "returns images of the right shape"),
        (planted.RaisingAttack, "same seed same images"),
        (planted.GlobalRandomAttack, "same seed same images"),
        (planted.NoisyAtZero, "no radius no change"),
        (planted.Remembers, "remembers nothing"),
        (planted.Appends, "remembers nothing"),
        (planted.Forgets, "remembers nothing"),
        (planted.Trains, "remembers nothing"),
        (planted.AsksForWeights, "returns images of the right shape"),
    ],
)
def test_a_planted_attack_trips_its_check(resources: Resources, cls: type, check: str) -> None:
    registry.register_attack("faulty", cls)
    assert not run(resources, "faulty", "attack")[check].passed


def test_an_attack_may_hold_what_it_leaves_as_it_is(resources: Resources) -> None:
    registry.register_attack("sound", planted.KeepsParts)
    assert run(resources, "sound", "attack")["remembers nothing"].passed


def test_an_attack_that_declines_everything_is_not_checked(resources: Resources) -> None:
    registry.register_attack("declining", planted.Declining)
    with pytest.raises(BadValue, match=r"declines regular: not today\. None of regular, .*, rmc can stand in; give a"):
        run(resources, "declining", "attack")


@pytest.mark.parametrize(
    ("cls", "said"),
    [
        (planted.Wavering, "and now 'not"),
        (planted.FailsToDecline, "raised Runtime"),
        (planted.LeavesInsteadOfDeclining, "raised SystemExit"),
    ],
)
def test_an_attack_that_declines_wrongly_trips_the_first_check(resources: Resources, cls: type, said: str) -> None:
    registry.register_attack("wavering", cls)
    result = run(resources, "wavering", "attack")["declines with a reason or runs"]
    assert not result.passed and said in result.message


def test_a_defense_that_an_attack_declines_is_refused_in_one_line(bench: Bench) -> None:
    done = bench("check", "apgd-unrolled", "--base", "rmc", "--in-process")
    assert done.code == 2 and len(done.err.splitlines()) == 1
    assert "declines rmc: rmc cannot be unrolled" in done.err and "--base anti-adversary" in done.err

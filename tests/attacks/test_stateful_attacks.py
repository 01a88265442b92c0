"""Attacks that adapt to refusals, and attacks that weigh the draws of a random defense."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attacks.diffhammer import LOSSES, DiffHammer, _Best
from attacks.oars import OARS, HopSkipJumpWalk, SquareWalk, tuned
from attacks.query import HopSkipJump, Square
from attacks.steps import inside, unit, within_radius
from bench import registry
from bench.contracts.oracle import Reply, margins
from bench.draws import Draws
from bench.threat import ThreatModel
from tests.conftest import Bench, sets


@pytest.mark.parametrize(("needed", "whole"), [(17, True), (10, True), (100, True), (1.4, False)])
def test_a_search_finds_the_smallest_value_that_is_tolerated(needed: float, whole: bool) -> None:
    low, high = (10, 100) if whole else (1.0, 2.0)
    found = tuned(low, high, 0.0, 3, lambda value: value < needed, whole)
    assert found == needed if whole else needed <= found <= needed + 0.1
    assert tuned(low, high, 0.0, 3, lambda value: True, whole) == high, "where none is tolerated, the largest"
    turns = iter(range(10_000))
    half = tuned(10, 100, 0.5, 4, lambda value: next(turns) % 2 == 0, True)
    assert half == 10, "every second refusal is tolerated"


class Monitor:
    """A linear network behind a monitor that refuses an image within `near` (linf) of an earlier one."""

    def __init__(self, near: float, eps: float, queries: int, norm: str = "linf") -> None:
        self.near, self.seen, self.left, self.refusals = near, [], queries, 0
        self.threat = ThreatModel(eps=eps, queries=queries, queries_served=True, accounts=queries, norm=norm)
        self.weight = torch.linspace(-1, 1, 36).view(1, 1, 6, 6)

    def report(self, line: str) -> None:
        pass

    def queries_left(self, row: int) -> int:
        return self.left

    def logits(self, x: Tensor) -> Tensor:
        score = ((x - 0.5) * self.weight).flatten(1).sum(1)
        return torch.stack([-score + 0.5, score], 1)

    def ask(self, x: Tensor, rows: list[int]) -> Reply:
        self.left -= 1
        refused = any(float((x - old).abs().mean()) < self.near for old in self.seen)
        self.seen.append(x.clone())
        self.refusals += refused
        return Reply(self.logits(x), torch.tensor([refused]))


@pytest.mark.parametrize(("near", "refused"), [(0.0, False), (0.03, True)])
def test_oars_square_gets_past_a_monitor_of_close_queries(near: float, refused: bool) -> None:
    oracle, x, y = Monitor(near, 0.05, 400), torch.full((1, 1, 6, 6), 0.5), torch.tensor([0])
    attack = OARS.around(Square)(OARS.Params())
    found = attack.perturb(oracle, x, y, Draws(0, "attack", [0]))  # type: ignore[arg-type]
    assert float((found - x).abs().max()) <= 0.05 + 1e-6
    assert float(margins(oracle.logits(found), y)[0]) < 0, "the image fools it"
    assert bool(oracle.refusals) == refused and len(oracle.seen) <= 400
    assert any(torch.equal(found, old) for old in oracle.seen), "and it is one that was accepted"


def test_oars_hopskipjump_walks_towards_the_image_past_a_monitor() -> None:
    oracle, x, y = Monitor(0.01, 1.0, 600, "l2"), torch.full((1, 1, 6, 6), 0.5), torch.tensor([0])
    attack = OARS.around(HopSkipJump)(OARS.Params(radius_low=0.2, radius_high=1.0))
    assert attack.kind == "minimal" and attack.norm == "l2"
    found = attack.perturb(oracle, x, y, Draws(0, "attack", [0]))  # type: ignore[arg-type]
    assert float(margins(oracle.logits(found), y)[0]) < 0 and oracle.refusals > 0
    start = next(old for old in oracle.seen if float(margins(oracle.logits(old), y)[0]) < 0)
    nearest = 0.25 / float(oracle.weight.norm())  # the distance of x to the boundary, where the margin is 0
    assert nearest <= float((found - x).norm()) < min(float((start - x).norm()) / 5, 3 * nearest)


def test_where_queries_are_few_the_clean_image_is_left() -> None:
    oracle, x, y = Monitor(0.0, 0.01, 3), torch.full((1, 1, 6, 6), 0.5), torch.tensor([0])
    found = OARS.around(HopSkipJump)(OARS.Params()).perturb(oracle, x, y, Draws(0, "attack", [0]))  # type: ignore[arg-type]
    assert oracle.left == 0 and found.shape == x.shape


def test_forms_of_other_attacks_decline_and_say_which_there_are(bench: Bench) -> None:
    assert (OARS.around(Square).form, OARS.around(HopSkipJump).form) == (SquareWalk, HopSkipJumpWalk)
    done = bench(
        "run", "--defense", "blacklight", "--attack", "oars:random-search", "-n", "2", "--workers", "1",
        *sets(base__epochs=2),
    )  # fmt: skip
    assert "RandomSearch has no form that adapts to refusals; square and hopskipjump have one" in " ".join(
        (done.out + done.err).split()
    )
    entry = registry.attacks["oars:square"].resolved()
    assert entry.preset == {"weights": "none", "queries": 1000, "queries_served": True}
    assert entry.sections == ["oars"] and "accounts" in (entry.free or ())


def test_steps_stay_in_the_ball_and_the_box() -> None:
    torch.manual_seed(0)
    x, far = torch.rand(3, 1, 4, 4), torch.rand(3, 1, 4, 4) * 4 - 2
    for norm, length in (("linf", lambda z: z.abs().flatten(1).amax(1)), ("l2", lambda z: z.flatten(1).norm(dim=1))):
        moved = inside(x, far, 0.3, norm)
        assert bool((length(moved - x) <= 0.3 + 1e-6).all()) and bool(((moved >= 0) & (moved <= 1)).all())
        assert torch.allclose(length(unit(far, norm)), torch.ones(3))
        small = 0.01 * far / length(far).view(-1, 1, 1, 1)
        assert torch.allclose(within_radius(small, 0.3, norm), small)


def test_the_draw_that_can_be_broken_decides_the_direction() -> None:
    """Draw 0 is far from its boundary and pulls up; draw 1 is at it and pulls down. The mean would go up."""
    attack = DiffHammer(DiffHammer.Params(draws=2, sharpness=10.0))
    gradients = torch.tensor([3.0, -1.0]).view(2, 1, 1, 1, 1)
    losses = torch.tensor([[-5.0], [0.1]])
    assert float(attack._direction(losses, gradients, 0.1, "linf")) == -1
    mean = gradients.mean(0)
    assert float(mean) > 0
    equal = attack._direction(torch.tensor([[0.1], [0.1]]), gradients, 0.1, "linf")
    assert float(equal) == 1, "of draws alike, the larger gradient leads"


def test_the_image_is_kept_that_breaks_most_draws() -> None:
    best = _Best(torch.zeros(1, 1, 1, 1))
    for value, gaps in ((0.1, [1.0, 1.0]), (0.2, [-0.1, 1.0]), (0.3, [-5.0, 1.0]), (0.4, [2.0, -1.0])):
        best.keep(torch.full((1, 1, 1, 1), value), torch.tensor(gaps)[:, None])
    assert float(best.images) == pytest.approx(0.3)
    best.keep(torch.full((1, 1, 1, 1), 0.5), torch.tensor([-0.1, -0.1])[:, None])
    assert float(best.images) == pytest.approx(0.5)


@pytest.mark.parametrize("name", list(LOSSES))
def test_losses_rise_as_the_margin_falls(name: str) -> None:
    y = torch.tensor([0, 0])
    loss = LOSSES[name](torch.tensor([[3.0, 1.0, 0.0], [1.0, 3.0, 0.0]]), y)
    assert loss.shape == (2,) and float(loss[1]) > float(loss[0])


@pytest.mark.parametrize("defense", ["random-transform", "hedge", "noise-vote"])
def test_diffhammer_plays_random_defenses_of_every_kind_and_repeats(bench: Bench, defense: str) -> None:
    own = {"noise-vote": {"defense__samples": 4}, "hedge": {"defense__steps": 2}}.get(defense, {})
    args = ["run", "--defense", defense, "--attack", "diffhammer", "-n", "4", "--json", "--workers", "1",
            *sets(base__epochs=4, attack__steps=2, attack__draws=2, threat__resubmits=3, game__p=4, game__trials=1,
                  **own)]  # fmt: skip
    done = bench(*args)
    assert done.code == 0, done.err
    (run,) = done.runs
    assert run["violations"] == 0 and run["resubmission"]["times"] == 3 and run["ledger"]["forwards"] > 0
    assert bench("verify", run["run"]).code == 0
    (again,) = bench(*args, "--rerun", "all").runs
    assert again["robust_accuracy"] == run["robust_accuracy"]


def test_diffhammer_declines_where_nothing_is_drawn(bench: Bench) -> None:
    done = bench("run", "--defense", "regular", "--attack", "diffhammer", "-n", "2", "--json", "--workers", "1",
                 *sets(base__epochs=2))  # fmt: skip
    assert [(run["status"], "not randomised" in run["reason"]) for run in done.runs] == [("SKIPPED", True)]


def test_gmsa_over_copies_looks_for_what_fools_the_copy_that_stands_best(bench: Bench) -> None:
    """The copies draw replacements of their own, so more of them cost more and answer as one where nothing is drawn."""
    args = ["run", "--defense", "rmc-plus", "-n", "4", "--json", "--workers", "1",
            *sets(base__epochs=4, defense__epochs=1, defense__k=32, defense__bank_steps=2, defense__replace_steps=1,
                  attack__steps=3, attack__rounds=2)]  # fmt: skip
    one, three = (bench(*args, "--attack", "gmsa-avg", *sets(attack__copies=count)).runs[0] for count in (1, 3))
    assert one["status"] == three["status"] == "DONE" and one["violations"] == three["violations"] == 0
    assert three["ledger"]["simulated"] >= 2 * one["ledger"]["simulated"]
    assert bench("verify", three["run"]).code == 0
    (copies,) = bench(
        *args[:-2], "--attack", "pgd-skip-copies", *sets(attack__copies=2, game__p=4, game__trials=1)
    ).runs
    assert copies["status"] == "DONE" and copies["ledger"]["simulated"] == 2 * 4, "each copy served the background"
    assert bench("verify", copies["run"]).code == 0


@pytest.mark.parametrize("inside", ["fpa", "pgd-skip-copies", "diffhammer"])
def test_a_wrapper_that_would_do_nothing_declines(bench: Bench, inside: str) -> None:
    done = bench("run", "--defense", "rmc", "--attack", f"eot:{inside}", "-n", "2", "--json", "--workers", "1",
                 *sets(base__epochs=2, defense__epochs=1, defense__k=16, defense__bank_steps=1, game__p=2,
                       game__trials=1) if inside != "fpa" else
                 sets(base__epochs=2, defense__epochs=1, defense__k=16, defense__bank_steps=1))  # fmt: skip
    assert done.code == 0, done.err
    assert [(run["status"], "would do nothing" in run["reason"]) for run in done.runs] == [("SKIPPED", True)]

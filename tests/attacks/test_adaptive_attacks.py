"""Attacks on what adapts, what is random and what has no gradient; AutoAttack against its authors' own cascade."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from attacks.random_search import RandomSearch, RandomSearchParams
from attacks.transductive import FPA, GMSAAvg, GMSAMin
from bench import registry
from bench.contracts import DefenseInfo
from bench.draws import Draws
from bench.errors import AccessDenied, UnknownName
from bench.execution.progress import PlainListener
from bench.game.crafting import Crafted, craft
from bench.game.judge import rule
from bench.game.oracle import GameOracle
from bench.game.resources import Resources
from bench.norms import DESCENDED, ball_of
from bench.pgd import pgd
from bench.threat import ThreatModel
from tests import planted
from tests.conftest import Bench, spec_of


def crafted(
    resources: Resources, defense: str, attack: str, n: int, **values: object
) -> tuple[Crafted, Tensor, Tensor]:
    """Images of an attack on a defense that has served nothing, with x and y; they keep to the threat model."""
    spec = spec_of(defense, attack, n=n, **values)
    x, y = resources.of(spec).points(spec.indices)
    serving = resources.of(spec).serving(spec.noise_key(0))
    oracle = resources.of(spec).oracle(0, None if spec.game.protocol == "replay" else serving)
    made = craft(resources.of(spec).attack, oracle, x, y, spec, spec.indices)
    assert not [ruling.violation for ruling in rule(x, made.images, spec.threat, True) if ruling.violation]
    return made, x, y


class Toy:
    """An oracle over a defense of two pixels and a linear network, for what can be computed by hand."""

    def __init__(self, threat: ThreatModel, defense: object = None, kind: str = "static") -> None:
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        with torch.no_grad():
            self.network[1].weight.copy_(torch.tensor([[4.0, 0, 0, 0], [0, 4, 0, 0], [0, 0, 4, 0]]))
            self.network[1].bias.zero_()
        info = DefenseInfo("toy", kind, True, False)
        self.oracle = GameOracle(
            threat, info, classes=2, trained=self.network, deployed=defense, fresh=lambda noise: defense.fork(noise)
        )
        self.x = torch.tensor([[[[0.9, 0.1], [0.1, 0.5]]], [[[0.1, 0.9], [0.2, 0.5]]]])
        self.y = torch.tensor([0, 1])
        self.oracle.begin(self.x, self.y, [7, 9])


# -- AutoAttack -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("norm", "count"), [("linf", 200), ("l1", 100)])
def test_autoattack_is_as_strong_as_the_library_s_own(resources: Resources, norm: str, count: int) -> None:
    """The same images and base: at most a point weaker, and every point that is not fooled is left as it was."""
    from pyautoattack import AutoAttack

    logging.getLogger("auto-attack").setLevel(logging.ERROR)
    settings = {"attack__steps": 20, "attack__square_queries": 200, "base__epochs": 20}
    if norm == "l1":  # what their standard version takes there
        settings |= {"attack__restarts": 5, "attack__target_classes": 5}
    found, theirs = 0, 0
    spec = spec_of("pgd-at", "autoattack", n=count, **settings)
    spec = replace(
        spec, threat=spec.threat.with_fields({"norm": norm, "eps": {"linf": spec.threat.eps, "l1": 1.5}[norm]})
    )
    network = resources.of(spec).base().network
    for block in range(count // 100):
        indices = spec.indices[block * 100 : block * 100 + 100]
        x, y = resources.of(spec).points(indices)
        made = craft(resources.of(spec).attack, resources.of(spec).oracle(0, None), x, y, spec, indices)
        right = network(made.images).argmax(1) == y
        found += int(right.sum())
        assert torch.equal(made.images[right], x[right])
        library = AutoAttack(
            network, norm=ball_of(norm).prefix, eps=spec.threat.eps, seed=0, version="standard", device="cpu"
        )
        for part in (library.apgd, library.apgd_targeted, library.fab):
            part.n_iter = part.n_iter_orig = 20
        library.square.n_queries = 200
        images, _ = library.run_standard_evaluation(x, y, batch_size=100)
        theirs += int((network(images).argmax(1) == y).sum())
    assert found <= theirs + 2
    assert 0 < found < count


def test_autoattack_returns_the_inputs_where_all_points_are_wrong_already() -> None:
    toy = Toy(ThreatModel(eps=0.1, weights="trained"))
    attack = registry.attacks.load("autoattack")()
    wrong = (toy.y + 1) % 3
    toy.oracle.begin(toy.x, wrong, [7, 9])
    assert torch.equal(attack.perturb(toy.oracle, toy.x, wrong, Draws(0, "t", [7, 9])), toy.x)


def test_autoattack_with_three_classes_has_no_targeted_dlr() -> None:
    attack = registry.attacks.load("autoattack")
    toy = Toy(ThreatModel(eps=0.5, weights="trained"))
    images = attack(attack.Params(parts="apgd-t", steps=5)).perturb(toy.oracle, toy.x, toy.y, Draws(0, "t", [7, 9]))
    assert (toy.network(images).argmax(1) != toy.y).all()


def test_autoattack_with_an_unknown_part_is_refused(bench: Bench) -> None:
    done = bench("run", "--defense", "regular", "--attack", "autoattack", "--set", "attack.parts=apgd-ce,fab", "-n", 2)
    assert done.code == 2 and "no part is called 'fab'" in done.err


# -- fixed point and model space ------------------------------------------------------------------------------------


def test_the_losses_over_the_networks_so_far() -> None:
    losses = torch.tensor([[1.0, 5.0], [3.0, 1.0], [2.0, 3.0]])
    assert FPA().over(losses).tolist() == [2.0, 3.0]
    assert GMSAAvg().over(losses).tolist() == [2.0, 3.0]
    assert GMSAMin().over(losses).tolist() == [1.0, 1.0]


def test_the_descent_takes_another_loss() -> None:
    """On one network the mean over networks is the cross-entropy, image for image."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    x, y = torch.rand(5, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1])
    plain = pgd(network, x, y, eps=0.1, steps=3, step_size=0.05)
    given = pgd(network, x, y, eps=0.1, steps=3, step_size=0.05, loss=lambda z, y: cross_entropy(z, y) * len(y))
    assert torch.equal(plain, given)
    assert not torch.equal(plain, pgd(network, x, y, eps=0.1, steps=3, step_size=0.05, loss=lambda z, y: z.sum()))


@pytest.mark.parametrize("attack", ["fpa", "gmsa-avg", "gmsa-min"])
def test_rmc_stands_against_pgd_and_falls_to_attacks_on_its_adaptation(bench: Bench, attack: str) -> None:
    done = bench("run", "--defense", "rmc", "--attack", "pgd", "--attack", attack, "-n", 20, "--json", "--workers", 1)
    static, adaptive = done.runs
    assert adaptive["protocol"] == "replay" and adaptive["ledger"]["simulated"] > 0
    assert static["robust_accuracy"]["value"] >= 0.8 and adaptive["robust_accuracy"]["value"] <= 0.2


def test_a_copy_moves_on_with_what_it_was_served(resources: Resources) -> None:
    """The second point is attacked on the copy that has answered the attacked first one, in the order of the stream."""
    made, _, _ = crafted(resources, "rmc", "fpa", 2, attack__rounds=1)
    alone, _, _ = crafted(resources, "rmc", "fpa", 1, attack__rounds=1)
    assert torch.equal(made.images[0], alone.images[0])
    spec = spec_of("rmc", "fpa", n=2, attack__rounds=1)
    points, y = resources.of(spec).points(spec.indices[1:])
    oracle = resources.of(spec).oracle(0, None)
    first = craft(resources.of(spec).attack, oracle, points, y, spec, spec.indices[1:])
    assert not torch.equal(first.images[0], made.images[1])


def test_an_attack_that_takes_long_says_where_it_is(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """With each line written, also those that follow one another within a second."""
    monkeypatch.setattr(PlainListener, "_seldom", lambda self, spec, text, kind="": self._line(spec, text))
    done = bench("run", "--defense", "regular", "--attack", "fpa", "-n", 4, "--workers", 1)
    assert "crafting example 4 of 4" in done.err


class Scripted:
    """A copy that answers right until a round."""

    kind, batch_size = "online", 1

    def __init__(self, network: nn.Module, wrong_from: int) -> None:
        self.network = network
        self.wrong_from = wrong_from
        self.rounds = 0

    def proxy(self) -> nn.Module:
        return self.network

    def proxy_for(self, x: Tensor) -> nn.Module:
        return self.network

    def answers(self, x: Tensor) -> Tensor:
        self.rounds += 1
        return torch.eye(3)[1:2] if self.rounds > self.wrong_from else torch.eye(3)[:1]


@pytest.mark.parametrize(("wrong_from", "rounds"), [(0, 1), (2, 3), (9, 6)])
def test_rounds_end_once_every_point_is_fooled(wrong_from: int, rounds: int) -> None:
    toy = Toy(ThreatModel(eps=0.1, weights="simulated", bank=True))
    attack = FPA(FPA.Params(rounds=6, steps=1))
    copy = Scripted(toy.network, wrong_from)
    attack._attacked(toy.oracle, [copy], toy.x[:1], toy.y[:1], Draws(0, "t", [7]))
    assert copy.rounds == rounds


# -- wrappers ---------------------------------------------------------------------------------------------------------


def test_bpda_sees_through_a_rounding_that_hides_the_gradient(resources: Resources) -> None:
    """PGD has no gradient through the rounding; BPDA, with the network behind it as the proxy, breaks the defense."""
    registry.register_defense("masked", planted.Masked)
    registry.register_defense("honest", planted.MaskedWithProxy)
    right = {}
    for defense, attack in (("masked", "pgd-skip"), ("honest", "bpda")):
        made, _, y = crafted(resources, defense, attack, 20, attack__steps=40, base__epochs=40)
        answers = resources.of(spec_of(defense, attack, n=20, base__epochs=40)).serving(0).probe(made.images)
        right[defense] = int((answers.argmax(1) == y).sum())
    assert right["masked"] >= 10 and right["honest"] <= 4


def test_eot_averages_over_what_one_draw_does_not_show(resources: Resources) -> None:
    """Logits are scaled by another factor at every draw: the network of the attack is the mean over the draws."""
    registry.register_defense("scaled", planted.RandomScale)
    spec = spec_of("scaled", "eot:pgd-skip", n=12, attack__samples=20, attack__steps=3)
    serving = resources.of(spec).serving(0)
    oracle = resources.of(spec).oracle(0, serving)
    x, y = resources.of(spec).points(spec.indices)
    oracle.begin(x, y, spec.indices)
    attack = resources.of(spec).attack
    copy = oracle.deployed()
    network = attack.network(oracle, copy, x)
    expected = torch.stack([copy.bare_proxy(x, draw)(x).log_softmax(1) for draw in range(20)]).mean(0)
    assert torch.allclose(network(x), expected)
    assert not torch.equal(network(x), expected)  # drawn anew at every forward


def test_eot_on_a_defense_that_adapts_draws_once_for_each_example(resources: Resources) -> None:
    spec = spec_of("rmc", "eot", n=3, attack__samples=2)
    oracle = resources.of(spec).oracle(0, resources.of(spec).serving(0))
    x, y = resources.of(spec).points(spec.indices)
    oracle.begin(x, y, spec.indices)
    copy = oracle.deployed()
    network = resources.of(spec).attack.network(oracle, copy, x)
    for row in range(3):
        own = [copy.bare_proxy(x[row : row + 1], draw)(x[row : row + 1]).log_softmax(1) for draw in range(2)]
        assert torch.allclose(network(x)[row], torch.stack(own).mean(0)[0], atol=1e-6)
    assert torch.equal(network(x), network(x))


def test_a_wrapper_needs_a_copy_of_the_defense_and_a_gradient_inside(bench: Bench) -> None:
    for attack, reason in (
        ("bpda:pgd", "needs a copy of the defense"),
        ("bpda:random-search", "the attack inside uses no gradients"),
        ("eot:pgd-skip", "regular is not randomised"),
    ):
        done = bench("run", "--defense", "regular", "--attack", attack, "-n", 2, "--json", "--workers", 1,
                     "--set", "base.epochs=1")  # fmt: skip
        assert done.runs[0]["status"] == "SKIPPED" and reason in done.runs[0]["reason"]


def test_eot_declines_what_adapts_to_a_batch(resources: Resources) -> None:
    facts = resources.task(spec_of("regular", "clean").dataset).facts
    attack = resources.of(spec_of("rmc", "eot")).attack
    threat = ThreatModel(eps=0.1, weights="adapted", bank=True)
    for kind, declined in (("batch", True), ("online", False)):
        reason = attack.declines(threat, facts, DefenseInfo("together", kind, True, True))
        assert (reason is not None) == declined
        assert not declined or "the attacker does not know the batch" in reason


def test_a_wrapper_has_what_the_attack_inside_has() -> None:
    entry = registry.attacks["eot:bpda:pgd-skip-partial"].resolved()
    inside = registry.attacks["pgd-skip-partial"].resolved()
    assert (entry.preset, entry.free, entry.protocol) == (inside.preset, inside.free, inside.protocol)
    assert set(entry.load().Params.model_fields) == {"samples", "steps", "rel_step_size", "restarts"}
    assert entry.sections == ["pgd-skip-partial", "bpda", "eot"]
    assert entry.source_hash() != registry.attacks["bpda:pgd-skip-partial"].source_hash() != inside.source_hash()
    assert registry.attacks["bpda"].resolved().inside.name == "pgd-skip" and "bpda:pgd" in registry.attacks
    with pytest.raises(UnknownName, match="Did you mean 'pgd'"):
        registry.attacks["bpda:pgdd"]
    assert "bpda:pgdd" not in registry.attacks and "pgd:bpda" not in registry.attacks


def wrapped(resources: Resources, defense: str, attack: str, n: int = 4, **values: object) -> tuple[nn.Module, Tensor]:
    """The network that a wrapper hands to the attack inside, and the examples; of a copy of its own for each call."""
    spec = spec_of(defense, attack, n=n, **values)
    oracle = resources.of(spec).oracle(0, resources.of(spec).serving(0))
    x, y = resources.of(spec).points(spec.indices)
    oracle.begin(x, y, spec.indices)
    return resources.of(spec).attack.network(oracle, oracle.deployed(), x), x


def value_and_slope(network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities (N, K) at x (N, C, H, W), and the gradient (N, C, H, W) of those of class 3."""
    at = x.clone().requires_grad_(True)
    shares = network(at).log_softmax(1)
    return shares.detach(), torch.autograd.grad(shares[:, 3].sum(), at)[0]


@pytest.mark.parametrize(
    ("defense", "outer", "inner", "sets"),
    [
        ("input-transform", "eot:bpda", "bpda", {}),  # nothing is drawn
        ("anti-adversary", "eot:unrolled", "unrolled", {"defense__steps": 1}),
        ("anti-adversary", "bpda:unrolled", "unrolled", {}),  # what is unrolled is the answer itself
    ],
)
def test_a_second_wrapper_that_has_nothing_to_do_changes_nothing(
    resources: Resources, defense: str, outer: str, inner: str, sets: dict[str, object]
) -> None:
    both, x = wrapped(resources, defense, outer, **sets)
    alone, _ = wrapped(resources, defense, inner, **sets)
    for one, other in zip(value_and_slope(both, x), value_and_slope(alone, x), strict=True):
        assert float((one - other).abs().max()) <= 1e-3 * float(other.abs().max()) and bool(other.any())


def test_the_mean_over_draws_of_what_is_unrolled_is_that_of_the_wrapper_s_own_draws(resources: Resources) -> None:
    images = [
        crafted(resources, "hedge", attack, 3, defense__steps=2, attack__through=2, **sets)[0].images
        for attack, sets in (
            ("eot:unrolled", {"attack__samples": 3}),
            ("unrolled", {"attack__draws": 3}),
            ("unrolled", {"attack__draws": 1}),
        )
    ]
    assert torch.equal(images[0], images[1]) and not torch.equal(images[0], images[2])


@pytest.mark.parametrize("defense", ["masked-scale", "rmc"])
def test_the_mean_over_draws_of_a_straight_through_copy(resources: Resources, defense: str) -> None:
    """Each draw has the value of its answer and the slope of its proxy; what adapts has one of each for an example."""
    registry.register_defense("masked-scale", planted.MaskedRandomScale)
    spec = spec_of(defense, "eot:bpda", n=2, attack__samples=3)
    oracle = resources.of(spec).oracle(0, resources.of(spec).serving(0))
    x, y = resources.of(spec).points(spec.indices)
    oracle.begin(x, y, spec.indices)
    copy = oracle.deployed()
    value, slope = value_and_slope(resources.of(spec).attack.network(oracle, copy, x), x)
    at, parts = x.clone().requires_grad_(True), []
    for draw in range(3):
        proxies = torch.cat([copy.bare_proxy(point.detach(), draw)(point) for point in at.split(1)])
        parts.append((proxies + (copy.probe(x, draw) - proxies).detach()).log_softmax(1))
    mean = torch.stack(parts).mean(0).log_softmax(1)
    assert torch.allclose(value, mean.detach(), atol=1e-5)
    assert torch.allclose(slope, torch.autograd.grad(mean[:, 3].sum(), at)[0], atol=1e-4) and bool(slope.any())


def test_the_forward_pass_of_bpda_is_the_whole_defense_around_fewer_steps(resources: Resources) -> None:
    both, x = wrapped(resources, "anti-adversary", "bpda:unrolled", defense__steps=3, attack__served=1)
    short, _ = wrapped(resources, "anti-adversary", "unrolled", defense__steps=3, attack__served=1)
    defense = resources.of(spec_of("anti-adversary", "clean", defense__steps=3)).serving(0).defense
    at = x.clone().requires_grad_(True)
    (ours,) = torch.autograd.grad(both(at)[:, 3].sum(), at)
    (theirs,) = torch.autograd.grad(short(at)[:, 3].sum(), at)
    assert torch.allclose(both(x), defense.predict(x), atol=1e-5) and not torch.allclose(both(x), short(x), atol=1e-3)
    assert torch.allclose(ours, theirs)


def test_wrappers_in_the_other_order_decline_and_say_which(bench: Bench) -> None:
    wrong = {"unrolled:eot": "eot:unrolled", "bpda:eot": "eot:bpda", "unrolled:bpda": "bpda:unrolled"}
    asked = [part for name in wrong for part in ("--attack", f"{name}:pgd-skip")]
    done = bench(
        "run", "--defense", "hedge", *asked, "-n", 2, "--json", "--workers", 1, "--set", "base.epochs=1",
    )  # fmt: skip
    for run in done.runs:
        named = wrong[run["attack"].rpartition(":")[0]]
        assert run["status"] == "SKIPPED" and f"give {named}:ATTACK" in run["reason"]
    twice = ("--attack", "unrolled:apgd-unrolled", "-n", 2, "--json", "--workers", 1, "--set", "base.epochs=1")
    (run,) = bench("run", "--defense", "hedge", *twice).runs
    assert run["status"] == "SKIPPED" and "leave the outer unrolled out" in run["reason"]


def test_two_wrappers_around_one_with_a_name_of_its_own_leave_out_none(
    resources: Resources,
) -> None:
    given = {"defense__steps": 3, "attack__samples": 2}
    all_three, x = wrapped(resources, "hedge", "eot:bpda:apgd-unrolled", attack__served=1, **given)
    answers, _ = wrapped(resources, "hedge", "eot:bpda", **given)
    gradients, _ = wrapped(resources, "hedge", "eot:unrolled", attack__served=1, **given)

    def gradient(network: nn.Module) -> Tensor:
        at = x.clone().requires_grad_(True)
        return torch.autograd.grad(network(at)[:, 3].sum(), at)[0]

    assert torch.allclose(all_three(x), answers(x), atol=1e-5)
    ours, adapted, proxies = gradient(all_three), gradient(gradients), gradient(answers)
    near, far = (float((ours - other).norm() / other.norm()) for other in (adapted, proxies))
    assert near < far


def test_the_mean_over_draws_breaks_what_has_no_gradient_and_is_random(bench: Bench) -> None:
    """eot alone has no gradient to follow there, and says so; around bpda it has."""
    registry.register_defense("masked-scale", planted.MaskedRandomScale)
    args = ("-n", 20, "--json", "--workers", 1, "--set", "base.epochs=8", "--set", "attack.samples=2")
    alone, around = bench(
        "run", "--defense", "masked-scale", "--attack", "eot:pgd-skip", "--attack", "eot:bpda:pgd-skip", *args
    ).runs
    assert alone["status"] == "SKIPPED" and "no differentiable proxy" in alone["reason"]
    assert around["status"] == "DONE" and around["robust_accuracy"]["value"] <= 0.2 < around["clean_accuracy"]["value"]


# -- random search ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", DESCENDED)
def test_random_points_are_in_the_ball_and_half_of_them_on_its_surface(norm: str) -> None:
    x = torch.full((1, 6, 6), 0.5)
    search = RandomSearch(RandomSearchParams(draws=150))
    parts = list(search._points(x, 0.2, norm, Draws(0, "t", [3])))
    assert [len(part) for part in parts] == [100, 50]
    delta = torch.cat(parts) - x
    size = ball_of(norm).distance(delta)
    assert size.max() <= 0.2 + 1e-6 and torch.allclose(size[::2], torch.tensor(0.2), atol=1e-5)
    corners = ((delta[::2].abs() - 0.2).abs() < 1e-6).all()
    assert bool(corners) == (norm == "linf")
    again = list(search._points(x, 0.2, norm, Draws(0, "t", [3])))
    assert all(torch.equal(a, b) for a, b in zip(parts, again, strict=True))


def test_dear_answers_are_spent_on_the_points_that_the_network_finds_best(resources: Resources) -> None:
    made, _, _ = crafted(resources, "regular", "random-search", 4, attack__draws=300, threat__queries=5)
    assert made.forwards.tolist() == [300] * 4 and int(made.queries.max()) == 5
    asked, _, _ = crafted(resources, "regular", "random-search", 4, attack__draws=300, threat__queries=300)
    assert asked.forwards.tolist() == [0] * 4 and int(asked.queries.max()) == 300


def test_random_search_needs_queries_or_a_network() -> None:
    search = RandomSearch(RandomSearchParams(draws=100))
    info = DefenseInfo("d", "static", True, False)
    assert "no network to select" in str(search.declines(ThreatModel(queries=5), None, info))  # type: ignore[arg-type]
    assert search.declines(ThreatModel(queries=100), None, info) is None  # type: ignore[arg-type]


# -- the oracle -------------------------------------------------------------------------------------------------------


def test_what_is_asked_is_charged_to_whom_the_attack_is_busy_with() -> None:
    toy = Toy(ThreatModel(eps=0.1, weights="trained"))
    model = toy.oracle.model()
    with toy.oracle.about([1]):
        model(toy.x[:1])
        model(toy.x[:1].expand(3, -1, -1, -1))
    assert toy.oracle.ledger.forwards.tolist() == [0, 4]
    model(toy.x[:1])
    assert toy.oracle.ledger.forwards.tolist() == [1, 4]


def test_an_image_belongs_to_the_example_whose_ball_it_is_in() -> None:
    """Nearest in the threat's norm: in l2 this one, at the edge of its ball in linf, is nearer to the other."""
    x = torch.zeros(2, 1, 8, 8)
    x[1, 0, 0, 0] = 1.0
    oracle = GameOracle(
        ThreatModel(eps=0.3, weights="trained"), DefenseInfo("d", "static", True, False), classes=4,
        trained=nn.Flatten(), deployed=None, fresh=lambda noise: None,
    )  # fmt: skip
    oracle.begin(x, torch.tensor([0, 1]), [0, 1])
    image = x[1:] + 0.3
    image[0, 0, 0, 0] = 0.7
    assert oracle.whose(image).tolist() == [1]


def test_a_copy_of_what_is_deployed_is_granted_with_its_weights_and_bank_alone(resources: Resources) -> None:
    spec = spec_of("rmc", "pgd-skip", n=2)
    serving = resources.of(spec).serving(5)
    x, y = resources.of(spec).points(spec.indices)
    serving.serve(x)
    oracle = resources.of(spec).oracle(0, serving)
    oracle.begin(x, y, spec.indices)
    copy = oracle.deployed()
    assert torch.equal(copy.proxy()(x), serving.defense.proxy()(x))
    assert not torch.equal(copy.probe(x), serving.probe(x))  # private randomness
    before = serving.defense.snapshot()
    copy.predict(x)
    assert torch.equal(serving.defense.snapshot().tensors["network.0"], before.tensors["network.0"])
    for threat in (ThreatModel(weights="trained", bank=True), ThreatModel(weights="adapted")):
        toy = Toy(threat)
        with pytest.raises(AccessDenied):
            toy.oracle.deployed()
    with pytest.raises(AccessDenied, match="crafts before it serves"):
        Toy(ThreatModel(weights="adapted", bank=True)).oracle.deployed()


def test_the_network_that_answers_a_point_is_the_one_that_adapted_to_it(resources: Resources) -> None:
    spec = spec_of("rmc", "clean", n=4)
    defense = resources.of(spec).serving(3).defense
    x, _ = resources.of(spec).points(spec.indices)
    before = defense.snapshot()
    for draw in (None, 1):
        with torch.no_grad():  # which must not stop the adaptation
            answer = defense.probe(x[:1], draw)
            assert torch.equal(defense.proxy_for(x[:1], draw)(x[:1]), answer)
    after = defense.snapshot()
    assert all(torch.equal(before.tensors[name], after.tensors[name]) for name in before.tensors)
    static = resources.of(spec_of("regular", "clean")).serving(0).defense
    with torch.no_grad():
        assert torch.equal(static.proxy_for(x)(x), static.proxy()(x))


def test_a_wrong_part_of_apgd_unrolled_is_refused(bench) -> None:
    done = bench("run", "--defense", "hedge", "--attack", "apgd-unrolled", "--set", "attack.parts=apgd-xx", "-n", "2")
    assert done.code == 2 and "no part is called 'apgd-xx'" in done.err

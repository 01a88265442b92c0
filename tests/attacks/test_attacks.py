"""The adapters of foolbox and ART against a direct call of the library; budgets of pixels and of queries."""

from __future__ import annotations

from dataclasses import replace

import foolbox
import numpy as np
import pytest
import torch
from art.attacks.evasion import HopSkipJump as ArtHopSkipJump
from art.attacks.evasion import SaliencyMapMethod, SquareAttack
from torch import Tensor, nn

from attacks.art import as_art, seeded
from attacks.jsma import gamma_of_features
from attacks.query import HopSkipJump, _Asked, _Spent
from bench.contracts import Attack, DefenseInfo
from bench.draws import Draws
from bench.errors import BadValue
from bench.game.crafting import Crafted, craft
from bench.game.judge import distances
from bench.game.oracle import GameOracle
from bench.game.resources import Resources
from bench.threat import ThreatModel
from tests.conftest import spec_of


class Case:
    """One attack on the digits network, and what the adapter makes of it."""

    def __init__(self, resources: Resources, name: str, n: int = 12, **values: object) -> None:
        self.spec = spec_of("regular", name, n=n, **values)
        self.x, self.y = resources.of(self.spec).points(self.spec.indices)
        self.network: nn.Module = resources.of(self.spec).base().network
        self.resources = resources

    def crafted(self, rows: slice = slice(None)) -> Crafted:
        serving = self.resources.of(self.spec).serving(0)
        oracle = self.resources.of(self.spec).oracle(0, serving)
        attack: Attack = self.resources.of(self.spec).attack
        return craft(attack, oracle, self.x[rows], self.y[rows], self.spec, self.spec.indices[rows])

    def fooled(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return self.network(images).argmax(1) != self.y


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("name", ["fgsm", "bim"])
def test_fgsm_and_bim_are_those_of_foolbox(resources: Resources, name: str, norm: str) -> None:
    case = Case(resources, name)
    eps = {"linf": 0.15, "l2": 0.8, "l1": 5.0}[norm]
    case.spec = replace(case.spec, threat=case.spec.threat.with_fields({"norm": norm, "eps": eps}))
    direct = {
        ("fgsm", "linf"): foolbox.attacks.LinfFastGradientAttack(),
        ("fgsm", "l2"): foolbox.attacks.L2FastGradientAttack(),
        ("fgsm", "l1"): foolbox.attacks.L1FastGradientAttack(),
        ("bim", "linf"): foolbox.attacks.LinfBasicIterativeAttack(abs_stepsize=eps * 0.0333333333, steps=5),
        ("bim", "l2"): foolbox.attacks.L2BasicIterativeAttack(abs_stepsize=eps * 0.0333333333, steps=5),
        ("bim", "l1"): foolbox.attacks.L1BasicIterativeAttack(abs_stepsize=eps * 0.0333333333, steps=5),
    }[name, norm]
    expected = direct(foolbox.PyTorchModel(case.network, bounds=(0, 1)), case.x, case.y, epsilons=eps)[1]
    images = case.crafted().images
    assert torch.equal(images, expected)
    assert float(distances(case.x, images)[norm].max()) <= eps + 1e-5  # type: ignore[index]


def test_cw_is_that_of_foolbox_and_returns_the_input_where_it_finds_nothing(resources: Resources) -> None:
    settings = {"binary_search_steps": 3, "steps": 40, "step_size": 0.05, "initial_const": 1.0}
    case = Case(resources, "cw-l2", **{f"attack__{key}": value for key, value in settings.items()})
    engine = foolbox.attacks.L2CarliniWagnerAttack(
        binary_search_steps=3, steps=40, stepsize=0.05, initial_const=1.0, confidence=0
    )
    found = engine.run(
        foolbox.PyTorchModel(case.network, bounds=(0, 1)), case.x, foolbox.criteria.Misclassification(case.y)
    )
    images = case.crafted().images
    right = ~case.fooled(case.x)
    success = (found != 0).flatten(1).any(1) & right
    assert success.sum() >= 6 and bool(case.fooled(found)[success].all())
    assert torch.equal(images[success], found[success])
    assert torch.equal(images[~success], case.x[~success])
    hopeless = Case(resources, "cw-l2", attack__binary_search_steps=1, attack__steps=1, attack__initial_const=1e-6)
    assert torch.equal(hopeless.crafted().images, hopeless.x)


def test_jsma_is_that_of_art_over_the_most_likely_targets(resources: Resources) -> None:
    case = Case(resources, "jsma", attack__targets=1, attack__gamma=0.5)
    with torch.no_grad():
        logits = case.network(case.x)
    target = logits.scatter(1, case.y[:, None], -torch.inf).argmax(1).numpy()
    direct = SaliencyMapMethod(as_art(case.network, case.x, 10), theta=1.0, gamma=30 / 64, batch_size=12, verbose=False)
    found = torch.from_numpy(direct.generate(case.x.numpy(), y=np.eye(10)[target]))
    images = case.crafted().images
    success = case.fooled(found) & ~case.fooled(case.x)
    assert success.sum() >= 6 and torch.equal(images[success], found[success])
    more = Case(resources, "jsma", attack__targets=9, attack__gamma=0.5).crafted().images
    fewer = distances(case.x, more)["l0"] <= distances(case.x, images)["l0"]
    assert bool(fewer[success].all()) and case.fooled(more).sum() >= case.fooled(images).sum()


@pytest.mark.parametrize("share", [0.05, 0.1, 0.25])
@pytest.mark.parametrize("channels", [1, 3])
def test_jsma_changes_no_more_pixels_than_its_share(share: float, channels: int) -> None:
    """On a network that it cannot fool it spends all it has; pixels are counted, not channels."""
    x = torch.rand((4, channels, 12, 12), generator=torch.Generator().manual_seed(0)) * 0.5
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(channels * 144, 5)).eval()
    network[1].bias.data[0] = 1e4  # class 0, whatever it sees
    gamma = gamma_of_features(share, x.shape)
    engine = SaliencyMapMethod(as_art(network, x, 5), theta=1.0, gamma=gamma, batch_size=4, verbose=False)
    images = torch.from_numpy(engine.generate(x.numpy(), y=np.eye(5)[[1, 2, 3, 4]]))
    changed = distances(x, images)["l0"]
    assert 0 < float(changed.max()) <= share * 144


def test_an_attack_of_minimal_norm_has_its_own_norm_and_budget() -> None:
    cw, jsma = spec_of("regular", "cw-l2"), spec_of("regular", "jsma")
    assert (cw.threat.norm, cw.threat.eps, cw.attack_kind) == ("l2", 1.0, "minimal")
    assert (jsma.threat.norm, jsma.threat.eps, jsma.attack_kind) == ("l0", 6, "minimal")


def test_eps_applies_to_attacks_within_a_budget(bench) -> None:
    args = ("run", "--defense", "regular", "--eps", "0.1", "--dry-run", "--json")
    both = bench(*args, "--attack", "pgd", "--attack", "cw-l2").runs
    assert [(run["norm"], run["eps"]) for run in both] == [("linf", 0.1), ("l2", 1.0)]
    alone = bench(*args, "--attack", "cw-l2")
    assert alone.code == 2 and "none of these attacks has one" in alone.err


# -- attacks that only ask -----------------------------------------------------------------------------------------


def query_oracle(network: nn.Module, x: Tensor, y: Tensor, queries: int) -> GameOracle:
    """An oracle over a static network, without a game."""

    class Deployed:
        kind = "static"

        def predict(self, images: Tensor) -> Tensor:
            with torch.no_grad():
                return network(images)

    oracle = GameOracle(
        ThreatModel(eps=0.2, queries=queries), DefenseInfo("net", "static", True, False),
        classes=network(x[:1]).shape[1], trained=network, deployed=Deployed(), fresh=lambda key: None,  # type: ignore[arg-type, return-value]
    )  # fmt: skip
    oracle.begin(x, y, range(len(x)))
    return oracle


@pytest.fixture
def points() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval()
    x = torch.rand((4, 1, 4, 4), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return network, x, network(x).argmax(1)


def test_a_repeated_image_is_not_asked_again_and_a_spent_budget_ends_it(points) -> None:
    network, x, y = points
    oracle = query_oracle(network, x, y, queries=2)
    asked = _Asked(oracle, x, y)
    first = asked.ask(x.numpy(), [0, 1, 2, 3])
    again = asked.ask(np.concatenate([x.numpy(), x.numpy()]), [0, 1, 2, 3, 0, 1, 2, 3])
    assert np.array_equal(first, again[:4]) and oracle.ledger.queries.tolist() == [1, 1, 1, 1]
    other = (x + 0.01).clamp(0, 1).numpy()
    asked.ask(other[:1], [0])
    assert oracle.ledger.queries.tolist() == [2, 1, 1, 1]
    mixed = asked.ask((x + 0.02).clamp(0, 1).numpy()[:2], [0, 1])  # example 0 is spent: its best answer stands in
    assert oracle.ledger.queries.tolist() == [2, 2, 1, 1] and mixed.shape == (2, 3)
    with pytest.raises(_Spent):
        asked.ask((x + 0.03).clamp(0, 1).numpy()[:1], [0])
    assert oracle.ledger.queries.tolist() == [2, 2, 1, 1]


def test_square_is_that_of_art_until_its_budget(resources: Resources) -> None:
    """With queries to spare the best image is at least as good as what ART returns under the same seed."""
    case = Case(resources, "square", n=10, threat__queries=60)
    made = case.crafted()
    draws = Draws(case.spec.seed, "attack", case.spec.indices)
    with seeded(draws):
        direct = SquareAttack(
            as_art(case.network, case.x, 10), norm=np.inf, eps=case.spec.threat.eps, max_iter=60, p_init=0.8,
            batch_size=10, verbose=False,
        ).generate(case.x.numpy(), y=np.eye(10)[case.y.numpy()])  # fmt: skip
    right = ~case.fooled(case.x)
    assert bool((case.fooled(made.images) >= case.fooled(torch.from_numpy(direct)))[right].all())
    assert case.fooled(made.images)[right].sum() >= 3
    assert int(made.queries.max()) <= 60 and int(made.queries.min()) >= 1
    assert float(distances(case.x, made.images)["linf"].max()) <= case.spec.threat.eps + 1e-6


def test_square_with_few_queries_stays_within_them(resources: Resources) -> None:
    few = Case(resources, "square", n=10, threat__queries=3).crafted()
    assert int(few.queries.max()) == 3


def test_hopskipjump_walks_from_our_start_and_returns_the_nearest_image(resources: Resources) -> None:
    case = Case(resources, "hopskipjump", n=4, threat__queries=400)
    made = case.crafted()
    fooled = case.fooled(made.images)
    assert bool(fooled.all()) and int(made.queries.max()) <= 400
    far = (made.images - case.x).flatten(1).norm(dim=1)
    again = case.crafted()
    assert torch.equal(made.images, again.images) and torch.equal(made.queries, again.queries)
    alone = case.crafted(slice(0, 2))  # an example's walk does not depend on its company
    assert torch.equal(alone.images, made.images[:2])
    # ART from the same start under the same seed, without a budget: no nearer than what a larger budget finds
    draws = Draws(case.spec.seed, "attack", case.spec.indices)
    start = torch.rand(case.x.shape[1:], generator=draws[0])[None].numpy()
    label = int(case.y[0])
    if int(case.network(torch.from_numpy(start)).argmax()) != label and not bool(case.fooled(case.x)[0]):
        with seeded(Draws(case.spec.seed, "attack", case.spec.indices[:1])):
            direct = ArtHopSkipJump(
                as_art(case.network, case.x, 10), norm=2, max_iter=2, max_eval=1000, init_eval=100, verbose=False
            ).generate(case.x[:1].numpy(), y=np.eye(10)[[label]], x_adv_init=start)
        assert float(far[0]) <= float(np.linalg.norm(direct - case.x[:1].numpy())) + 1e-4
    few = Case(resources, "hopskipjump", n=4, threat__queries=20).crafted()
    assert int(few.queries.max()) <= 20


def test_a_walk_starts_also_where_all_noise_has_the_label(points) -> None:
    """The input's own negative, and what else it gives, are tried before more noise."""
    _, x, _ = points

    class Dark(nn.Module):  # noise and bright images have label 0, dark ones 1
        def forward(self, images: Tensor) -> Tensor:
            mean = images.flatten(1).mean(1) - 0.3
            return torch.stack([mean, -mean], dim=1)

    bright = x * 0.2 + 0.75
    y = torch.zeros(len(x), dtype=torch.int64)
    oracle = query_oracle(Dark(), bright, y, queries=60)
    images = HopSkipJump().perturb(oracle, bright, y, Draws(0, "attack", range(len(x))))
    with torch.no_grad():
        assert bool((Dark()(images).argmax(1) == 1).all())


def test_an_attack_that_turns_in_circles_is_ended(points) -> None:
    """ART halves a step for ever where the current image is no longer adversarial; it asks nothing new then."""
    network, x, y = points
    oracle = query_oracle(network, x, y, queries=1000)
    asked = _Asked(oracle, x, y, "l2")
    with pytest.raises(_Spent):
        for _ in range(1000):
            asked.ask(x.numpy()[:1], [0])
    assert oracle.ledger.queries.tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("name", ["square", "hopskipjump"])
def test_without_queries_an_attack_that_only_asks_declines(bench, name: str) -> None:
    done = bench("run", "--defense", "regular", "--attack", name, "-n", "2", "--json", "--workers", "1",
                 "--set", "threat.queries=0", "--set", "base.epochs=1")  # fmt: skip
    assert done.code == 0 and done.runs[0]["status"] == "SKIPPED" and "threat.queries is 0" in done.runs[0]["reason"]


def test_squares_that_do_not_fit_are_declined(resources: Resources) -> None:
    reason = resources.of(spec_of("regular", "square", attack__p_init=0.95)).declined()
    assert reason is not None and "do not fit into 8 x 8" in reason
    assert resources.of(spec_of("regular", "square")).declined() is None
    with pytest.raises(BadValue, match="p_init"):
        spec_of("regular", "square", attack__p_init=1.0)


def test_a_point_that_is_wrong_from_the_start_costs_one_query(resources: Resources) -> None:
    case = Case(resources, "hopskipjump", n=2, threat__queries=50)
    case.y = (case.network(case.x).argmax(1) + 1) % 10
    made = case.crafted()
    assert torch.equal(made.images, case.x) and made.queries.tolist() == [1, 1]


def test_black_box_attacks_have_no_weights_and_need_queries(resources: Resources) -> None:
    for name in ("square", "hopskipjump"):
        spec = spec_of("rmc", name, n=2, threat__queries=4)
        assert spec.threat.weights == "none" and not spec.crafted_on_base and spec.sees_state
    with pytest.raises(BadValue, match=r"threat.queries is fixed by pgd"):
        spec_of("rmc", "pgd", threat__queries=4)


def test_the_global_generators_are_left_alone(resources: Resources) -> None:
    import random

    for name, values in (("square", {"threat__queries": 5}), ("jsma", {"attack__targets": 2})):
        case = Case(resources, name, n=3, **values)
        np.random.seed(7)
        random.seed(7)
        torch.manual_seed(7)
        before = np.random.get_state()[1].copy(), random.getstate(), torch.get_rng_state()
        first = case.crafted().images
        assert np.array_equal(np.random.get_state()[1], before[0])
        assert random.getstate() == before[1] and torch.equal(torch.get_rng_state(), before[2])
        np.random.seed(8)
        assert torch.equal(case.crafted().images, first)

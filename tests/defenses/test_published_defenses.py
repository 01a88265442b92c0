"""tent, hedge, ttc, transformations, squeeze-detect, blacklight: each against its algorithm, written anew."""

from __future__ import annotations

import hashlib
import math
import tomllib

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bench import config
from bench.contracts import labels_of
from bench.errors import BadValue
from bench.game.resources import Resources
from bench.rows import REFUSED
from defenses.blacklight import Fingerprints
from defenses.non_local_means import non_local_means
from defenses.squeeze_detect import threshold_at
from defenses.tent import BatchStatistics
from defenses.transforms import jpeg, median, reduced_bits, resized_and_padded
from defenses.unrolling import Adam, AdaptedByAdam, Moved, leaf, stepped, straight_sign
from tests.conftest import Bench, spec_of

TENT = {"base__model": "cifar-resnet20", "base__epochs": 1, "defense__batch_size": 4}


def test_hedge_raises_the_entropies_of_all_classes_within_its_radius(resources: Resources) -> None:
    spec = spec_of("hedge", "clean", defense__steps=5, defense__radius=0.1, defense__step_size=0.03)
    x, _ = resources.of(spec).points(spec.indices[:3])
    network = resources.of(spec).base().network
    hedged = resources.of(spec).serving(5).defense.proxy()
    shift = hedged.start(x)
    for _ in range(5):
        at = (x + shift).requires_grad_(True)
        logits = network(at)
        loss = sum(cross_entropy(logits, torch.full((3,), label), reduction="sum") for label in range(10))
        (gradient,) = torch.autograd.grad(loss, at)
        shift = (x + (shift + 0.03 * gradient.sign()).clamp(-0.1, 0.1)).clamp(0, 1) - x
    assert torch.allclose(hedged(x), network(x + shift), atol=1e-5)
    assert hedged.shift(x).abs().max() <= 0.1 + 1e-6


def test_ttc_keeps_its_noise_where_noise_moves_the_features(resources: Resources) -> None:
    spec = spec_of("ttc", "clean", defense__tau=0.0)
    x, _ = resources.of(spec).points(spec.indices[:3])
    network = resources.of(spec).base().network
    countered = resources.of(spec).serving(5).defense.proxy()
    noise = countered.start(x)
    assert torch.allclose(countered(x), network(x + noise), atol=1e-6), "nothing is below tau 0"
    away = resources.of(spec_of("ttc", "clean", defense__tau=1e9)).serving(5).defense.proxy()
    far = [(network.features(x + shift) - network.features(x)).norm(dim=1) for shift in (noise, away.shift(x))]
    assert bool((far[1] > far[0]).all()), "the counterattack pushes the features further away"


def test_tent_answers_with_the_statistics_of_the_batch_and_learns_for_the_next(resources: Resources) -> None:
    spec = spec_of("tent", "clean", **TENT)
    x, _ = resources.of(spec).points(spec.indices[:8])
    defense = resources.of(spec).serving(0).defense
    network = defense.proxy()
    expected = network(x[:4]).detach()
    weights = [w for part in network.modules() if isinstance(part, BatchStatistics) for w in (part.weight, part.bias)]
    for weight in weights:
        weight.requires_grad_(True)
    optimiser = torch.optim.Adam(weights, lr=1e-3)
    first = network(x[:4])
    (-(first.softmax(1) * first.log_softmax(1)).sum(1).mean()).backward()
    optimiser.step()
    assert torch.allclose(defense.predict(x[:4]), expected, atol=1e-5), "answers are those before the step"
    assert torch.allclose(defense.predict(x[4:]), network(x[4:]), atol=1e-3), "the step carries over"
    assert defense.adaptation_steps == 8


def test_the_median_norm_ignores_a_few_far_values() -> None:
    norm = nn.BatchNorm2d(1)
    x = torch.arange(9.0).view(9, 1, 1, 1)
    poisoned = x.clone()
    poisoned[8] = 1e4
    mean, middle = BatchStatistics(norm, "batch"), BatchStatistics(norm, "median")
    assert torch.allclose(mean(x), nn.BatchNorm2d(1).train()(x), atol=1e-5)
    assert middle._statistics(poisoned)[0] == middle._statistics(x)[0] == 4
    assert mean._statistics(poisoned)[0] > 1000


def test_tent_without_batch_norm_says_what_to_do(bench: Bench) -> None:
    done = bench("run", "--defense", "tent", "--attack", "clean", "-n", "4", "--set", "base.epochs=1", "--json",
                 "--workers", "1")  # fmt: skip
    assert done.runs[0]["status"] == "FAILED" and "give a network that has it" in done.runs[0]["reason"]


def test_transformations_are_what_they_say() -> None:
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert len(reduced_bits(x, 1).unique()) == 2 and len(reduced_bits(x, 3).unique()) <= 8
    wide = torch.nn.functional.pad(x, (1, 1, 1, 1), mode="reflect")
    assert torch.equal(median(x, 3)[0, 0, 4, 4], wide[0, 0, 4:7, 4:7].median())
    assert (jpeg(x, 95) - x).abs().max() > 0 and (jpeg(torch.full_like(x, 0.5), 95) - 0.5).abs().max() < 0.01
    placed = resized_and_padded(x, 9, 0, 1, 10)
    assert (
        placed.shape == (2, 3, 10, 10)
        and not placed[:, :, :, 0].any()
        and torch.equal(placed[:, :, 0, 1], x[:, :, 0, 0])
    )
    for change in (lambda z: reduced_bits(z, 2), lambda z: jpeg(z, 50)):
        z = x.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(change(z).sum(), z)
        assert torch.equal(gradient, torch.ones_like(x)), "the gradient of the identity"


def test_a_threshold_leaves_the_stated_share_of_false_rejections() -> None:
    scores = torch.arange(100.0)
    assert [int((scores > threshold_at(scores, share)).sum()) for share in (0.0, 0.05, 0.5)] == [0, 5, 50]


def test_squeeze_detect_refuses_by_the_largest_distance(resources: Resources) -> None:
    spec = spec_of("squeeze-detect", "clean", defense__false_rejections=0.5)
    x, _ = resources.of(spec).points(spec.indices)
    defense, network = resources.of(spec).serving(0).defense, resources.of(spec).base().network
    shares = [network(image).softmax(1) for image in (x, reduced_bits(x, 1), median(x, 2))]
    scores = torch.stack([(shares[0] - other).abs().sum(1) for other in shares[1:]]).amax(0)
    refused = torch.tensor(labels_of(defense.predict(x), 10)) == REFUSED
    assert torch.equal(refused, scores > defense._squeezed.threshold)
    assert 0 < int(refused.sum()) < len(x)


def test_non_local_means_are_those_of_a_loop_over_pixels() -> None:
    x = torch.rand(2, 3, 6, 7, generator=torch.Generator().manual_seed(0)).double()
    search, patch, strength = 5, 3, 0.2
    wide = torch.nn.functional.pad(x, (3, 3, 3, 3), mode="reflect")
    expected = torch.zeros_like(x)
    for image in range(2):
        for row in range(6):
            for column in range(7):
                weights, total = 0.0, torch.zeros(3).double()
                around = wide[image, :, row + 2 : row + 5, column + 2 : column + 5]
                for other in range(row, row + 5):
                    for place in range(column, column + 5):
                        there = wide[image, :, other : other + 3, place : place + 3]
                        weight = math.exp(-float((around - there).square().mean()) / strength**2)
                        weights, total = weights + weight, total + weight * wide[image, :, other + 1, place + 1]
                expected[image, :, row, column] = total / weights
    assert torch.allclose(non_local_means(x, search, patch, strength), expected, atol=1e-12)
    flat = torch.full((1, 1, 5, 5), 0.3)
    assert torch.allclose(non_local_means(flat, 3, 1, 0.1), flat)
    edge = torch.tensor([0.0, 0, 0, 1, 1, 1]).expand(1, 1, 6, 6)
    assert torch.allclose(non_local_means(edge, 5, 1, 0.01), edge), "what does not look alike is not mixed"
    small = x[:1, :, :4, :4].clone().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda z: non_local_means(z, 3, 1, 0.3), small)


def test_squeeze_detect_looks_at_non_local_means_where_they_are_asked_for(resources: Resources) -> None:
    sets = {"defense__false_rejections": 0.5, "defense__search": 7, "defense__strength": 0.3}
    spec = spec_of("squeeze-detect", "clean", **sets)
    x, _ = resources.of(spec).points(spec.indices)
    defense, network = resources.of(spec).serving(0).defense, resources.of(spec).base().network
    _, scores = defense._squeezed.scored(x)
    shares = [network(one).softmax(1) for one in (x, reduced_bits(x, 1), median(x, 2), non_local_means(x, 7, 3, 0.3))]
    far = torch.stack([(shares[0] - other).abs().sum(1) for other in shares[1:]])
    assert torch.allclose(scores, far.amax(0)) and bool((far[2] > far[:2].amax(0)).any()), "it decides for some"
    for given, said in (
        ({"search": 4}, "odd number"),
        ({"search": 15}, "reach 8 pixels beyond"),
        ({"patch": 2}, "odd"),
    ):
        with pytest.raises(BadValue, match=said):
            spec_of("squeeze-detect", "clean", **{f"defense__{key}": value for key, value in given.items()})


PAPERS = [name for name, own in tomllib.loads(config.DEFAULTS.read_text())["recipe"].items() if name != "rmc"]


@pytest.mark.parametrize("name", PAPERS)
def test_a_papers_recipe_is_planned_and_answers(resources: Resources, name: str) -> None:
    base = {"base__epochs": 1, "base__model": "cifar-resnet20"} if name == "tent" else {}
    spec = spec_of(name, "clean", n=4, defense__recipe="paper", **base)
    given = tomllib.loads(config.DEFAULTS.read_text())["recipe"][name]["paper"]
    constants = {key: value for key, value in given.items() if not isinstance(value, dict)} | given.get("digits", {})
    assert {key: spec.defense.params[key] for key in constants} == constants
    x, _ = resources.of(spec).points(spec.indices)
    serving = resources.of(spec).serving(0)
    assert serving.serve(x).shape == (4, serving.columns)


def test_blacklight_hashes_windows_of_salted_and_rounded_pixels(resources: Resources) -> None:
    spec = spec_of("blacklight", "clean")
    x, _ = resources.of(spec).points(spec.indices)
    defense = resources.of(spec).serving(0).defense
    levels = [
        (round(255 * p) + s) % 256
        for p, s in zip(x[0].flatten().tolist(), defense._salt.flatten().tolist(), strict=True)
    ]
    rounded = bytes(round(level / 50) for level in levels)
    hashes = {hashlib.sha256(rounded[i : i + 20]).digest()[:8] for i in range(64 - 20 + 1)}
    expected = sorted((int.from_bytes(one, "big") >> 1 for one in hashes), reverse=True)[:50]
    found = defense.fingerprint(x[0])
    assert found[found >= 0].tolist() == expected


def test_blacklight_refuses_what_is_nearly_what_it_saw_and_tells_accounts_apart(resources: Resources) -> None:
    x, _ = resources.of(spec_of("blacklight", "clean")).points(spec_of("blacklight", "clean").indices)
    whole = resources.of(spec_of("blacklight", "clean")).serving(0).defense
    near = x[:1].clone()
    near[0, 0, 0, 0] += 0.3
    labels = labels_of(whole.predict(torch.cat([x[:1], near, x[1:2]])), 10)
    assert labels[0] != REFUSED and labels[1] == REFUSED and labels[2] != REFUSED
    own = resources.of(spec_of("blacklight", "clean", defense__accounts="own")).serving(0).defense
    answers = []
    for account in (0, 0, 5, 6, 5):
        own.account = account
        answers += labels_of(own.predict(x[:1]), 10)
    assert [label == REFUSED for label in answers] == [False, False, False, False, True]


def test_blacklight_finds_with_its_index_what_a_comparison_with_all_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fingerprints, "LATEST", 4)
    draw = torch.Generator().manual_seed(3)
    store = Fingerprints.of(torch.empty((0, 6), dtype=torch.int64), torch.empty(0, dtype=torch.int64))
    prints, whose, sizes = [], [], []
    for step in range(30):
        drawn = torch.randperm(25, generator=draw)[:6].sort(descending=True).values
        if step % 3 == 0:
            drawn[4:] = -1  # an image with fewer windows
        own = drawn[drawn >= 0]
        for account in (None, 0, 1, 7):
            alike = [
                int(torch.isin(old, own).sum()) for old, by in zip(prints, whose, strict=True) if account in (None, by)
            ]
            assert sorted(filter(None, store.shared(own, account).tolist())) == sorted(filter(None, alike))
        before = store.in_order()
        prints.append(drawn)
        whose.append(step % 2)
        twin, store = store, store.with_one(drawn, step % 2)
        assert all(torch.equal(a, b) for a, b in zip(twin.in_order(), before, strict=True))  # a fork keeps its own
        assert torch.equal(store.in_order()[0], torch.stack(prints)) and store.in_order()[1].tolist() == whose
        sizes.append(len(store.latest))
    assert max(sizes) == 3 and sizes.count(0) == 7


def linear(x: Tensor, state: tuple[Tensor, ...], number: int) -> tuple[Tensor, ...]:
    """One step of gradient descent with rate 0.1 on the squared output of a linear model w x, for weights w (D,)."""
    (w,) = state
    return (w - 0.1 * 2 * (x @ w)[:, None].mul(x).sum(0),)


@pytest.mark.parametrize("last", [0, 1, 2, 4])
def test_a_gradient_through_the_last_steps_is_that_of_the_closed_form(last: int) -> None:
    generator = torch.Generator().manual_seed(1)
    x, w = (
        torch.rand(3, 4, generator=generator, dtype=torch.float64),
        torch.rand(4, generator=generator, dtype=torch.float64),
    )
    fixed = w
    for _ in range(4 - last):
        fixed = fixed - 0.2 * (x.T @ x) @ fixed

    def closed(z: Tensor) -> Tensor:
        after = torch.linalg.matrix_power(torch.eye(4, dtype=z.dtype) - 0.2 * z.T @ z, last) @ fixed
        return (z @ after).sum()

    def through(z: Tensor) -> Tensor:
        return (z @ stepped(linear, z, (w,), 4, last)[0]).sum()

    assert torch.allclose(torch.autograd.functional.jacobian(through, x), torch.autograd.functional.jacobian(closed, x))


def test_a_gradient_through_adam_is_that_of_finite_differences() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    names = [name for name, _ in network.named_parameters()]

    def entropy(logits: Tensor) -> Tensor:
        return -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()

    adapted = AdaptedByAdam(network, names, Adam(0.1, tiny=1e-2), 3, 3, entropy)
    x = torch.rand(2, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: adapted(z), (x,), eps=1e-6, atol=1e-5)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.1, eps=1e-2)
    plain = adapted(x.detach())
    for _ in range(3):
        optimiser.zero_grad()
        entropy(network(x.detach())).backward()
        optimiser.step()
    assert torch.allclose(plain, network(x.detach())), "the steps are those of torch's Adam"


class _Climbs(Moved):
    """Moves the input once along the sign of the gradient of its square."""

    def step(self, x: Tensor, shift: Tensor, fixed: Tensor | None) -> Tensor:
        at = leaf(x + shift)
        return shift + 0.1 * straight_sign(self.slope(at.square().sum(), at))


def test_a_sign_has_the_gradient_over_its_mean_on_the_way_back() -> None:
    x = torch.tensor([[[[0.2, 0.6]]]], requires_grad=True)
    moved = _Climbs(nn.Flatten(), 1, 1)
    assert torch.allclose(moved(x), torch.tensor([[0.3, 0.7]]))
    (gradient,) = torch.autograd.grad(moved(x).sum(), x)
    assert torch.allclose(gradient, torch.full((1, 1, 1, 2), 1 + 0.1 * 2 / 0.8))
    held = _Climbs(nn.Flatten(), 1, 0)
    (gradient,) = torch.autograd.grad(held(x).sum(), x)
    assert torch.equal(gradient, torch.ones(1, 1, 1, 2))


@pytest.mark.parametrize("name", ["dent", "anti-adversary", "hedge", "ttc"])
def test_what_is_unrolled_is_the_answer_and_has_a_gradient_of_its_own(resources: Resources, name: str) -> None:
    spec = spec_of(name, "clean", **({"defense__batch_size": 4, "defense__lr": 0.05} if name == "dent" else {}))
    x, y = resources.of(spec).points(spec.indices[:4])
    defense = resources.of(spec).serving(spec.noise_key(0)).defense
    expected = defense.proxy_for(x)(x)
    gradients = []
    for steps in (0, 1, 2):
        z = x.clone().requires_grad_(True)
        logits = defense.unrolled(steps)(z)
        assert torch.allclose(logits, expected, atol=1e-4), "the forward pass does not depend on how far back it goes"
        gradients.append(torch.autograd.grad(cross_entropy(logits, y, reduction="sum"), z)[0])
    assert bool(torch.isfinite(torch.stack(gradients)).all())
    assert not torch.allclose(gradients[0], gradients[1], rtol=1e-3) or not torch.allclose(gradients[1], gradients[2])
    fewer = defense.unrolled(1, served=1)(x)
    assert not torch.allclose(fewer, expected, atol=1e-4), "a copy that takes fewer steps answers otherwise"

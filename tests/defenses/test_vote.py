"""The votes against a brute force, their relaxation against its limit, the weightings against their formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from bench.errors import BadValue
from bench.game.resources import Resources
from defenses.neighbours import Neighbours
from defenses.vote import NearestVote, SoftKNN, class_indexes
from defenses.webnn import confidence
from tests.conftest import spec_of


def fitted(resources: Resources, name: str, **values: object) -> tuple[NearestVote, torch.Tensor]:
    spec = spec_of(name, "clean", n=10, **values)
    defense = resources.of(spec).fitted()
    assert isinstance(defense, NearestVote)
    return defense, resources.of(spec).points(spec.indices)[0]


def features(defense: NearestVote) -> np.ndarray:
    index = defense._bank.index
    return index.take(np.arange(len(index))).astype(np.float64)


@pytest.mark.parametrize("name", ["deepnn", "webnn"])
def test_the_vote_is_that_of_a_brute_force_search(resources: Resources, name: str) -> None:
    defense, x = fitted(resources, name, defense__k=15)
    logits, bank = defense.predict(x), features(defense)
    assert len(bank) == (1297 if name == "deepnn" else 2594)
    for i, feature in enumerate(defense._network.features(x).numpy().astype(np.float64)):
        nearest = np.argsort(((bank - feature) ** 2).sum(1), kind="stable")[:15]
        votes = np.bincount(defense._bank.labels[nearest], minlength=10)
        assert torch.allclose(logits[i].exp().double() * 25 - 1, torch.from_numpy(votes).double(), atol=1e-4)


@pytest.mark.parametrize("weighting", ["uniform", "entropy", "diversity"])
def test_averaged_outputs_are_those_of_a_brute_force(resources: Resources, weighting: str) -> None:
    defense, x = fitted(resources, "webnn", defense__k=15, defense__weighting=weighting)
    logits, bank = defense.predict(x), features(defense)
    with torch.no_grad():
        images = torch.from_numpy(np.array(defense._bank.images)).float() / defense._bank.pixel_scale
        outputs = defense._network(images).softmax(1).double().numpy()
    for i, feature in enumerate(defense._network.features(x).numpy().astype(np.float64)):
        nearest = np.argsort(((bank - feature) ** 2).sum(1), kind="stable")[:15]
        weights = [weight_by_hand(outputs[row], weighting) for row in nearest]
        mean = sum(w * outputs[row] for w, row in zip(weights, nearest, strict=True)) / sum(weights)
        assert np.allclose(logits[i].exp().numpy(), mean, atol=1e-5)


def weight_by_hand(softmax: np.ndarray, weighting: str) -> float:
    """Dubey et al. 2019, written out."""
    if weighting == "uniform":
        return 1.0
    if weighting == "entropy":
        return abs(math.log(10) + sum(p * math.log(p) for p in softmax if p > 0))
    ranked = sorted(softmax, reverse=True)
    return sum((ranked[0] - other) ** 3 for other in ranked[1:21])


def test_a_sure_output_weighs_more_than_an_unsure_one() -> None:
    outputs = np.array([[1.0, 0.0, 0.0], [0.5, 0.25, 0.25], [1 / 3] * 3], np.float32)
    assert confidence(outputs, "uniform").tolist() == [1, 1, 1]
    for weighting in ("entropy", "diversity"):
        sure, middle, unsure = confidence(outputs, weighting)  # type: ignore[arg-type]
        assert sure > middle > unsure and unsure == pytest.approx(0, abs=1e-6)
    assert confidence(outputs, "entropy")[0] == pytest.approx(math.log(3))
    assert confidence(outputs, "diversity")[1] == pytest.approx(2 * 0.25**3)


def test_the_soft_vote_tends_to_the_nearest_neighbour(resources: Resources) -> None:
    deepnn, x = fitted(resources, "deepnn")
    classes = class_indexes(deepnn._bank.index, deepnn._bank.labels, 10)
    cold = SoftKNN(deepnn._network, classes, 100, 1e-5)
    found = [deepnn._bank.labels[deepnn._bank.search(f, 1).ids[0]] for f in deepnn._network.features(x).numpy()]
    assert cold(x).argmax(1).tolist() == found
    warm = SoftKNN(deepnn._network, classes, 100, 0.1)
    images = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(warm(images).log_softmax(1)[:, 0].sum(), images)
    assert bool((gradient.flatten(1).abs().amax(1) > 0).all())


def test_the_soft_average_tends_to_the_output_of_the_nearest_neighbour(resources: Resources) -> None:
    webnn, x = fitted(resources, "webnn", defense__weighting="uniform")
    outputs = np.array(webnn._averaged)
    cold = SoftKNN(webnn._network, class_indexes(webnn._bank.index, webnn._bank.labels, 10, outputs), 200, 1e-6)
    nearest = [webnn._bank.search(f, 1).ids[0] for f in webnn._network.features(x).numpy()]
    assert np.allclose(cold(x).exp().numpy(), outputs[nearest], atol=1e-4)
    images = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(webnn.proxy()(images).log_softmax(1)[:, 0].sum(), images)
    assert bool((gradient.flatten(1).abs().amax(1) > 0).all())


def test_a_class_without_images_gets_no_vote() -> None:
    class Identity(nn.Module):
        def features(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)

    rng = np.random.default_rng(0)
    points = rng.normal(size=(40, 4)).astype(np.float32)
    index, labels = Neighbours(points), np.arange(40) % 3  # of four classes
    logits = SoftKNN(Identity(), class_indexes(index, labels, 4), 5, 0.1)(torch.from_numpy(points).view(40, 1, 2, 2))
    assert bool((logits[:, 3] < -1000).all()) and bool(torch.isfinite(logits).all())


def test_proxies_share_the_images_and_not_the_network(resources: Resources) -> None:
    deepnn, _ = fitted(resources, "deepnn")
    first, second = deepnn.proxy(), deepnn.fork().proxy()
    assert first._classes is second._classes and first.network is not second.network


def test_a_smaller_bank_answers_from_fewer_images(resources: Resources) -> None:
    webnn, x = fitted(resources, "webnn", defense__bank_size=200)
    assert len(webnn._bank) == 400 and webnn.predict(x).shape == (10, 10)
    with pytest.raises(BadValue, match=r"defense.bank_size is 5000, but digits has 1297"):
        spec_of("webnn", "clean", defense__bank_size=5000)
    with pytest.raises(BadValue, match=r"defense.k is 128, but the bank of digits has 40 rows"):
        spec_of("rmc", "clean", defense__bank_size=20)


@pytest.mark.parametrize(
    ("name", "sets"), [("webnn", {"D", "D'"}), ("deepnn", {"D"}), ("rmc", {"D", "D'"}), ("knn-at", {"D"})]
)
def test_neighbours_are_told_by_what_was_searched(resources: Resources, name: str, sets: set[str]) -> None:
    spec = spec_of(name, "clean", n=3)
    defense = resources.of(spec).fitted().fork()
    before = defense.snapshot()
    told = defense.neighbour_labels(resources.of(spec).points(spec.indices)[0])
    assert len(told) == 3 and all(set(found) == sets for found in told)
    assert all(sum(counts) == defense.params.k for found in told for counts in found.values())
    after = defense.snapshot()
    assert before.facts == after.facts and all(torch.equal(before.tensors[n], t) for n, t in after.tensors.items())

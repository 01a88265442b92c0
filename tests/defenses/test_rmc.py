"""RMC, RMC+ and DeepNN against their definitions."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from bench.draws import generator
from bench.errors import BadValue
from defenses.finetune import Learner, Recipe
from defenses.rmc import RMC
from tests.conftest import spec_of


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).eval()


X = torch.rand((40, 1, 2, 2), generator=torch.Generator().manual_seed(1))
Y = torch.arange(40) % 3


def test_fine_tuning_is_adam_on_the_cross_entropy_in_the_drawn_order() -> None:
    """Against plain torch: the same batches, the same steps, moments carried over two calls."""
    recipe = Recipe(lr=1e-2, epochs=2, patience=5, batch_size=16)
    learner, reference = Learner(net(), recipe, (1, 2, 2)), net()
    optimiser = torch.optim.Adam(reference.parameters(), lr=1e-2)
    for call in range(2):
        steps = learner.fit(X, Y, X[:4], Y[:4], generator("order", call))
        order = generator("order", call)
        for _ in range(2):
            for batch in torch.randperm(40, generator=order).split(16):
                loss = nn.functional.cross_entropy(reference(X[batch]), Y[batch])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
        assert steps == 6
    for a, b in zip(learner.network.parameters(), reference.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_early_stopping_waits_for_its_patience() -> None:
    """A validation set of another label only gets worse: the first epoch is the best, then `patience` more."""
    recipe = Recipe(lr=1e-1, epochs=50, patience=3, batch_size=40)
    learner = Learner(net(), recipe, (1, 2, 2))
    same = torch.zeros(40, dtype=torch.int64)
    assert learner.fit(X, same, X[:8], same[:8] + 1, generator("a")) == 4
    endless = Learner(net(), Recipe(lr=1e-1, epochs=7, patience=3, batch_size=40, stop_train_loss=1e-12), (1, 2, 2))
    assert endless.fit(X, same, X[:8], same[:8] + 1, generator("a")) == 7


def test_the_best_weights_come_back_where_they_are_asked_for() -> None:
    same = torch.zeros(40, dtype=torch.int64)
    once = Learner(net(), Recipe(lr=1e-1, epochs=1, patience=9, batch_size=40), (1, 2, 2))
    once.fit(X, same, X[:8], same[:8] + 1, generator("a"))
    best = Learner(net(), Recipe(lr=1e-1, epochs=6, patience=9, batch_size=40, restore_best=True), (1, 2, 2))
    best.fit(X, same, X[:8], same[:8] + 1, generator("a"))
    assert torch.equal(best.logits(X), once.logits(X))


def test_batch_norm_is_frozen_or_trained_as_said() -> None:
    for mode, moves in (("frozen", False), ("train", True)):
        learner = Learner(net(), Recipe(1e-3, 1, 1, 16, batch_norm=mode), (1, 2, 2))  # type: ignore[arg-type]
        before = learner.network[2].running_mean.clone()  # type: ignore[index]
        learner.fit(X, Y, X[:1], Y[:1], generator("a"))
        assert torch.equal(learner.network[2].running_mean, before) is not moves  # type: ignore[index]
        assert not learner.network.training


def test_reset_is_the_start_and_a_fork_is_on_its_own() -> None:
    learner = Learner(net(), Recipe(1e-2, 1, 1, 16), (1, 2, 2))
    start = learner.tensors()
    learner.fit(X, Y, X[:1], Y[:1], generator("a"))
    moved, fork = learner.tensors(), learner.fork()
    fork.fit(X, Y, X[:1], Y[:1], generator("b"))
    assert all(torch.equal(moved[k], v) for k, v in learner.tensors().items())
    learner.reset()
    assert all(torch.equal(start[k], v) for k, v in learner.tensors().items())


def fitted(resources, name: str, **values: object):
    spec = spec_of(name, "clean", **values)
    return resources.of(spec).fitted().fork(1), *resources.of(spec).points(spec.indices)


def test_rmc_adapts_to_the_neighbours_and_carries_over(resources) -> None:
    rmc, x, _ = fitted(resources, "rmc")
    base = rmc._features
    before = copy.deepcopy(rmc.snapshot())
    assert torch.equal(rmc._learner.logits(x), base(x))
    rmc.predict(x[:1])
    # 128 neighbours: 25 nearest, a quarter (6) held out, 122 train in one batch; 128 random: 16 held out, 112 train
    assert rmc.adaptation_steps == 2 and rmc.snapshot().facts == {"t": 1}
    assert not torch.equal(rmc._learner.logits(x), base(x))
    rmc.restore(before)
    assert torch.equal(rmc._learner.logits(x), base(x))


def test_without_carry_every_answer_starts_from_theta_0(resources) -> None:
    rmc, x, _ = fitted(resources, "rmc", defense__carry="false")
    first = rmc.probe(x[:1])
    rmc.predict(x[5:8])
    rmc._t = 0
    assert torch.equal(rmc.probe(x[:1]), first)
    assert torch.equal(rmc.proxy()(x), rmc._features(x))


def test_the_training_split_is_that_of_the_paper(resources, monkeypatch: pytest.MonkeyPatch) -> None:
    rmc, x, _ = fitted(resources, "rmc")
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    monkeypatch.setattr(RMC, "_split", lambda self, bank, training, held_out, draws: seen.append((training, held_out)))
    monkeypatch.setattr(RMC, "_fine_tune", lambda self, learners, sets: None)
    rows, _ = rmc._neighbourhood(x[:1], 1)
    rmc._calibrate()
    (training, held_out), (random_rows, random_held_out) = seen
    assert sorted([*training, *held_out]) == sorted(rows) and len(held_out) == (128 // 5) // 4
    assert set(held_out) <= set(rows[: 128 // 5])
    assert len(random_held_out) == 128 // 8 and len(random_rows) == 128 - 128 // 8
    assert max(random_rows) >= rmc._bank.clean  # from all of D'
    clean, *_ = fitted(resources, "rmc", defense__calibrate_on="clean")
    clean._calibrate()
    assert max(seen[-1][0]) < clean._bank.clean


@pytest.mark.parametrize(("delta", "replace"), [(1.0, "all"), (0.5, "all"), (1.0, "copies"), (0.0, "all")])
def test_rmc_plus_replaces_what_it_says_by_examples_in_the_ball(resources, delta: float, replace: str) -> None:
    plus, x, _ = fitted(resources, "rmc-plus", defense__delta=delta, defense__replace=replace)
    rows = plus._bank.search(plus._features.features(x[:1]).numpy()[0], 128).ids
    plus.predict(x[:1])
    bank, overlay = plus._bank, plus._bank.overlay
    pool = rows[rows >= bank.clean] if replace == "copies" else rows
    if delta == 0:
        assert overlay is None
        return
    assert set(overlay.rows) <= set(pool) and len(overlay.rows) == round(delta * len(pool)) > 0
    originals = bank.images[bank.originals(overlay.rows)].astype(int)
    assert 0 < np.abs(overlay.images.astype(int) - originals).max() <= 0.2 * bank.pixel_scale
    frozen = resources.of(spec_of("rmc-plus", "clean", defense__delta=delta, defense__replace=replace)).fitted()
    assert frozen._bank.overlay is None  # the fitted bank is shared and stays as it was


def test_rmc_plus_crafts_against_its_adapted_weights(resources) -> None:
    plus, x, _ = fitted(resources, "rmc-plus")
    plus.predict(x[:3])
    overlay, bank = plus._bank.overlay, plus._bank
    images = torch.from_numpy(overlay.images).float() / bank.pixel_scale
    labels = torch.from_numpy(bank.labels[overlay.rows])
    originals = torch.from_numpy(bank.images[bank.originals(overlay.rows)]).float() / bank.pixel_scale
    adapted = plus._learner.network

    def right(points: torch.Tensor) -> float:
        return float((adapted(points).argmax(1) == labels).double().mean())

    assert right(images) < right(originals) - 0.2


@pytest.mark.parametrize("name", ["rmc", "webnn"])
def test_an_approximate_index_may_find_fewer_than_k(resources, name: str) -> None:
    spec = spec_of(name, "clean", n=3, defense__index="ivf", defense__probes=1, defense__k=1000)
    defense = resources.of(spec).fitted().fork(1)
    x, _ = resources.of(spec).points(spec.indices)
    assert (
        len(defense._bank.search(defense._features.features(x[:1]).numpy()[0], 1000).ids) < 1000
        if name == "rmc"
        else True
    )
    assert torch.isfinite(defense.predict(x)).all()


def test_k_beyond_the_bank_is_refused_with_the_numbers() -> None:
    with pytest.raises(BadValue, match=r"defense.k is 9999.*2594 rows"):
        spec_of("rmc", "clean", defense__k=9999)
    with pytest.raises(BadValue, match="1297 training images"):
        spec_of("deepnn", "clean", defense__k=2000)

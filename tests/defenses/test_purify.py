"""purify against its algorithm written anew, the denoiser's training, and what a gradient through it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench.deadline import OutOfTime
from bench.draws import generator
from bench.game.resources import Resources
from bench.rows import image_hash
from defenses import purify
from defenses.checkpoints import Checkpoints
from tests.conftest import Bench, sets, spec_of

SMALL = {"defense__noise": "0.1,0.2", "defense__samples": 2, "defense__epochs": 3, "defense__width": 8}


def test_rounds_of_noise_and_denoising_are_those_of_the_algorithm(resources: Resources) -> None:
    spec = spec_of("purify", "clean", **SMALL)
    defense = resources.of(spec).serving(7).defense
    x, _ = resources.of(spec).points(spec.indices[:3])
    network, denoiser = resources.of(spec).base().network, defense._denoiser
    expected = []
    for point in x:
        logits = []
        for sample in range(2):
            noise = torch.randn((2, *point.shape), generator=generator(7, "purify", image_hash(point), sample))
            image = point
            for level, each in zip((0.1, 0.2), noise, strict=True):
                image = denoiser((image + level * each)[None], torch.tensor([level]))[0].clamp(0, 1)
            logits.append(network(image[None]))
        expected.append(torch.stack(logits).mean(0))
    assert torch.allclose(defense.predict(x), torch.cat(expected), atol=1e-5)
    assert defense.adaptation_steps == 2 * 2 * 3
    assert not torch.equal(defense.predict(x), resources.of(spec).serving(8).defense.predict(x)), "another key, draws"


def test_the_denoiser_takes_noise_away(resources: Resources) -> None:
    defense = (
        resources.of(spec_of("purify", "clean", **{**SMALL, "defense__epochs": 40, "defense__width": 16}))
        .serving(0)
        .defense
    )
    x, _ = resources.of(spec_of("purify", "clean", **SMALL)).points(list(range(20)))
    noisy = x + 0.2 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    cleaned = defense._denoiser(noisy, torch.full((20,), 0.2))
    assert float((cleaned - x).square().mean()) < 0.5 * float((noisy - x).square().mean())


def test_earlier_rounds_are_passed_straight_through_and_the_last_ones_are_not(resources: Resources) -> None:
    defense = resources.of(spec_of("purify", "clean", **SMALL)).serving(0).defense
    x = resources.of(spec_of("purify", "clean", **SMALL)).points([3])[0]
    held, whole, last = (defense.unrolled(steps) for steps in (0, 2, 1))
    assert torch.allclose(held(x), whole(x), atol=1e-5) and torch.allclose(held(x), last(x), atol=1e-5)
    gradients = []
    for network in (held, last, whole):
        at = x.clone().requires_grad_(True)
        gradients.append(torch.autograd.grad(network(at)[0, 0], at)[0])
    assert not torch.allclose(gradients[0], gradients[2]) and not torch.allclose(gradients[1], gradients[2])
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).double()
    network = whole.double()  # two sides of a small step
    sides = [network(x.double() + 1e-6 * sign * direction)[0, 0] for sign in (1, -1)]
    at = x.double().requires_grad_(True)
    (exact,) = torch.autograd.grad(network(at)[0, 0], at)
    assert float((sides[0] - sides[1]) / 2e-6) == pytest.approx(float((exact * direction).sum()), rel=1e-3)


def test_training_that_is_interrupted_goes_on_bit_for_bit(
    resources: Resources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of("purify", "clean", **SMALL)
    task, params = resources.of(spec).task, purify.Purify.Params(epochs=2, width=4)
    context = resources.of(spec)._context(spec.seed)

    def train() -> dict[str, torch.Tensor]:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            denoiser = purify.Denoiser(1, 4)
        purify._train(denoiser, task, params, context)
        return denoiser.state_dict()

    whole, real = train(), Checkpoints.passed

    def stops(self: Checkpoints, steps: int) -> None:
        if steps == 15:
            self._store(steps)
            raise OutOfTime
        real(self, steps)

    monkeypatch.setattr(Checkpoints, "passed", stops)
    with pytest.raises(OutOfTime):
        train()
    monkeypatch.setattr(Checkpoints, "passed", real)
    again = train()
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    context.cache.drop("training", context.base_key)


@pytest.mark.parametrize("noise", ["", "0.1,x", "0.1,2", "-0.1"])
def test_wrong_levels_of_noise_are_one_line(bench: Bench, noise: str) -> None:
    done = bench("run", "--defense", "purify", "--attack", "clean", "-n", "2", *sets(defense__noise=noise))
    assert done.code == 2 and "give the noise of each round, numbers from 0 to 1" in " ".join(done.err.split())

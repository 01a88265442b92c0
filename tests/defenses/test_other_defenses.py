"""noise-vote against a count of votes, anti-adversary against its algorithm, dent against what it is meant to lower."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from bench.draws import generator
from bench.game.resources import Resources
from bench.models.resnet import PlainCNN
from bench.models.small_cnn import DigitsCNN
from bench.rows import image_hash
from defenses.dent import Modulation, entropy, modulated
from tests.conftest import Bench, spec_of


def test_the_answer_is_the_vote_over_noisy_copies(resources: Resources) -> None:
    spec = spec_of("noise-vote", "clean", defense__samples=30, defense__sigma=0.4)
    x, _ = resources.of(spec).points(spec.indices[:4])
    defense = resources.of(spec).serving(11).defense
    network = resources.of(spec).base().network
    for i, logits in enumerate(defense.predict(x)):
        noise = torch.randn((30, *x.shape[1:]), generator=generator(11, "vote", image_hash(x[i])))
        labels = network(x[i] + 0.4 * noise).argmax(1).tolist()
        shares = [(labels.count(label) + 1) / 40 for label in range(10)]
        assert torch.allclose(logits.exp(), torch.tensor(shares), atol=1e-6)


def test_noise_is_another_for_another_input_and_another_draw(resources: Resources) -> None:
    spec = spec_of("noise-vote", "clean", defense__samples=20, defense__sigma=1.0)
    x, _ = resources.of(spec).points(spec.indices)
    defense = resources.of(spec).serving(11).defense
    assert torch.equal(defense.predict(x), defense.predict(x))
    assert not torch.equal(defense.probe(x, 1), defense.probe(x, 2))
    assert not torch.equal(defense.predict(x), defense.predict((x + 1e-6).clamp(0, 1)))


def test_the_smoothed_proxy_is_the_log_of_a_mean(resources: Resources) -> None:
    spec = spec_of("noise-vote", "clean", defense__proxy_samples=3)
    x, _ = resources.of(spec).points(spec.indices[:2])
    defense = resources.of(spec).serving(5).defense
    network, draws = resources.of(spec).base().network, generator(5, "proxy")
    with torch.no_grad():
        shares = [network(x + 0.25 * torch.randn(x.shape[1:], generator=draws)).softmax(1) for _ in range(3)]
        assert torch.allclose(defense.proxy()(x).exp(), torch.stack(shares).mean(0), atol=1e-6)


def test_anti_adversary_takes_the_steps_of_its_algorithm(resources: Resources) -> None:
    spec = spec_of("anti-adversary", "clean", defense__steps=2, defense__step_size=0.1)
    x, _ = resources.of(spec).points(spec.indices)
    defense = resources.of(spec).serving(0).defense
    network = resources.of(spec).base().network
    gamma = torch.zeros_like(x)
    label = network(x).argmax(1)
    for _ in range(2):
        moved = (x + gamma).requires_grad_(True)
        (gradient,) = torch.autograd.grad(cross_entropy(network(moved), label, reduction="sum"), moved)
        gamma = gamma - 0.1 * gradient.sign()
    answers = defense.predict(x)
    assert torch.allclose(answers, network(x + gamma), atol=1e-5)
    assert torch.equal(answers.argmax(1), label)
    assert defense.adaptation_steps == 2 * len(x)


def test_images_of_the_base_break_anti_adversary_where_its_own_gradient_does_not(bench: Bench) -> None:
    """Croce et al. 2022: the base's images are the stronger attack."""
    attacks = ("--attack", "pgd-skip", "--attack", "transfer-from-base")
    done = bench("run", "--defense", "anti-adversary", "--base", "pgd-at", *attacks, "-n", 60, "--json", "--workers", 1,
                 "--eps", 0.35)  # fmt: skip
    direct, transferred = (run["robust_accuracy"]["value"] for run in done.runs)
    assert transferred < direct


def test_the_entropy_of_known_shares() -> None:
    assert entropy(torch.zeros(1, 4)).item() == pytest.approx(math.log(4))
    assert entropy(torch.tensor([[0.0, math.log(3)]])).item() == pytest.approx(
        -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    )


def test_a_modulation_scales_and_shifts_channels_and_starts_as_nothing() -> None:
    part = Modulation(2)
    x = torch.rand(3, 2, 4, 4)
    assert torch.equal(part(x), x)
    with torch.no_grad():
        part.scale.copy_(torch.tensor([2.0, 3.0]))
        part.shift.copy_(torch.tensor([1.0, -1.0]))
    assert torch.equal(part(x)[:, 0], x[:, 0] * 2 + 1) and torch.equal(part(x)[:, 1], x[:, 1] * 3 - 1)
    assert part(x[:, :, 0, 0]).shape == (3, 2)


@pytest.mark.parametrize(("network", "follows", "count"), [(DigitsCNN, nn.Conv2d, 3), (PlainCNN, nn.BatchNorm2d, 6)])
def test_modulation_follows_batch_norms_or_else_hidden_layers(network: type, follows: type, count: int) -> None:
    made = network(10, (1, 8, 8)).eval()
    found = modulated(made)
    pairs = [part for part in found.modules() if isinstance(part, nn.Sequential) and isinstance(part[-1], Modulation)]
    assert len(pairs) == count and isinstance(pairs[0][0], follows)
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(found(x), made(x))
    learns = {name for name, weight in found.named_parameters() if weight.requires_grad}
    assert learns == {name for name in dict(found.named_parameters()) if name.endswith(("scale", "shift"))}


def test_dent_lowers_the_entropy_of_a_batch_and_forgets_it(resources: Resources) -> None:
    spec = spec_of("dent", "clean", n=20, defense__steps=6)
    x, _ = resources.of(spec).points(spec.indices)
    defense = resources.of(spec).serving(0).defense
    network = resources.of(spec).base().network
    with torch.no_grad():
        assert entropy(defense.predict(x[:10])).mean() < entropy(network(x[:10])).mean()
    assert torch.equal(defense.predict(x)[10:], defense.predict(x[10:]))
    assert not torch.allclose(defense.predict(x[:10])[:5], defense.predict(torch.cat([x[:5], x[15:]]))[:5])
    with torch.no_grad():
        assert torch.allclose(defense.proxy_for(x[:10])(x[:10]), defense.predict(x[:10]), atol=1e-6)


def test_what_never_holds_a_state_refuses_one(resources: Resources) -> None:
    held = resources.of(spec_of("rmc", "clean")).serving(0).defense.snapshot()
    for name in ("dent", "noise-vote"):
        with pytest.raises(ValueError, match="cannot restore a state that holds something"):
            resources.of(spec_of(name, "clean")).serving(0).defense.restore(held)


def test_dent_says_when_a_network_has_nothing_to_adapt(bench: Bench) -> None:
    head = "from torch import nn\ndef build(num_classes, image_shape):\n"
    Path("own.py").write_text(head + "    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))\n")
    done = bench("run", "--defense", "dent", "--base", "given", "--attack", "clean", "-n", 4, "--workers", 1, "--json",
                 "--set", "base.model=own.py:build")  # fmt: skip
    assert done.runs[0]["status"] == "FAILED" and "dent has nothing to adapt" in done.runs[0]["reason"]

"""Train-time defenses: their losses against independent definitions, their networks against what is given."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import jacobian

from bench.data.task import TaskFacts
from bench.draws import generator
from bench.errors import BadValue
from bench.game.resources import Resources
from bench.models.small_cnn import DigitsCNN
from defenses.adversarial import FGSMTraining, FGSMTrainingParams, PGDTraining, PGDTrainingParams
from defenses.crafting import held
from defenses.cross_lipschitz import cross_lipschitz
from defenses.denoising import DenoisingBlock, FeatureDenoising, FeatureDenoisingParams, non_local_mean, with_blocks
from defenses.jacobian import Jacobian, JacobianParams, directions, jacobian_norm
from defenses.training import PADDING, Step, augmented
from tests.conftest import spec_of

FACTS = TaskFacts("digits", 10, (1, 8, 8), 100, 10, "x")


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 4))


@pytest.fixture
def x() -> Tensor:
    return torch.rand((6, 1, 4, 4), generator=torch.Generator().manual_seed(1))


def jacobians(network: nn.Module, x: Tensor) -> Tensor:
    """(N, K, pixels), one image at a time, by torch's own function."""
    return torch.stack([jacobian(lambda image: network(image[None])[0], image).flatten(1) for image in x])


def test_the_projected_jacobian_norm_tends_to_the_frobenius_norm(network: nn.Module, x: Tensor) -> None:
    exact = jacobians(network, x).square().sum(dim=(1, 2))
    x = x.requires_grad_(True)
    estimate = jacobian_norm(network(x), x, 4000, generator("test"))
    assert torch.allclose(estimate, exact, rtol=0.05)


def test_an_orthogonal_set_of_directions_gives_the_norm_exactly(network: nn.Module, x: Tensor, monkeypatch) -> None:
    exact = jacobians(network, x).square().sum(dim=(1, 2))
    rows = iter(torch.eye(4))
    monkeypatch.setattr("defenses.jacobian.directions", lambda count, dim, draws: next(rows).expand(count, dim))
    x = x.requires_grad_(True)
    assert torch.allclose(jacobian_norm(network(x), x, 4, generator("test")), exact, rtol=1e-5)


def test_directions_are_uniform_on_the_sphere() -> None:
    v = directions(20000, 3, generator("test"))
    assert torch.allclose(v.norm(dim=1), torch.ones(20000), atol=1e-5)
    assert torch.allclose(v.mean(0), torch.zeros(3), atol=0.02)
    assert torch.allclose(v.T @ v / 20000, torch.eye(3) / 3, atol=0.02)


def test_cross_lipschitz_is_its_definition(network: nn.Module, x: Tensor) -> None:
    """The double sum over pairs of classes, written out."""
    found = []
    for gradients in jacobians(network, x):
        pairs = [(gradients[m] - gradients[k]).square().sum() for m in range(4) for k in range(4)]
        found.append(torch.stack(pairs).sum() / 4**2)
    expected = torch.stack(found)
    x = x.requires_grad_(True)
    assert torch.allclose(cross_lipschitz(network(x), x, 0, generator("test")), expected, rtol=1e-5)
    assert torch.allclose(cross_lipschitz(network(x), x, 4000, generator("test")), expected, rtol=0.06)


def test_a_common_gradient_costs_nothing_in_cross_lipschitz(x: Tensor) -> None:
    x = x.requires_grad_(True)
    logits = x.flatten(1).sum(1, keepdim=True) * 5 + torch.arange(4.0)
    assert float(cross_lipschitz(logits, x, 0, generator("test")).detach().abs().max()) < 1e-8
    assert float(jacobian_norm(logits, x, 10, generator("test")).detach().min()) > 1


def test_the_penalty_reaches_the_weights(network: nn.Module, x: Tensor) -> None:
    base = Jacobian(JacobianParams(strength=1e6))
    loss = base.loss(network, x, torch.zeros(6, dtype=torch.int64), Step(0.0, generator("test")))
    loss.backward()
    assert float(network[1].weight.grad.abs().max()) > 1  # the cross-entropy alone gives less than 1
    assert float(loss.detach()) > 100


@pytest.mark.parametrize(
    ("base", "steps"),
    [(FGSMTraining(FGSMTrainingParams(eps=0.1)), 1), (PGDTraining(PGDTrainingParams(eps=0.1, warmup=2.0, steps=3)), 3)],
)
def test_adversarial_training_sees_images_in_the_ball_and_leaves_the_network_as_it_was(
    monkeypatch, network: nn.Module, x: Tensor, base: PGDTraining, steps: int
) -> None:
    seen: list[Tensor] = []
    handle = network.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach().clone()))
    network.train()
    y = torch.tensor([0, 1, 2, 3, 0, 1])
    base.loss(network, x, y, Step(1.0, generator("test"))).backward()
    handle.remove()
    assert len(seen) == steps + 1  # crafted in evaluation mode, then one pass in training mode
    trained_on = seen[-1][-6:]
    radius = 0.1 if steps == 1 else 0.05  # after one of two epochs of warm-up
    distance = float((trained_on - x).abs().max())
    assert 0.5 * radius < distance <= radius + 1e-6
    assert network.training and all(weight.requires_grad and weight.grad is not None for weight in network.parameters())


def test_a_frozen_layer_stays_frozen_after_crafting(network: nn.Module) -> None:
    network[1].requires_grad_(False)
    network.eval()
    with held(network):
        assert not any(weight.requires_grad for weight in network.parameters())
    assert [weight.requires_grad for weight in network.parameters()] == [False, False, True, True]
    assert not network.training


def test_building_a_network_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    FeatureDenoising(FeatureDenoisingParams()).build(FACTS, 3)
    assert torch.equal(torch.get_rng_state(), before)


def test_crops_are_parts_of_the_padded_image(x: Tensor) -> None:
    images = torch.rand((200, 2, 6, 6), generator=torch.Generator().manual_seed(2)) + 0.5
    found = augmented(images, generator("test"))
    assert found.shape == images.shape and not torch.equal(found, images)
    padded = nn.functional.pad(images, (PADDING,) * 4)
    whole = 0
    for image, crop in zip(padded, found, strict=True):
        windows = image.unfold(1, 6, 1).unfold(2, 6, 1).permute(1, 2, 0, 3, 4).reshape(-1, 2, 6, 6)
        both = torch.cat([windows, windows.flip(3)])
        whole += bool((both == crop).flatten(1).all(1).any())
    assert whole == 200
    assert torch.equal(augmented(images, generator("test")), found)


def test_the_non_local_mean_is_its_formula() -> None:
    x = torch.randn((2, 3, 4, 5), generator=torch.Generator().manual_seed(0))
    found = non_local_mean(x)
    for n in range(2):
        flat = x[n].flatten(1)  # (C, positions)
        weights = (flat.T @ flat / 3**0.5).softmax(dim=1)
        assert torch.allclose(found[n].flatten(1), flat @ weights.T, atol=1e-5)


def test_blocks_stand_where_they_are_asked_for_and_change_nothing_at_first() -> None:
    torch.manual_seed(0)
    network = DigitsCNN(10, (1, 8, 8))
    x = torch.rand((3, 1, 8, 8), generator=torch.Generator().manual_seed(1))
    before = network(x)
    with_blocks(network, ["body.1", "body.3"], (1, 8, 8))
    assert torch.equal(network(x), before)
    blocks = [module for module in network.modules() if isinstance(module, DenoisingBlock)]
    assert [block.mix.in_channels for block in blocks] == [16, 32]
    nn.init.ones_(blocks[0].mix.weight)
    assert not torch.allclose(network(x), before)


@pytest.mark.parametrize(
    ("after", "words"), [("body.9", "no layer; there are: body.0"), ("head", "gives no feature map")]
)
def test_a_place_that_is_no_feature_map_is_refused(after: str, words: str) -> None:
    with pytest.raises(BadValue, match=words):
        FeatureDenoising.validate(FeatureDenoisingParams(after=after), FACTS)


def test_a_network_without_places_must_be_told_one(monkeypatch) -> None:
    monkeypatch.setattr(DigitsCNN, "denoise_after", ())
    with pytest.raises(BadValue, match=r"give base.after the names of layers, such as body.0"):
        FeatureDenoising.validate(FeatureDenoisingParams(), FACTS)
    FeatureDenoising.validate(FeatureDenoisingParams(after="body.3"), FACTS)


def test_no_epochs_without_weights_are_refused() -> None:
    with pytest.raises(BadValue, match=r"base.epochs is 0 and base.weights names no file"):
        spec_of("regular", "clean", base__epochs=0)


def test_adversarial_bases_take_the_radius_of_the_task() -> None:
    assert spec_of("pgd-at", "clean").base.params["eps"] == 0.2
    assert spec_of("pgd-at", "clean", base__eps="8/255").base.params["eps"] == 8 / 255


@pytest.mark.parametrize("name", ["fgsm-at", "pgd-at", "jacobian", "cross-lipschitz", "feature-denoising"])
def test_training_is_a_function_of_its_seed(resources: Resources, name: str) -> None:
    spec = spec_of(name, "clean", base__epochs=1)
    task, context = resources.task(spec.dataset), resources.of(spec)._context(0)
    made = []
    for _ in range(2):
        base = resources.of(spec)._unfitted()
        network = base.build(task.facts, 0)
        torch.manual_seed(len(made))  # what the global generator holds must not matter
        base.train(task, network, context)
        made.append(network.state_dict())
    assert all(torch.equal(value, made[1][key]) for key, value in made[0].items())


def test_a_surrogate_is_trained_apart_with_the_same_recipe() -> None:
    gray, transfer = spec_of("pgd-at", "gray-box"), spec_of("pgd-at", "transfer")
    for spec, model in ((gray, "digits-cnn"), (transfer, "strided-cnn")):
        other = spec.attacked_base
        assert other.base.name == "pgd-at" and other.network.name == model and other.base_seed != spec.base_seed
        assert other.base_key != spec.base_key and spec.crafted_on_base
        assert {k: v for k, v in other.base.params.items() if k != "model"} == {
            k: v for k, v in spec.base.params.items() if k != "model"
        }
    assert gray.craft_key != transfer.craft_key != spec_of("pgd-at", "pgd").craft_key
    swapped = spec_of("regular", "transfer", base__model="strided-cnn")
    assert swapped.attacked_base.network.name == "digits-cnn"  # another than the base's own
    named = spec_of("regular", "transfer", threat__surrogate="mnist-cnn")
    assert named.attacked_base.network.name == "mnist-cnn"
    with pytest.raises(BadValue, match=r"threat.surrogate is 'same' where threat.weights is 'trained'"):
        spec_of("regular", "pgd").threat.with_fields({"surrogate": "same"})

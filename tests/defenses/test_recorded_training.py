"""Training and crafting as a GPU does them, rehearsed on a CPU: the same examples, the same steps."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from bench.contracts.base import CHECKPOINTS
from bench.deadline import NEVER, Deadline, OutOfTime
from bench.models.resnet import ResNet
from bench.pgd import pgd
from defenses import training
from defenses.checkpoints import Checkpoints
from defenses.crafting import Crafting, held
from defenses.recording import Rehearsal
from defenses.training import Stock, augmented, one_cycle
from tests.conftest import spec_of

X = torch.rand((6, 3, 8, 8), generator=torch.Generator().manual_seed(1))
Y = torch.tensor([0, 1, 2, 3, 0, 1])


def residual() -> nn.Module:
    torch.manual_seed(0)
    return ResNet(4, (3, 8, 8), widths=(8, 12), blocks=1)


@pytest.mark.parametrize("patience", [100, 3], ids=["recorded", "generated"])
@pytest.mark.parametrize("started", [False, True], ids=["from the image", "from a random point"])
def test_the_recorded_ascent_is_foolboxs(started: bool, patience: int) -> None:
    network, recorder = residual().train(), Rehearsal(patience)
    craft = Crafting(network, "float32", recorder)
    draws = torch.Generator().manual_seed(2)
    for eps, steps in ((0.05, 4), (0.1, 1), (0.0, 3)):  # one recording for every radius and number of steps
        offset = (torch.rand(X.shape, generator=draws) * 2 - 1) * eps if started else None
        found = craft(X, Y, eps, steps, eps / 3, offset)
        with held(network):
            expected = pgd(network, X, Y, eps=eps, steps=steps, step_size=eps / 3, offset=offset)
        assert torch.allclose(found, expected, atol=1e-7)
        assert found.data_ptr() != craft(X, Y, eps, steps, eps / 3, offset).data_ptr()  # later calls leave it alone
        nn.init.normal_(network.head.weight)  # and the weights are read where they are
    assert recorder.recorded == (1 if patience > 20 else 2) and network.training
    assert all(weight.requires_grad and weight.grad is None for weight in network.parameters())


@pytest.mark.parametrize("name", ["regular", "fgsm-at", "pgd-at"])
def test_recorded_training_is_training(resources, name: str) -> None:
    """Six steps on 150 images in batches of 64, of which the last has 22."""
    spec = spec_of(name, "clean", base__epochs=2, base__model="cifar-plain", dataset__train_size=150)
    task, context = resources.task(spec.dataset), resources.of(spec)._context(0)
    made, recorder = [], Rehearsal()
    for number, recorded in enumerate((None, recorder)):
        base = resources.of(spec)._unfitted()
        made.append(base.build(task.facts, 0))
        base._train(task, made[-1], replace(context, base_key=f"{number:064}"), recorded)
    untrained = resources.of(spec)._unfitted().build(task.facts, 0)
    x, _ = task.test_points(list(range(200)))
    assert torch.allclose(made[0](x), made[1](x), atol=1e-5)
    assert float((made[0](x) - untrained.eval()(x)).abs().max().detach()) > 0.05
    assert recorder.recorded == (2 if name == "regular" else 4)  # a step, and an ascent, for each number of rows


def test_training_in_bfloat16_learns_and_keeps_float32_weights(resources) -> None:
    spec = spec_of("regular", "clean", base__epochs=3, base__precision="bfloat16")
    task, context = resources.task(spec.dataset), resources.of(spec)._context(0)
    network = resources.of(spec)._unfitted().build(task.facts, 0)
    resources.of(spec)._unfitted().train(task, network, context)
    x, y = task.test_points(list(range(500)))
    assert float((network(x).argmax(1) == y).double().mean()) > 0.8
    assert {value.dtype for value in network.state_dict().values()} == {torch.float32}
    assert spec.base_key != spec_of("regular", "clean", base__epochs=3).base_key


def test_the_rates_are_those_of_one_cycle() -> None:
    weight = nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.AdamW([weight], lr=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=0.2, total_steps=7, cycle_momentum=False)
    expected = []
    for _ in range(7):
        expected.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    assert list(one_cycle(0.1, 7)) == expected and len(list(one_cycle(0.1, 1))) == 1


def test_images_that_fit_on_the_device_are_taken_from_there(resources, monkeypatch: pytest.MonkeyPatch) -> None:
    task = resources.task(spec_of("regular", "clean").dataset)
    rows = torch.tensor([5, 3, 1200])
    mapped = Stock(task, torch.device("cpu"))
    asked: list[int] = []
    monkeypatch.setattr(training, "fits_beside", lambda size, device: asked.append(size) or True)
    resident = Stock(task, torch.device("cpu"))
    assert mapped._images is None and resident._images is not None and asked == [task.train_images.nbytes]
    for found, expected in zip(resident.batch(rows), mapped.batch(rows), strict=True):
        assert torch.equal(found, expected)
    assert np.array_equal(resident._images.numpy(), task.train_images)
    assert torch.equal(augmented(X, torch.Generator().manual_seed(0)), augmented(X, torch.Generator().manual_seed(0)))


def test_weights_that_are_held_are_as_they_were_after_an_error() -> None:
    network = residual().train()
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(ZeroDivisionError), held(network):
        raise ZeroDivisionError
    assert network.training and all(weight.requires_grad for weight in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("recorded", [False, True], ids=["step by step", "recorded"])
@pytest.mark.parametrize("name", ["regular", "pgd-at"])
def test_training_that_is_stopped_at_every_step_ends_with_the_same_bits(resources, name: str, recorded: bool) -> None:
    """Two epochs of three steps; the network has batch norm, and dropout, which draws from the global generator."""
    spec = spec_of(
        name, "clean", base__epochs=2, base__model="cifar-plain", dataset__train_size=150, base__augment=True
    )
    task, context = resources.task(spec.dataset), resources.of(spec)._context(0)

    def train(key: str, deadline: Deadline) -> tuple[dict[str, torch.Tensor], list[str]]:
        base, lines = resources.of(spec)._unfitted(), []
        network = base.build(task.facts, 0)
        network.register_forward_pre_hook(lambda module, given: nn.functional.dropout(given[0], 0.1, module.training))
        own = replace(context, base_key=key, deadline=deadline, report=lines.append)
        base._train(task, network, own, Rehearsal() if recorded else None)
        return {name: value.clone() for name, value in network.state_dict().items()}, lines

    torch.manual_seed(1)
    whole, told = train("a" * 64, NEVER)
    stopped, lines = 0, []
    torch.manual_seed(2)  # what others drew before is no matter
    while context.cache.find_tensors(CHECKPOINTS, "b" * 64).get("steps", torch.tensor(0)) != 6:
        with pytest.raises(OutOfTime):
            train("b" * 64, Deadline(0.0))
        stopped += 1
    state = torch.get_rng_state()
    resumed, lines = train("b" * 64, NEVER)
    assert stopped == 6 and lines == [] and told[-1].startswith("epoch 2/2, loss")
    assert all(torch.equal(value, whole[name]) for name, value in resumed.items())
    assert torch.equal(torch.get_rng_state(), state), "training draws from the generator of others"
    context.cache.drop(CHECKPOINTS, "b" * 64)


def test_a_checkpoint_of_another_network_or_a_damaged_one_is_not_taken_up(resources) -> None:
    context = replace(resources.of(spec_of("regular", "clean"))._context(0), base_key="c" * 64, deadline=Deadline(0.0))
    mine = [torch.ones(2), torch.zeros((), dtype=torch.int64)]
    with pytest.raises(OutOfTime):
        Checkpoints(context, [torch.full((2,), 7.0), torch.tensor(3)]).passed(5)
    assert Checkpoints(context, mine).resume() == 5 and mine[0].tolist() == [7, 7] and int(mine[1]) == 3
    for others in ([torch.ones(3), mine[1]], [mine[0].double(), mine[1]], [*mine, torch.ones(1)]):
        assert Checkpoints(context, others).resume() == 0
    path = context.cache.path(CHECKPOINTS, context.base_key)
    path.write_bytes(path.read_bytes()[:40])
    assert Checkpoints(context, mine).resume() == 0
    assert not path.exists() and path.with_name(f"{path.name}.damaged").exists()

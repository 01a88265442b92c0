"""The adaptation step against plain torch: folded batch norm, recorded steps, shared workspaces, precisions."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.draws import generator
from bench.models.resnet import ResNet
from defenses.finetune import Learner, Recipe, TuningSet, side_by_side
from defenses.frozen_norm import _FoldedConv2d, _FoldedLinear, _FrozenNorm, _Shifted, channel_sums, freeze_norms
from defenses.lanes import Lanes
from defenses.precision import InPrecision, computing, lowered
from defenses.recording import Recorder, Rehearsal, copy_all, recorder_for

SHAPE = (3, 8, 8)


def residual() -> nn.Module:
    """A small ResNet whose running statistics and norms are not those of a new one."""
    torch.manual_seed(0)
    network = ResNet(4, SHAPE, widths=(8, 12), blocks=1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.3, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    return network.eval()


X = torch.rand((42, *SHAPE), generator=torch.Generator().manual_seed(1))
Y = torch.arange(42) % 4


def plain_loop(network: nn.Module, x: Tensor, y: Tensor, recipe: Recipe, calls: int) -> nn.Module:
    """Adam on the mean cross-entropy, as a tutorial writes it."""
    network.train(recipe.batch_norm == "train")
    optimiser = torch.optim.Adam(network.parameters(), lr=recipe.lr, foreach=False)
    for call in range(calls):
        order = generator("order", call)
        for _ in range(recipe.epochs):
            for batch in torch.randperm(len(x), generator=order).split(recipe.batch_size):
                loss = nn.functional.cross_entropy(network(x[batch]), y[batch])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
    return network.eval()


#: how a step can be run: the recorders of a learner, of which `generated` changes over after seven steps
WAYS: dict[str, Callable[[], Recorder | None]] = {
    "eager": lambda: None,
    "recorded": Rehearsal,
    "generated": lambda: Rehearsal(patience=7),
}


def adapted(network: nn.Module, x: Tensor, y: Tensor, recipe: Recipe, calls: int, way: str) -> Learner:
    learner = Learner(network, recipe, SHAPE, WAYS[way]())
    for call in range(calls):
        learner.fit(x, y, x[:1], y[:1], generator("order", call))
    return learner


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("batch_norm", ["frozen", "train"])
@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=["f64", "f32"])
def test_twenty_steps_are_those_of_a_plain_loop(dtype: torch.dtype, most: float, batch_norm: str, way: str) -> None:
    """42 rows in batches of 16: every third batch is short, and is filled up where the step is recorded."""
    recipe = Recipe(lr=1e-3, epochs=4, patience=9, batch_size=16, batch_norm=batch_norm)  # type: ignore[arg-type]
    x, start = X.to(dtype), residual().to(dtype)
    learner = adapted(start, x, Y, recipe, 2, way)  # 24 steps
    expected = plain_loop(copy.deepcopy(start), x, Y, recipe, 2)
    assert float((learner.logits(x) - expected(x)).abs().max().detach()) <= most
    for name, (found, weight) in enumerate(zip(learner.network.parameters(), expected.parameters(), strict=True)):
        assert float((found - weight).abs().max().detach()) <= most, name
    assert float((expected(x) - start(x)).abs().max().detach()) > 100 * most  # there was something to learn


@pytest.mark.parametrize(("batch_norm", "recordings"), [("frozen", 1), ("train", 2)])
def test_a_step_is_recorded_once_for_every_shape_that_counts(batch_norm: str, recordings: int) -> None:
    recorder = Rehearsal()
    recipe = Recipe(lr=1e-3, epochs=2, patience=9, batch_size=16, batch_norm=batch_norm)  # type: ignore[arg-type]
    learner = Learner(residual(), recipe, SHAPE, recorder)
    for number in range(3):
        learner.fit(X, Y, X[:1], Y[:1], generator("a", number))
        twin = learner.fork()
        twin.reset()
        twin.fit(X, Y, X[:1], Y[:1], generator("b", number))
    assert recorder.recorded == recordings


def test_code_is_generated_once_for_all_workspaces_of_a_network() -> None:
    made = []

    def backend(graph: Any, inputs: Any) -> Any:
        made.append(len(inputs))
        return graph

    recorder = Rehearsal(patience=2, backend=backend)
    learner = Learner(residual(), Recipe(lr=1e-3, epochs=1, patience=9, batch_size=16), SHAPE, recorder)
    lanes = learner.lanes(3)
    for number, lane in enumerate([learner, *lanes]):
        for _ in range(2):
            lane.fit(X, Y, X[:1], Y[:1], generator("a", number))
    assert len(made) == 1  # weights are inputs of the code
    assert recorder.recorded == 3 + 3  # a workspace is recorded, and once more with generated code


def test_where_no_code_can_be_generated_the_step_goes_on_as_it_was() -> None:
    def backend(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no compiler here")

    recorder = Rehearsal(patience=2, backend=backend)
    learner, other = (Learner(residual(), Recipe(1e-2, 2, 2, 16), SHAPE, one) for one in (recorder, Rehearsal()))
    other.fit(X, Y, X[:1], Y[:1], generator("a"))
    with pytest.warns(RuntimeWarning, match="gave no code for the adaptation step .*no compiler here") as seen:
        learner.fit(X, Y, X[:1], Y[:1], generator("a"))
        learner.fit(X, Y, X[:1], Y[:1], generator("b"))
    assert len([one for one in seen if one.category is RuntimeWarning]) == 1
    other.fit(X, Y, X[:1], Y[:1], generator("b"))
    assert torch.equal(learner.logits(X), other.logits(X))


def test_a_recording_changes_nothing_by_its_warm_up() -> None:
    learner = Learner(residual(), Recipe(1e-2, 1, 1, 16), SHAPE, Rehearsal())
    other = Learner(residual(), Recipe(1e-2, 1, 1, 16), SHAPE)
    for one in (learner, other):
        one.fit(X, Y, X[:1], Y[:1], generator("a"))
    assert float(learner._workspace.train_loss) == pytest.approx(float(other._workspace.train_loss), rel=1e-5)
    steps = [value for name, value in learner.tensors().items() if value.dim() == 0]
    assert {float(value) for value in steps} == {3.0, 0.0}  # Adam's counts; batches that the norms have seen: none


def test_a_folded_network_is_the_same_function_with_the_same_gradients() -> None:
    plain = residual().double()
    folded = freeze_norms(copy.deepcopy(plain), torch.zeros(1, *SHAPE, dtype=torch.float64))
    kinds = [type(m) for m in folded.modules()]
    assert kinds.count(_FoldedConv2d) == kinds.count(_FrozenNorm) == 6
    assert [name for name, _ in folded.named_parameters()] == [name for name, _ in plain.named_parameters()]
    assert [name for name, _ in folded.named_buffers()] == [name for name, _ in plain.named_buffers()]
    x = X[:5].double()
    for network in (plain, folded):
        nn.functional.cross_entropy(network(x), Y[:5]).backward()
    assert torch.allclose(folded(x), plain(x), atol=1e-12)
    for found, weight in zip(folded.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(found.grad, weight.grad, atol=1e-12)
    twin = copy.deepcopy(folded)
    nn.init.zeros_(folded.stem[1].weight)  # a copy's layers are folded with its own norms
    assert torch.allclose(twin(x), plain(x), atol=1e-12)


class Branching(nn.Module):
    """One convolution that only its norm reads, one that something else reads too, one that is called twice, a linear
    layer, a norm without a layer before it, and a norm that has no statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")
        self.norm1 = nn.BatchNorm2d(4, affine=False)
        self.read_twice = nn.Conv2d(4, 4, 1)
        self.norm2 = nn.BatchNorm2d(4)
        self.called_twice = nn.Conv2d(4, 4, 1)
        self.norm3 = nn.BatchNorm2d(4)
        self.norm4 = nn.BatchNorm2d(4)
        self.linear = nn.Linear(4, 4)
        self.norm5 = nn.BatchNorm1d(4)
        self.instance = nn.BatchNorm2d(4, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.first(x)).relu()
        y = self.read_twice(x)
        x = self.norm2(y) + y
        x = self.norm3(self.called_twice(self.called_twice(x)))
        x = self.instance(self.norm4(x.relu()))
        return self.norm5(self.linear(x.mean(dim=(2, 3))))


def test_only_what_a_norm_alone_reads_is_folded() -> None:
    torch.manual_seed(3)
    plain = Branching().double().eval()
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.running_var is not None:
            nn.init.uniform_(module.running_mean, -0.3, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
    folded = freeze_norms(copy.deepcopy(plain), torch.zeros(1, *SHAPE, dtype=torch.float64))
    found = {name: type(module) for name, module in folded.named_children()}
    assert found["first"] is _FoldedConv2d and found["linear"] is _FoldedLinear
    assert found["read_twice"] is found["called_twice"] is nn.Conv2d and found["instance"] is nn.BatchNorm2d
    assert [getattr(folded, f"norm{i}").inside for i in range(1, 6)] == [True, False, False, False, True]
    x = X[:5].double()
    assert torch.allclose(folded(x), plain(x), atol=1e-12)


def test_learners_of_one_workspace_do_not_feel_each_other() -> None:
    recipe = Recipe(1e-2, 1, 1, 16)
    alone, together = Learner(residual(), recipe, SHAPE), Learner(residual(), recipe, SHAPE)
    fork = together.fork()
    for number in range(3):
        alone.fit(X, Y, X[:1], Y[:1], generator("a", number))
        together.fit(X, Y, X[:1], Y[:1], generator("a", number))
        fork.fit(X[:20], Y[:20], X[:1], Y[:1], generator("b", number))
    assert all(torch.equal(value, together.tensors()[name]) for name, value in alone.tensors().items())
    assert fork._shared is together._shared and not torch.equal(fork.logits(X), together.logits(X))
    fork.become(together)
    assert torch.equal(fork.logits(X), together.logits(X))
    del fork  # it held the workspace
    assert torch.equal(together.logits(X), alone.logits(X))


def test_fine_tuning_side_by_side_gives_what_each_would_get_alone() -> None:
    learner = Learner(residual(), Recipe(1e-2, 3, 1, 16, restore_best=True), SHAPE)
    learner.fit(X, Y, X[:8], Y[:8], generator("a"))
    rows = (42, 20, 33)
    alone = []
    for number, count in enumerate(rows):
        fork = learner.fork()
        steps = fork.fit(X[:count], Y[:count], X[-8:], Y[-8:], generator("b", number))
        alone.append((steps, fork.logits(X)))
    lanes = learner.lanes(3)
    sets = [
        TuningSet(X[:count], Y[:count], X[-8:], Y[-8:], generator("b", number)) for number, count in enumerate(rows)
    ]
    steps = side_by_side(list(zip(lanes, sets, strict=True)))
    assert [(n, lane.logits(X).tolist()) for n, lane in zip(steps, lanes, strict=True)] == [
        (n, logits.tolist()) for n, logits in alone
    ]
    assert learner.lanes(2)[1]._shared is lanes[1]._shared  # made once


def test_learners_of_one_workspace_cannot_be_fine_tuned_at_the_same_time() -> None:
    learner = Learner(residual(), Recipe(1e-2, 1, 1, 16), SHAPE)
    data = TuningSet(X, Y, X[:1], Y[:1], generator("a"))
    with pytest.raises(ValueError, match="workspaces of their own"):
        side_by_side([(learner, data), (learner.fork(), data)])


def test_tf32_is_allowed_where_it_is_asked_for_and_nowhere_else() -> None:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    try:
        matmul.allow_tf32 = cudnn.allow_tf32 = True  # a program that uses us may have set it
        with computing("tf32"):
            assert matmul.allow_tf32 and cudnn.allow_tf32
            with computing("float32"):
                assert not matmul.allow_tf32 and not cudnn.allow_tf32
            assert matmul.allow_tf32
        with pytest.raises(ZeroDivisionError), computing("bfloat16"):
            assert not cudnn.allow_tf32
            raise ZeroDivisionError
        assert matmul.allow_tf32 and cudnn.allow_tf32
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def test_bfloat16_lowers_the_forward_pass_and_nothing_else() -> None:
    network = residual()
    exact, low = network(X), lowered(network, X, "bfloat16")
    assert low.dtype == torch.float32 and 1e-6 < float((low - exact).abs().max().detach()) < 0.1
    assert torch.equal(lowered(network, X, "tf32"), exact)
    low.sum().backward()
    assert {weight.grad.dtype for weight in network.parameters()} == {torch.float32}
    wrapped = InPrecision(network, "bfloat16")
    assert torch.equal(wrapped(X), low) and torch.equal(wrapped.features(X), network.features(X))
    learner = Learner(residual(), Recipe(1e-3, 1, 1, 16, precision="bfloat16"), SHAPE)
    assert torch.allclose(learner.logits(X), exact, atol=1e-5)  # answers are float32
    learner.fit(X, Y, X[:1], Y[:1], generator("a"))
    assert {value.dtype for value in learner.tensors().values()} == {torch.float32, torch.int64}


def test_copies_of_several_types_are_made_in_place() -> None:
    targets = [torch.zeros(2), torch.zeros(2, dtype=torch.int64), torch.zeros(3)]
    sources = [torch.ones(2), torch.full((2,), 2), torch.full((3,), 3.0)]
    copy_all(targets, sources)
    assert all(torch.equal(a, b) for a, b in zip(targets, sources, strict=True))
    with pytest.raises(ValueError, match="argument"):
        copy_all(targets, sources[:2])


def test_a_cpu_repeats_its_steps_without_a_recording() -> None:
    assert recorder_for(torch.device("cpu")) is None


def test_sums_over_channels_are_those_of_one_stage() -> None:
    for shape in ((128, 4, 8, 8), (3, 5, 7, 1), (1, 2, 1, 1)):
        maps = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        assert torch.allclose(channel_sums(maps), maps.sum((0, 2, 3)), atol=1e-12)
    low = torch.randn((128, 4, 8, 8), generator=torch.Generator().manual_seed(0)).bfloat16()
    assert torch.allclose(channel_sums(low), low.double().sum((0, 2, 3)).float(), rtol=1e-5, atol=1e-4)


def test_a_shift_is_added_and_its_gradient_summed() -> None:
    maps = torch.randn((2, 3, 4, 4), dtype=torch.float64, requires_grad=True)
    shift = torch.randn(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(_Shifted.apply, (maps, shift))


def test_a_cpu_adapts_one_victim_at_a_time_and_times_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("defenses.lanes.timed")
    pace = Lanes(torch.device("cpu"))
    assert pace.count(100) == 1
    with pace.measured(1):
        pass


@pytest.mark.parametrize("fastest", (1, 2, 4, 8))
def test_as_many_victims_are_adapted_at_once_as_was_fastest_on_the_first_of_them(
    fastest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("bench.clock.time.perf_counter", lambda: now)
    pace, used = Lanes(torch.device("cpu"), room=9), []
    while len(used) < 16:
        count = pace.count(40)
        with pace.measured(count):
            recording = 100 if used.count(count) in (0, 2) else 0  # the last time it is generated anew
            now += count * (1 if count == fastest else 2) + recording
        used.append(count)
    assert used == [1, 1, 1, 2, 2, 2, 4, 4, 4, 8, 8, 8, *[fastest] * 4]
    assert pace.count(3) == (2 if fastest == 2 else 1)  # there are no four


def test_victims_are_adapted_at_once_only_where_there_is_room() -> None:
    assert [list(Lanes(torch.device("cpu"), room=room)._taken) for room in (1, 3, 100)] == [[1], [1, 2], [1, 2, 4, 8]]

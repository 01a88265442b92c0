"""What a program calls with networks and arrays: the numbers of the libraries, and no number of other weights."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import eagerpy as ep
import foolbox
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import bench as lib
from bench import registry
from bench.data.arrays import arrays, checked_images, checked_labels
from bench.draws import Draws
from bench.errors import BadValue, BenchError, UnknownName
from bench.norms import random_offset
from tests import planted
from tests.conftest import ROOT

EPS = 0.1


def digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return (bunch.images[:, None] / 16).astype(np.float32), bunch.target.astype(np.int64)


def trained(seed: int = 0) -> nn.Module:
    """A small network that answers most digits right."""
    x, y = digits()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10))
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    images, labels = torch.tensor(x[:800]), torch.tensor(y[:800])
    for _ in range(40):
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(images), labels).backward()
        optimiser.step()
    return net


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return trained()


@pytest.fixture(scope="module")
def points() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    x, y = digits()
    return x[1000:1200], y[1000:1200]


def evaluated(model: Any, x: Any, y: Any, **more: Any) -> Any:
    return lib.evaluate(model, x, y, **{"eps": EPS, "progress": False, **more})


# -- the numbers of the libraries -------------------------------------------------------------------------------------


def test_pgd_is_foolbox_s_on_the_same_images_from_the_same_start(net: nn.Module, points: Any) -> None:
    result = evaluated(net, *points)
    rows = sorted(result.rows(), key=lambda row: row["index"])
    x, y = (torch.tensor(part) for part in points)
    order = [row["index"] for row in result.rows()]
    starts = random_offset(Draws(result.seed, "attack", order).sub(0), (1, 8, 8), EPS, "linf")
    offset = torch.empty_like(starts)
    offset[order] = starts

    class Started(foolbox.attacks.LinfPGD):  # type: ignore[misc]
        def get_random_start(self, x0: Any, epsilon: float) -> Any:
            return x0 + ep.astensor(offset)

    model = foolbox.PyTorchModel(net.eval(), bounds=(0, 1))
    engine = Started(abs_stepsize=result.spec["attack"]["params"]["rel_step_size"] * EPS, steps=40)
    _, images, _ = engine(model, x, y, epsilons=EPS)
    answers = net(images).argmax(1).tolist()
    assert [row["attacked_answer"] for row in rows] == answers
    assert result.robust_accuracy.value == sum(a == b for a, b in zip(answers, y.tolist(), strict=True)) / len(y)
    assert 0.1 < result.robust_accuracy.value < result.clean_accuracy.value


def test_autoattack_leaves_what_the_library_leaves_on_a_hundred_images(net: nn.Module, points: Any) -> None:
    from pyautoattack import AutoAttack

    x, y = (part[:100] for part in points)
    result = evaluated(net, x, y, attack="autoattack")
    adversary = AutoAttack(net.eval(), norm="Linf", eps=EPS, version="standard", device="cpu", seed=0)
    images, _ = adversary.run_standard_evaluation(torch.tensor(x), torch.tensor(y), batch_size=100)
    left = int((net(images).argmax(1) == torch.tensor(y)).sum())
    assert round(100 * result.robust_accuracy.value) == left


@pytest.mark.parametrize("given", ["float32", "uint8", "torch", "float64"])
def test_the_form_of_the_images_does_not_matter(net: nn.Module, given: str) -> None:
    x, y = digits()
    pixels = np.rint(255 * x[:30]).astype(np.uint8)
    floats = torch.from_numpy(pixels).float().div(255).numpy()
    forms: dict[str, Any] = {
        "uint8": pixels, "float32": floats, "torch": torch.from_numpy(floats), "float64": floats.astype(np.float64),
    }  # fmt: skip
    results = [evaluated(net, form, y[:30], attack="fgsm") for form in (forms[given], pixels)]
    assert results[0].run == results[1].run


def test_pixels_between_the_steps_of_a_byte_are_kept(net: nn.Module) -> None:
    x = np.full((3, 1, 8, 8), 0.1234567, dtype=np.float32)
    held = arrays("a", x, np.zeros(3, dtype=int), None, 10)
    assert held.images.dtype == np.float32 and (held.images == x).all()
    task = held.load(held.Params(), None)
    assert torch.equal(task.test_points([0, 1])[0], torch.tensor(x[:2]))


def test_several_attacks_and_radii_are_crossed(net: nn.Module, points: Any) -> None:
    results = evaluated(net, *points, attack=["fgsm", "hopskipjump-linf"], eps=["8/255", 0.2], n=5)
    assert [(one.attack, round(one.eps, 3)) for one in results] == [
        ("fgsm", 0.031), ("fgsm", 0.2), ("hopskipjump-linf", 0.031),
    ]  # fmt: skip
    assert {one.status for one in results} == {"DONE"}


def test_a_defense_on_top_of_the_network_learns_from_the_training_images(net: nn.Module, points: Any) -> None:
    x, y = digits()
    sets = {
        "defense.k": 64,
        "defense.epochs": 1,
        "defense.bank_steps": 2,
        "game.p": 4,
        "game.trials": 1,
        "attack.steps": 5,
    }
    result = evaluated(net, *points, attack="pgd-skip", defense="rmc", train=(x[:300], y[:300]), n=5, sets=sets)
    assert (result.status, result.defense, result.base) == ("DONE", "rmc", "given")
    assert any(row["adaptation_steps"] for row in result.rows())
    with pytest.raises(BadValue, match=r"no training images, which the defense searches: give train="):
        evaluated(net, *points, defense="rmc")
    with pytest.raises(BadValue, match=r"no training images, which a base is trained on: give train="):
        evaluated("regular", *points, sets={"base.model": "digits-cnn"})
    trains = evaluated("regular", *points, train=(x[:300], y[:300]), n=5,
                       sets={"base.model": "digits-cnn", "base.epochs": 2})  # fmt: skip
    assert (trains.status, trains.defense) == ("DONE", "regular")


# -- identity ---------------------------------------------------------------------------------------------------------


def test_the_same_call_finds_its_rows_and_other_weights_or_images_are_another_run(net: nn.Module, points: Any) -> None:
    x, y = points
    first = evaluated(net, x, y, attack="fgsm")
    assert evaluated(net, x.copy(), y, attack="fgsm").run == first.run
    other = evaluated(trained(1), x, y, attack="fgsm")
    assert other.run != first.run and other.to_dict()["clean_accuracy"] != first.to_dict()["clean_accuracy"]
    moved = x.copy()
    moved[0, 0, 0, 0] = 0.5
    assert evaluated(net, moved, y, attack="fgsm").run != first.run
    assert evaluated(net, x, (y + 1) % 10, attack="fgsm").run != first.run
    assert evaluated(net, x, y, attack="fgsm", normalize=(0.1, 0.9)).run != first.run


def capturing(network: nn.Module) -> type:
    """A defense that answers with a network that stands beside it."""

    class Captured(planted.Wrapped):
        def fit(self, task: Any, base: Any, context: Any) -> None:
            super().fit(task, base, context)
            self.network = network

    Captured.__qualname__ = "Captured"
    return Captured


def played() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it answers with another network than its base
        return lib.run("captured", "fgsm", n=40, workers=1, sets={"base.epochs": 1})


def test_a_captured_network_that_was_trained_anew_is_another_run() -> None:
    network = trained()
    lib.register_defense("captured", capturing(network))
    first = played()
    assert played().run == first.run
    with torch.no_grad():
        network[3].weight.zero_()  # type: ignore[operator]
    second = played()
    assert second.run != first.run and second.clean_accuracy.value < first.clean_accuracy.value
    lib.register_defense("captured", capturing(trained(1)))
    assert played().run not in (first.run, second.run)


SCALE = np.ones(1, dtype=np.float32)
STEP = 0.2


class Scaled(planted.Wrapped):
    """Multiplies its logits by an array that stands beside it."""

    def answer(self, x: Tensor) -> Tensor:
        return super().answer(x) * torch.from_numpy(SCALE)


class Stepping(lib.Attack):
    """One step, whose length stands beside it."""

    def perturb(self, oracle: Any, x: Tensor, y: Tensor, draws: Any) -> Tensor:
        return (x + STEP * oracle.threat.eps).clamp(0, 1)


def test_a_captured_array_and_a_captured_step_size_are_in_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    lib.register_defense("captured", Scaled)
    lib.register_attack("stepping", Stepping)

    def key(attack: str) -> str:
        return str(lib.run("captured", attack, n=5, workers=1, sets={"base.epochs": 1}).run)

    first = key("fgsm"), key("stepping")
    monkeypatch.setitem(globals(), "SCALE", -SCALE)
    second = key("fgsm"), key("stepping")
    monkeypatch.setitem(globals(), "STEP", 0.4)
    third = key("fgsm"), key("stepping")
    assert len({*first, *second}) == 4 and third[0] == second[0] and third[1] != second[1]


PLUGIN = """
import torch
from bench import register_defense
from tests import planted
class Reads(planted.Wrapped):
    def fit(self, task, base, context):
        super().fit(task, base, context)
        self.offset = torch.load("offset.pt", weights_only=True)
    def answer(self, x):
        return super().answer(x) + self.offset
register_defense("reads", Reads)
"""


def test_a_plug_in_that_reads_another_file_under_the_same_key_is_an_error_that_names_both() -> None:
    Path("plugin.py").write_text(PLUGIN)
    torch.save(torch.zeros(10), "offset.pt")
    request: dict[str, Any] = {"n": 5, "workers": 1, "sets": {"base.epochs": 1}, "plugins": "plugin.py"}
    assert lib.run("reads", "fgsm", **request).status == "DONE"
    torch.save(torch.eye(10)[0] * 50, "offset.pt")
    other = lib.run("reads", "pgd", **request)
    assert other.status == "FAILED" and "ChangedFit: The defense 'reads' holds other tensors" in other.reason
    named = re.search(r"fingerprint ([0-9a-f]{12}), now ([0-9a-f]{12})", other.reason)
    assert named is not None and named[1] != named[2]
    torch.save(torch.zeros(10), "offset.pt")
    assert lib.run("reads", "pgd", rerun="failed", **request).status == "DONE"


class SpoilsBase(planted.Wrapped):
    """Zeroes the head of the base's network in its fit."""

    def fit(self, task: Any, base: Any, context: Any) -> None:
        super().fit(task, base, context)
        with torch.no_grad():
            self.network.head.weight.zero_()


class SpoilsLabels(planted.Wrapped):
    """Writes into the labels of the dataset in its fit."""

    def fit(self, task: Any, base: Any, context: Any) -> None:
        super().fit(task, base, context)
        task.test_labels[:] = 0


@pytest.mark.parametrize("cls", [SpoilsBase, SpoilsLabels, planted.AnswersIntoBase])
def test_a_plug_in_that_changes_what_others_share_fails_and_the_others_do_not_notice(cls: type) -> None:
    lib.register_defense("spoils", cls)
    request: dict[str, Any] = {"n": 30, "workers": 1, "sets": {"base.epochs": 8}}
    alone = lib.run("regular", "pgd", **request, db="alone.db")
    spoils, after = lib.run(["spoils", "regular"], "pgd", **request)
    assert spoils.status == "FAILED" and "changes the base's network or the dataset's arrays" in spoils.reason
    assert after.status == "DONE" and after.robust_accuracy.value == alone.robust_accuracy.value
    assert after.clean_accuracy.value == alone.clean_accuracy.value


def test_a_defense_that_brings_its_network_is_attacked_through_it() -> None:
    lib.register_defense("own", planted.OwnNetwork)
    lib.register_defense("brings", planted.BringsNetwork)
    with pytest.warns(UserWarning, match=r"answers with a network that is not its base 'regular'.*uses_base = False"):
        lib.run("own", "fgsm", n=5, workers=1, sets={"base.epochs": 1})
    pgd, skip = (lib.run("brings", attack, n=60, workers=1) for attack in ("pgd", "pgd-skip"))
    assert (pgd.status, pgd.base) == ("DONE", "brings")
    assert abs(pgd.robust_accuracy.value - skip.robust_accuracy.value) <= 0.1 < pgd.clean_accuracy.value
    assert lib.verify(pgd).holds


@pytest.mark.parametrize(
    ("cls", "words"),
    [
        (planted.HiddenRandomness, "differently with the same noise key"),
        (planted.BatchLeak, "depends on the others beside it"),
        (planted.RandomUndeclared, None),
    ],
)
def test_a_plug_in_whose_answers_are_not_what_it_declares_is_named_before_its_first_row(
    cls: type, words: str | None
) -> None:
    lib.register_defense("planted", cls)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        lib.run("planted", "clean", n=3, workers=1, sets={"base.epochs": 1})
    told = [
        str(one.message) for one in caught if issubclass(one.category, UserWarning) and "planted" in str(one.message)
    ]
    assert (len(told) == 1 and words in told[0]) if words else told == []


def test_a_defense_that_writes_into_its_input_gets_a_copy() -> None:
    lib.register_defense("writes", planted.WritesIntoInput)
    lib.register_defense("honest", planted.Wrapped)
    both = lib.run(
        ["writes", "honest"], ["pgd", "square"], n=20, workers=1, sets={"base.epochs": 8, "threat.queries": 30}
    )
    assert {one.status for one in both} == {"DONE"} and {one.violations for one in both} == {0}
    assert [one.robust_accuracy.value for one in both[:2]] == [one.robust_accuracy.value for one in both[2:]]


# -- what else a program calls ----------------------------------------------------------------------------------------


def test_runs_are_verified_and_compared(net: nn.Module, points: Any) -> None:
    weak, strong = evaluated(net, *points, attack=["fgsm", "pgd"], n=50)
    assert lib.verify(strong).holds and lib.verify(strong.run[:10]).holds
    compared = lib.compare(weak, strong)
    assert compared.n == 50 and compared.b_value == strong.robust_accuracy.value
    assert lib.compare(weak.run, strong.run).difference == compared.difference
    evaluated(net, points[0][:50], points[1][:50], attack="fgsm")  # the name stands for other images now
    assert "the dataset arrays has changed" in str(lib.verify(strong).left_out)
    with pytest.raises(BadValue, match="A int is no run"):
        lib.verify(3)  # type: ignore[arg-type]


def test_what_is_in_memory_is_played_here_whatever_engine_is_configured(net: nn.Module, points: Any) -> None:
    Path("bench.toml").write_text('[runner]\nengine = "ray"\nworkers = 40\n')
    assert evaluated(net, points[0][:10], points[1][:10], attack="fgsm").status == "DONE"
    with pytest.raises(BadValue, match=r"so no worker process knows it .*; leave runner\.engine out"):
        evaluated(net, points[0][:10], points[1][:10], attack="fgsm", sets={"runner.engine": "ray"})


def test_a_network_and_a_name_are_audited(net: nn.Module, points: Any) -> None:
    """Here, also where runs play on a cluster: no other process has the network."""
    Path("bench.toml").write_text('[runner]\nengine = "ray"\n')
    audited = lib.audit(net, *points, eps=EPS, budget="quick", n=4, progress=False)
    assert {"unaware", "aware-full"} & set(audited.verdict) and audited.failed == []
    assert "worst case" in repr(audited) and "<table" in audited._repr_html_()
    assert audited.to_dict()["defense"] == "given" and set(audited.runs) and isinstance(audited.flags, list)
    assert {check["id"] for check in audited.checks} >= {"V1", "M9"} and isinstance(audited.left_out, dict)
    with pytest.raises(BadValue, match=r"leave runner\.engine out of sets"):
        lib.audit("regular", budget="quick", sets={"runner.engine": "ray"})
    with pytest.raises(BadValue, match=r"bench\.audit\(model, x, y, eps=\.\.\.\)"):
        lib.audit(net)
    with pytest.raises(BadValue, match="budget is 'much'"):
        lib.audit("regular", budget="much")
    with pytest.raises(UnknownName, match="regulr"):
        lib.audit("regulr")
    with pytest.raises(BadValue, match=r"^normalize is for a network in memory, with its images and labels"):
        lib.audit("regular", normalize=([0.5], [0.5]))
    with pytest.raises(BadValue, match=r"^defense is for a network in memory"):
        lib.audit("regular", defense="rmc")
    with pytest.raises(BadValue, match=r"^eps is 0; an audit needs a radius above 0"):
        lib.audit("regular", eps=0)


def test_run_says_what_to_call_for_networks_and_arrays_and_prints_none(net: nn.Module, points: Any) -> None:
    requests: list[Any] = [
        lambda: lib.run(net, "pgd"),
        lambda: lib.run("regular", net),
        lambda: lib.run("regular", "pgd", dataset=points),
    ]
    for request in requests:
        with pytest.raises(BenchError, match=r"bench\.evaluate\(model, x, y\)") as caught:
            request()
        assert len(str(caught.value)) < 200
    with pytest.raises(BadValue, match="n is a ndarray; give a whole number"):
        lib.run("regular", "pgd", n=points[0])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": [[1.0]]}, "x is a list; give a torch tensor"),
        ({"x": np.zeros((4, 8, 8))}, r"x\[:, None\]"),
        ({"x": np.zeros((0, 1, 8, 8))}, "x holds no image"),
        ({"x": np.zeros((200, 1, 8, 8), dtype=int)}, "is of int64; give floats"),
        ({"x": np.full((200, 1, 8, 8), np.nan)}, "not finite"),
        ({"y": np.zeros((200, 10))}, r"y.argmax\(1\)"),
        ({"y": np.zeros((200, 1))}, r"y.reshape\(-1\)"),
        ({"y": np.zeros(200)}, r"y.astype\('int64'\)"),
        ({"y": -np.ones(200, dtype=int)}, "holds the label -1"),
        ({"y": np.zeros(3, dtype=int)}, "200 images, but y has 3 labels"),
        ({"train": 3}, r"train is a int; give \(images, labels\)"),
        ({"train": (np.zeros((2, 1, 4, 4)), np.zeros(2, dtype=int))}, "give equal ones"),
        ({"train": (np.zeros((2, 1, 8, 8)), np.zeros(3, dtype=int))}, "2 images and 3 labels"),
        ({"name": "digits"}, "'digits' is a dataset already"),
        ({"name": "no/name"}, "is no name for a dataset"),
        ({"network": "mnist-cnn"}, "'mnist-cnn' is a model already"),
        ({"eps": 8}, r"did you mean 8/255\? Give a smaller radius, or --force-eps"),
        ({"eps": 9, "norm": "l2"}, "no two images are farther apart than 8"),
        ({"eps": None}, "no default radius for linf"),
        ({"outputs": "scores"}, "give logits or probabilities"),
        ({"attack": "no-attack"}, "no-attack"),
        ({"defense": "no-defense"}, "no-defense"),
        ({"n": 201}, "n is 201; arrays has 200 test points"),
    ],
)
def test_a_wrong_call_is_one_line_and_writes_nothing(
    net: nn.Module, points: Any, change: dict[str, Any], words: str
) -> None:
    request: dict[str, Any] = {"x": points[0], "y": points[1], **change}
    with pytest.raises(BenchError, match=words) as caught:
        evaluated(net, **request)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400 and not Path("results").exists()
    for names in (registry.datasets, registry.models):  # the names stay free for the next call
        names.drop("arrays")


def test_a_radius_without_a_bound_is_played_where_it_is_forced(net: nn.Module, points: Any) -> None:
    assert evaluated(net, *points, attack="fgsm", eps=1.0, force_eps=True, n=5).status == "DONE"


def test_a_name_says_all_about_its_network(points: Any) -> None:
    with pytest.raises(BadValue, match="for a network in memory"):
        evaluated("regular", *points, normalize=(0, 1))


def test_images_and_labels_are_copies() -> None:
    x, y = np.zeros((2, 1, 4, 4), dtype=np.uint8), np.zeros(2, dtype=np.int64)
    images, labels = checked_images("x", x), checked_labels("y", y)
    x[:], y[:] = 1, 1
    assert images.max() == 0 and labels.max() == 0


def test_python_m_bench_is_the_command_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--help"], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert "Usage: " in done.stdout and "run" in done.stdout


def test_a_script_without_a_file_is_played(tmp_path: Path) -> None:
    code = (
        "import numpy, torch, bench, warnings; warnings.simplefilter('ignore'); torch.manual_seed(0)\n"
        "class Mine(torch.nn.Module):\n"
        "    def forward(self, x): return x.flatten(1)[:, :2]\n"
        "x = numpy.random.default_rng(0).random((6, 1, 4, 4), dtype='float32')\n"
        "print(bench.evaluate(Mine(), x, numpy.arange(6) % 2, attack='fgsm', eps=0.1).run)\n"
    )
    runs = [
        subprocess.run([sys.executable], input=code, capture_output=True, text=True, cwd=tmp_path, check=True,
                       env={**os.environ, "PYTHONPATH": str(ROOT)}).stdout
        for _ in range(2)
    ]  # fmt: skip
    assert runs[0] == runs[1] and len(runs[0].strip()) == 64

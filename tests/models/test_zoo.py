"""The zoo: networks that others trained load with their published numbers, and nothing that is not verified is read."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bench as lib
from bench import registry
from bench.data import files
from bench.data.task import Task, TaskFacts
from bench.errors import BadValue, DataError, UnknownName
from bench.models import zoo as zoo_module
from bench.models.published import cnn_a
from bench.models.sources import make_network
from bench.models.zoo import ZOO, Published, local_file, verified, weights_file, zoo
from tests.conftest import Bench, real

CNN = "cifar10-cnna"


@pytest.fixture
def weights_dir() -> Path:
    """The data folder, with `weights/`."""
    return real("the weights of the zoo", "weights")


def points(dataset: str, folder: Path, count: int | None) -> tuple[Task, list[int]]:
    cls = registry.datasets.load(dataset)
    task: Task = cls.load(cls.Params(), folder)
    return task, list(range(len(task.test_labels) if count is None else count))


def right(network: nn.Module, task: Task, indices: list[int]) -> int:
    count = 0
    with torch.no_grad():
        for start in range(0, len(indices), 500):
            x, y = task.test_points(indices[start : start + 500])
            count += int((network(x).argmax(1) == y).sum())
    return count


@pytest.mark.parametrize("name", [name for name, entry in ZOO.items() if entry.dataset != "imagenet"])
def test_a_network_answers_as_many_of_500_images_right_as_it_should(name: str, weights_dir: Path) -> None:
    """Four standard deviations of a draw of 500; on all images: the slow test below."""
    entry = ZOO[name]
    task, indices = points(entry.dataset, weights_dir, 500)
    share = entry.measured / 100
    count = right(zoo(name), task, indices)
    assert abs(count / 500 - share) <= 4 * (share * (1 - share) / 500) ** 0.5
    if "8/255" in entry.robust or "0.3" in entry.robust:
        radius, steps, step = ("0.3", 40, 0.01) if entry.dataset == "mnist" else ("8/255", 20, 2 / 255)
        x, y = task.test_points(indices[:100])
        kept = pgd_keeps(zoo(name), x, y, 0.3 if radius == "0.3" else 8 / 255, steps, step)
        known = entry.robust[radius] / 100
        assert abs(kept - known) <= 4 * max(known * (1 - known) / 100, 0.0025) ** 0.5


def pgd_keeps(network: nn.Module, x: Tensor, y: Tensor, eps: float, steps: int, step: float) -> float:
    from bench.draws import Draws
    from bench.models.frozen import frozen_copy
    from bench.norms import random_offset
    from bench.pgd import pgd

    network = frozen_copy(network)
    offset = random_offset(Draws(0, "zoo", list(range(len(x)))), tuple(x.shape[1:]), eps, "linf")
    images = pgd(network, x, y, eps=eps, steps=steps, step_size=step, offset=offset)
    return float((network(images).argmax(1) == y).float().mean())


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, entry in ZOO.items() if entry.dataset != "imagenet"])
def test_a_network_has_its_clean_accuracy_on_all_images(name: str, weights_dir: Path) -> None:
    task, indices = points(ZOO[name].dataset, weights_dir, None)
    assert abs(100 * right(zoo(name), task, indices) / len(indices) - ZOO[name].measured) <= 0.1


def test_squeezenet_answers_among_the_classes_that_are_there(
    weights_dir: Path, imagenet_dir: Path, bench: Bench
) -> None:
    done = bench("run", "--defense", "given", "--attack", "fgsm", "--dataset", "imagenet", "-n", "12", "--json",
                 "--workers", "1", "--data-dir", str(imagenet_dir), "--set", "dataset.train_size=10",
                 "--set", "base.model=zoo:imagenet-squeezenet1_1")  # fmt: skip
    (run,) = done.runs
    assert run["status"] == "DONE" and run["clean_accuracy"]["value"] >= 0.75, run["reason"]


def test_a_network_of_the_zoo_is_played_by_name_in_a_program_and_on_the_command_line(
    weights_dir: Path, cifar10_dir: Path, bench: Bench
) -> None:
    task, indices = points("cifar10", weights_dir, 40)
    x, y = task.test_images[indices], task.test_labels[indices]
    by_name = lib.evaluate(f"zoo:{CNN}", x, y, attack="fgsm", eps="2/255", progress=False)
    by_hand = lib.evaluate(lib.zoo(CNN), x, y, attack="fgsm", eps="2/255", progress=False)
    assert (by_name.status, by_hand.status) == ("DONE", "DONE")
    assert by_name.robust_accuracy.value == by_hand.robust_accuracy.value
    done = bench("run", "--defense", "given", "--attack", "clean", "--dataset", "cifar10", "-n", "200", "--json",
                 "--workers", "1", "--data-dir", str(cifar10_dir), "--set", f"base.model=zoo:{CNN}")  # fmt: skip
    assert 0.6 < done.runs[0]["robust_accuracy"]["value"] < 0.9
    with pytest.raises(BadValue, match=r"does not take images of shape \(1, 32, 32\).*for 3 channels"):
        make_network(f"zoo:{CNN}", "", TaskFacts("grey", 10, (1, 32, 32), 0, 1, ""))
    with pytest.raises(BadValue, match=r"does not take images of shape \(3, 8, 8\)"):
        make_network(f"zoo:{CNN}", "", TaskFacts("small", 10, (3, 8, 8), 0, 1, ""))
    with pytest.raises(BadValue, match="answers among 10 classes, but arrays has 2"):
        make_network(f"zoo:{CNN}", "", TaskFacts("arrays", 2, x.shape[1:], 0, 1, ""))


def test_the_zoo_is_listed_and_looked_for(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"zoo:{CNN}" in [row["name"] for row in json.loads(bench("list", "models", "--json").out)]
    monkeypatch.setenv("BENCH_DATA", str(tmp_path))
    monkeypatch.setattr(zoo_module, "cache_dir", lambda: tmp_path / "cache")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / f"{ZOO[CNN].file}.safetensors").touch()
    text = bench("doctor").out
    assert f"1 of {len(ZOO)} networks are here: {CNN}" in " ".join(text.split())
    with pytest.raises(UnknownName, match=r"cifar10-cnn'\. Did you mean 'cifar10-cnna'"):
        zoo("cifar10-cnn")


# -- files ------------------------------------------------------------------------------------------------------------


class Host:
    """Stands for the network: `retrieve` leaves a file, as pooch does."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def __call__(self, url: str, known_hash: None, fname: str, path: Path) -> str:
        path.mkdir(parents=True, exist_ok=True)
        (path / fname).write_bytes(self.content)
        return str(path / fname)


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Published:
    """An entry whose file is on no disk yet."""
    monkeypatch.delenv("BENCH_DATA", raising=False)
    monkeypatch.setattr(zoo_module, "cache_dir", lambda: tmp_path / "cache")
    return replace(ZOO[CNN], file="mine", address="https://example.org/mine.pth")


def offered(monkeypatch: pytest.MonkeyPatch, entry: Published, content: bytes) -> Published:
    monkeypatch.setattr("pooch.retrieve", Host(content))
    return replace(entry, pickled=hashlib.sha256(content).hexdigest())


def test_a_download_is_verified_read_without_code_and_kept_as_tensors(
    entry: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = {f"module.{name}": tensor for name, tensor in cnn_a(10).state_dict().items()}
    torch.save({"state_dict": [state], "epoch": 3}, tmp_path / "made.pth")
    asked = offered(monkeypatch, entry, (tmp_path / "made.pth").read_bytes())
    path = weights_file(asked)
    assert path.name == "mine.safetensors" and local_file(asked) == path
    monkeypatch.setitem(ZOO, "mine", asked)
    assert zoo("mine")(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    monkeypatch.setattr("pooch.retrieve", lambda *args, **more: pytest.fail("it is downloaded once"))
    assert weights_file(asked) == path


def test_a_file_that_is_another_is_not_opened(entry: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    offered(monkeypatch, entry, b"something else")
    monkeypatch.setattr("torch.load", lambda *args, **more: pytest.fail("it is not verified"))
    with pytest.raises(DataError, match="a file with the sha256"):
        weights_file(entry)
    offered(monkeypatch, entry, b"\n<!DOCTYPE html><html>not found</html>")
    with pytest.raises(DataError, match="a web page, not weights"):
        weights_file(entry)


def test_a_pickle_with_code_is_refused_even_with_the_right_sha256(
    entry: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hostile:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "ran"),)

    asked = offered(monkeypatch, entry, pickle.dumps(Hostile()))
    with pytest.raises(DataError, match="cannot be read as weights alone"):
        weights_file(asked)
    assert not (tmp_path / "ran").exists()


def test_what_cannot_be_downloaded_says_where_to_put_it(entry: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any, **more: Any) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr("pooch.retrieve", fails)
    with pytest.raises(DataError, match=r"no route to host.*put mine.safetensors into weights/"):
        weights_file(entry)
    with pytest.raises(DataError, match="is not published at an address"):
        weights_file(replace(entry, address=""))


def test_a_damaged_file_of_the_data_folder_is_refused(
    entry: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_DATA", str(tmp_path))
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "mine.safetensors").write_bytes(b"damaged")
    with pytest.raises(DataError, match="has another sha256"):
        weights_file(entry)
    file = tmp_path / "first digits"
    file.write_bytes(b"x")
    verified(file, hashlib.sha256(b"x").hexdigest()[:8])
    assert file.exists() and files.cache_dir().name == "data"


# -- networks of other packages ---------------------------------------------------------------------------------------


class Tiny(nn.Module):
    """The mean of each channel."""

    pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}  # noqa: RUF012

    def forward(self, x: Tensor) -> Any:
        return SimpleNamespace(logits=x.mean(dim=(2, 3)))


def fake(package: str) -> dict[str, Any]:
    """A package as `zoo` uses it."""
    transform = SimpleNamespace(mean=[0.5] * 3, std=[0.5] * 3)
    weights = SimpleNamespace(DEFAULT=SimpleNamespace(transforms=lambda: transform))
    processor = SimpleNamespace(image_mean=[0.5] * 3, image_std=[0.5] * 3)
    made = {
        "torchvision": SimpleNamespace(
            models=SimpleNamespace(get_model_weights=lambda name: weights, get_model=lambda name, weights: Tiny())
        ),
        "timm": SimpleNamespace(create_model=lambda name, pretrained: Tiny()),
        "transformers": SimpleNamespace(
            AutoModelForImageClassification=SimpleNamespace(from_pretrained=lambda name, use_safetensors: Tiny()),
            AutoImageProcessor=SimpleNamespace(from_pretrained=lambda name: processor),
        ),
        "robustbench": SimpleNamespace(),
        "robustbench.utils": SimpleNamespace(
            load_model=lambda model_name, dataset, threat_model: {"Tiny2020": Tiny()}[model_name]
        ),
    }
    return {name: module for name, module in made.items() if name.split(".")[0] == package}


@pytest.mark.parametrize(
    ("name", "normalised"),
    [("torchvision/tiny", True), ("timm/tiny", True), ("transformers/owner/tiny", True),
     ("robustbench/cifar10/Linf/Tiny2020", False)],
)  # fmt: skip
def test_a_network_of_another_package_comes_with_its_normalisation(
    name: str, normalised: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = name.split("/")[0]
    for module, made in fake(package).items():
        monkeypatch.setitem(sys.modules, module, made)
    monkeypatch.setattr("importlib.metadata.version", lambda package: "1.2.3")
    x = torch.rand(2, 3, 8, 8)
    expected = ((x - 0.5) / 0.5 if normalised else x).mean(dim=(2, 3))
    assert torch.allclose(zoo(name)(x), expected, atol=1e-6)
    assert zoo_module.zoo_source(name) == f"{package} 1.2.3"
    if package == "robustbench":
        with pytest.raises(BadValue, match="cannot be loaded: KeyError"):
            zoo("robustbench/cifar10/Linf/Gone2020")


def test_a_package_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(BadValue, match="pip install timm"):
        zoo("timm/resnet18")
    with pytest.raises(BadValue, match="pip install robustbench"):
        zoo_module.zoo_source("robustbench/cifar10/Linf/X")
    with pytest.raises(UnknownName, match="nowhere/net"):
        zoo("nowhere/net")
    with pytest.raises(BadValue, match="pip install robustbench"):
        lib.evaluate("zoo:robustbench/cifar10/Linf/X", np.zeros((2, 3, 8, 8)), np.arange(2), eps=0.1, progress=False)

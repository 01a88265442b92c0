"""Networks: their sizes, what any module becomes, and a user's own file with its weights."""

from __future__ import annotations

import json
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from bench.data.task import TaskFacts
from bench.errors import BadValue
from bench.models import sources
from bench.models.layout import channels_last
from bench.models.resnet import PlainCNN, resnet18, resnet20
from bench.models.small_cnn import StridedCNN
from bench.models.sources import make_network, network_name, network_source
from bench.models.wrapped import Selected, Wrapped
from tests.conftest import Bench, spec_of

FACTS = TaskFacts("digits", 10, (1, 8, 8), 100, 10, "x")
OWN = """
from torch import nn


def build(num_classes, image_shape):
    body = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
    return nn.Sequential(*body, nn.Linear(16, num_classes))


def number(num_classes, image_shape):
    return 3


def raising(num_classes, image_shape):
    raise RuntimeError("not today")
"""


def weights_of(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


@pytest.mark.parametrize(
    ("make", "shape", "count"),
    # He et al. 2016 give 0.27M for ResNet-20; ResNet-18 with a 3 x 3 stem has 11.17M
    [(resnet20, (3, 32, 32), 272474), (resnet18, (3, 32, 32), 11173962), (PlainCNN, (3, 32, 32), 288746),
     (StridedCNN, (1, 28, 28), 23946), (StridedCNN, (1, 8, 8), 23946)],
)  # fmt: skip
def test_networks_have_their_size_and_their_features(make, shape: tuple[int, int, int], count: int) -> None:
    network = make(num_classes=10, image_shape=shape).eval()
    assert weights_of(network) == count
    x = torch.rand((2, *shape), generator=torch.Generator().manual_seed(0))
    assert torch.allclose(network.head(network.features(x)), network(x), atol=1e-5)
    names = dict(network.named_modules())
    assert network.denoise_after and all(name in names for name in network.denoise_after)


def test_a_residual_block_passes_its_input_on() -> None:
    """With zero convolutions a stage of equal width is a ReLU of its input."""
    block = resnet20(num_classes=10, image_shape=(3, 32, 32)).stages[0][1].eval()
    for conv in (block.conv1, block.conv2):
        nn.init.zeros_(conv.weight)
    x = torch.randn((1, 16, 8, 8), generator=torch.Generator().manual_seed(0))
    assert torch.allclose(block(x), x.relu())


def test_the_features_of_any_module_are_the_input_of_its_last_layer() -> None:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU())
    ends_in_linear = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 7))
    ends_in_conv = nn.Sequential(body, nn.Dropout(), nn.Conv2d(5, 7, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    x = torch.rand((2, 3, 6, 6))
    for module in (ends_in_linear, ends_in_conv):
        wrapped = Wrapped(module, (0.5,) * 3, (0.25,) * 3).eval()
        inner = body((x - 0.5) / 0.25)
        assert torch.allclose(wrapped.features(x), inner.mean(dim=(2, 3)), atol=1e-6)
        assert torch.allclose(wrapped(x), module((x - 0.5) / 0.25))
    chosen = Selected(wrapped, (6, 0))
    assert torch.equal(chosen(x), wrapped(x)[:, [6, 0]]) and torch.equal(chosen.features(x), wrapped.features(x))


def test_weights_of_any_float_type_fill_a_network_of_ones_own(tmp_path: Path, bench: Bench) -> None:
    Path("own.py").write_text(OWN)
    torch.manual_seed(0)
    made = make_network("own.py:build", "", FACTS)
    half = {name: tensor.half() for name, tensor in made.module.state_dict().items()}
    save_file(half, "own.safetensors")
    filled = make_network("own.py:build", "own.safetensors", FACTS)
    assert all(torch.equal(tensor, half[name].float()) for name, tensor in filled.module.state_dict().items())
    done = bench("run", "--defense", "regular", "--defense", "deepnn", "--attack", "fgsm", "-n", "10", "--json",
                 "--set", "base.model=own.py:build", "--set", "base.weights=own.safetensors", "--set", "base.epochs=0",
                 "--workers", "1")  # fmt: skip
    assert done.code == 0 and [run["status"] for run in done.runs] == ["DONE", "DONE"]
    spec = json.loads(bench("show", done.runs[0]["run"], "--json").out)["spec"]
    assert spec["network"]["name"] == "own.py:build"


def test_a_task_of_some_classes_takes_their_outputs_of_a_network_for_all(tmp_path: Path) -> None:
    Path("own.py").write_text(OWN)
    whole = make_network("own.py:build", "", TaskFacts("digits", 20, (1, 8, 8), 100, 10, "x"))
    save_file(whole.module.state_dict(), "own.safetensors")
    part = TaskFacts("digits", 3, (1, 8, 8), 100, 10, "x", outputs=(4, 19, 0), all_classes=20)
    found = make_network("own.py:build", "own.safetensors", part)
    x = torch.rand((2, 1, 8, 8))
    assert torch.equal(found(x), whole(x)[:, [4, 19, 0]])
    assert make_network("own.py:build", "", part)(x).shape == (2, 3)  # without weights it is trained for these alone


def test_weights_for_the_classes_of_the_task_alone_are_taken_too(tmp_path: Path) -> None:
    Path("own.py").write_text(OWN)
    part = TaskFacts("digits", 3, (1, 8, 8), 100, 10, "x", outputs=(4, 19, 0), all_classes=20)
    own = make_network("own.py:build", "", part)
    save_file(own.module.state_dict(), "own.safetensors")
    x = torch.rand((2, 1, 8, 8))
    assert torch.equal(make_network("own.py:build", "own.safetensors", part)(x), own(x))
    save_file({"first.weight": torch.zeros(3)}, "other.safetensors")
    with pytest.raises(BadValue, match="another architecture"):
        make_network("own.py:build", "other.safetensors", part)


def test_a_file_with_dataclasses_and_future_annotations_imports(tmp_path: Path) -> None:
    head = "from __future__ import annotations\nfrom dataclasses import dataclass\n\n\n"
    head += "@dataclass\nclass Size:\n    n: int\n"
    Path("own.py").write_text(head + OWN)
    assert make_network("own.py:build", "", FACTS)(torch.rand((2, 1, 8, 8))).shape == (2, 10)


def test_a_surrogate_of_given_weights_is_trained_by_the_regular_recipe(tmp_path: Path, bench: Bench) -> None:
    Path("own.py").write_text(OWN)
    save_file(make_network("own.py:build", "", FACTS).module.state_dict(), "own.safetensors")
    done = bench("run", "--defense", "regular", "--attack", "gray-box", "--attack", "transfer", "-n", "2", "--json",
                 "--workers", "1", "--set", "base.model=own.py:build", "--set", "base.weights=own.safetensors",
                 "--set", "base.epochs=0", "--set", "surrogate.epochs=3")  # fmt: skip
    assert done.code == 0 and {run["status"] for run in done.runs} == {"DONE"}
    spec = json.loads(bench("show", done.runs[0]["run"], "--json").out)["spec"]
    assert spec["surrogate_base"]["name"] == "regular" and spec["surrogate_base"]["params"]["epochs"] == 3
    assert spec["surrogate_base"]["params"]["weights"] == "" and spec["surrogate"]["name"] == "digits-cnn"


def test_the_folder_of_a_file_does_not_enter_a_key(tmp_path: Path) -> None:
    Path("own.py").write_text(OWN)
    save_file(make_network("own.py:build", "", FACTS).module.state_dict(), "own.safetensors")
    Path("elsewhere").mkdir()
    for name in ("own.py", "own.safetensors"):
        Path("elsewhere", name).write_bytes(Path(name).read_bytes())
    here, there = (
        spec_of("rmc", "pgd", base__model=f"{folder}own.py:build", base__weights=f"{folder}own.safetensors")
        for folder in ("", "elsewhere/")
    )
    assert (here.key, here.base_key, here.craft_key) == (there.key, there.base_key, there.craft_key)
    assert there.base.params["weights"] == "elsewhere/own.safetensors"  # what a worker opens


def test_the_key_follows_the_code_and_the_weights(tmp_path: Path) -> None:
    def key() -> str:
        return spec_of("regular", "clean", base__model="own.py:build", base__weights="own.safetensors").base_key

    Path("own.py").write_text(OWN)
    torch.manual_seed(0)
    module = make_network("own.py:build", "", FACTS).module
    save_file(module.state_dict(), "own.safetensors")
    first = key()
    assert key() == first
    nn.init.zeros_(module[0].weight)
    save_file(module.state_dict(), "own.safetensors")
    second = key()
    Path("own.py").write_text(OWN + "\n# changed\n")
    assert len({first, second, key()}) == 3


@pytest.mark.parametrize(
    ("model", "weights", "words"),
    [
        ("own.py:nothing", "", r"base.model is 'own.py:nothing', but own.py has no function 'nothing'"),
        ("none.py:build", "", r"'none.py' is no file; give FILE.py:FUNCTION"),
        ("own.py:number", "", r"made a int; it must return a torch module"),
        ("own.py:raising", "", r"cannot be made: RuntimeError: not today"),
        ("bad.py:build", "", r"does not import: ModuleNotFoundError"),
        ("own.py:build", "none.safetensors", r"base.weights is 'none.safetensors', which is no file"),
        ("own.py:build", "text.safetensors", r"text.safetensors is no safetensors file"),
        ("own.py:build", "other.safetensors", r"it lacks 0.bias and 3 more; it has first.weight, which the net"),
        ("own.py:build", "shape.safetensors", r"4.bias is \(9,\) instead of \(10,\)"),
        ("digits-cn", "", r"Did you mean 'digits-cnn'"),
    ],
)  # fmt: skip
def test_a_wrong_network_or_weights_file_is_one_line(
    bench: Bench, model: str, weights: str, words: str, tmp_path
) -> None:
    import re

    Path("own.py").write_text(OWN)
    Path("bad.py").write_text("import nowhere_at_all")
    Path("text.safetensors").write_text("<html>not found</html>" * 10)
    save_file({"first.weight": torch.zeros(3)}, "other.safetensors")
    module = make_network("own.py:build", "", FACTS).module
    module[4] = nn.Linear(16, 9)
    save_file(module.state_dict(), "shape.safetensors")
    done = bench("run", "--defense", "regular", "--attack", "clean", "--set", f"base.model={model}",
                 *(["--set", f"base.weights={weights}"] if weights else []))  # fmt: skip
    assert done.code == 2 and done.err.count("\n") == 1 and re.search(words, done.err), done.err
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_a_library_that_is_absent_or_does_not_import_is_one_line(bench: Bench, monkeypatch, library: str) -> None:
    """Both ways, whatever is installed here."""

    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    command = ("run", "--defense", "regular", "--attack", "clean", "--set", f"base.model={library}:resnet18")
    monkeypatch.setattr(sources, "version", absent)
    done = bench(*command)
    assert done.code == 2 and done.err.count("\n") == 1 and f"{library}, which is not installed" in done.err
    monkeypatch.setattr(sources, "version", lambda name: "1.0")
    monkeypatch.setitem(sys.modules, library, None)  # so that importing it fails
    done = bench(*command)
    assert done.code == 2 and done.err.count("\n") == 1 and f"{library}, which does not import here" in done.err


def test_auto_and_other_are_names_for_a_dataset() -> None:
    assert network_name("auto", "mnist") == "mnist-cnn" and network_name("other", "mnist") == "strided-cnn"
    assert network_name("mnist-cnn", "digits") == "mnist-cnn"
    with pytest.raises(BadValue, match="No network is known as another architecture for 'imagenet'"):
        network_name("other", "imagenet")
    assert network_source("mnist-cnn", "")[:2] == ("mnist-cnn", 1)


@pytest.mark.parametrize("model", ["torchvision:resnet18", "timm:resnet18"])
def test_networks_of_torchvision_and_timm_where_they_import(model: str) -> None:
    try:
        __import__(model.partition(":")[0])
    except (ImportError, RuntimeError) as error:
        # an optional extra: its wheels ask for a torch with CUDA libraries, and beside the tested CPU build torchvision
        # raises RuntimeError; where both fit together, as on machines with a GPU, the test runs
        pytest.skip(f"{model.partition(':')[0]} does not import here: {error}")
    facts = TaskFacts("imagenet", 10, (3, 224, 224), 100, 10, "x")
    network = make_network(model, "", facts).eval()
    x: Tensor = torch.rand((1, 3, 224, 224))
    assert network(x).shape == (1, 10) and network.features(x).shape == (1, 512)


def test_the_fast_layout_is_the_same_function_and_leaves_volumes_alone() -> None:
    torch.manual_seed(0)
    network = PlainCNN(4, (3, 8, 8)).eval()
    x = torch.rand((3, 3, 8, 8))
    before = network(x)
    assert channels_last(network) is network
    weights = [weight for weight in network.parameters() if weight.dim() == 4]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    assert torch.allclose(network(x), before, atol=1e-5)
    volumes = nn.Conv3d(1, 2, 3)
    assert channels_last(volumes).weight.is_contiguous()

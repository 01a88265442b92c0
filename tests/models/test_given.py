"""Networks as they come: each gives a right number, or one line that says what to do. The rows of `network.md`."""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bench as lib
from bench.errors import BenchError
from bench.models.frozen import independent_copy
from bench.models.given import GivenNetwork, adapts, given_network, tried
from bench.models.wrapped import Wrapped, as_logits
from tests.conftest import ROOT

#: ten classes of images of 6 x 6: each has a bright row or column
CLASSES = 10


def images(count: int = 40, channels: int = 1, size: tuple[int, int] = (6, 6)) -> tuple[Tensor, Tensor]:
    """Images (N, C, H, W) in [0, 1] and labels (N,): class k is the first pixel of an image, in steps of a tenth."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(count) % CLASSES
    x = 0.2 * torch.rand((count, channels, *size), generator=generator)
    for i, label in enumerate(y.tolist()):
        x[i, 0, label // 6, label % 6] = 0.9
    return x, y


class Net(nn.Module):
    """The logit of class k is pixel k, times ten."""

    def __init__(self, channels: int = 1, pixels: int = 36, outputs: int = CLASSES) -> None:
        super().__init__()
        self.body = nn.Flatten()
        self.head = nn.Linear(channels * pixels, outputs)
        with torch.no_grad():
            self.head.weight.zero_()
            self.head.weight[:CLASSES, :CLASSES] = 10 * torch.eye(CLASSES)
            self.head.bias.zero_()

    def forward(self, x: Tensor) -> Any:
        return self.head(self.body(x))


def after(change: Callable[[Any], Any], **sizes: int) -> nn.Module:
    """The network with something done to its answer."""

    class Changed(Net):
        def forward(self, x: Tensor) -> Any:
            return change(super().forward(x))

    return Changed(**sizes)


def before(change: Callable[[Tensor], Tensor], **sizes: int) -> nn.Module:
    """The network with something done to its input."""

    class Changed(Net):
        def forward(self, x: Tensor) -> Any:
            return super().forward(change(x))

    return Changed(**sizes)


class TwoHeads(Net):
    """An auxiliary head that is registered last and not used in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.auxiliary = nn.Linear(36, CLASSES)

    def forward(self, x: Tensor) -> Any:
        logits = super().forward(x)
        return (logits, self.auxiliary(self.body(x))) if self.training else logits


class Attended(nn.Module):
    """A class token before patches, attention, and a head on the token: a small vision transformer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.patches = nn.Linear(6, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.patches(x[:, 0])
        tokens = torch.cat([self.token.expand(len(x), -1, -1), rows], dim=1)
        seen, _ = self.attention(tokens, tokens, tokens)
        return self.head(seen)[:, 0]


class Differentiating(Net):
    """Takes a gradient with respect to its input in its forward pass, and adds nothing of it."""

    def forward(self, x: Tensor) -> Tensor:
        leaf = x.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(super().forward(leaf).sum(), leaf)
        return super().forward(x) + 0 * gradient.sum()


class Locked(Net):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()
        self.scale: Callable[[Tensor], Tensor] = lambda logits: 1 * logits

    def forward(self, x: Tensor) -> Any:
        with self.lock:
            return self.scale(super().forward(x))


def in_place(x: Tensor) -> Tensor:
    return x.mul_(1.0).add_(0.0)


def noisy_dropout(logits: Tensor) -> Tensor:
    return nn.functional.dropout(logits, 0.5, training=True)


def batch_statistics(logits: Tensor) -> Tensor:
    return nn.functional.batch_norm(logits, None, None, training=True)


def rgba() -> tuple[Any, ...]:
    x, y = images(channels=4)
    return Net(channels=4), x, y


def given_with(model: Any, **options: Any) -> tuple[Any, ...]:
    return model, *images(), options


def two_classes(x: Tensor) -> Tensor:
    return (10 * (x[:, 0, 0, 0] - x[:, 0, 0, 1])).neg()


def binary() -> tuple[Any, ...]:
    x, y = images()
    kept = y < 2
    return two_classes, x[kept], y[kept]


#: by the row of the table in `docs/howto/network.md`: (model, x, y, options) that give a clean accuracy of 100 %
RIGHT: dict[str, Callable[[], tuple[Any, ...]]] = {
    "an object with `.logits`": lambda: given_with(after(lambda logits: SimpleNamespace(logits=logits))),
    "a tuple or a mapping": lambda: given_with(after(lambda logits: (logits, logits.sum()))),
    "probabilities, declared": lambda: given_with(after(lambda logits: logits.softmax(1)), outputs="probabilities"),
    "one score of two classes": binary,
    "pixels of 0 to 255": lambda: given_with(before(lambda x: x / 255), normalize=(0, 1 / 255)),
    "normalised pixels": lambda: given_with(before(lambda x: 0.25 * x + 0.5), normalize=(0.5, 0.25)),
    "dropout or batch norm in training mode": lambda: given_with(
        nn.Sequential(Net(), nn.BatchNorm1d(CLASSES), nn.Dropout(0.5)).train()
    ),
    "more classes than labels": lambda: given_with(
        after(lambda logits: logits.repeat(1, 5)), classes=list(range(CLASSES, 2 * CLASSES))
    ),
    "half precision": lambda: given_with(Net().half()),
    "a grey image": lambda: given_with(Net()),
    "RGBA": rgba,
    "images that are not square": lambda: (before(lambda x: x[:, :, :, :6]), *images(size=(6, 10))),
    "an input that is changed in place": lambda: given_with(before(in_place)),
    "a gradient inside the forward pass": lambda: given_with(Differentiating()),
    "a lock, a lambda": lambda: given_with(Locked()),
    "a function": lambda: given_with(lambda x: 10 * x.flatten(1)[:, :CLASSES]),
    "an auxiliary head": lambda: given_with(TwoHeads()),
}

#: likewise: what is refused, and the words of its line
REFUSED: dict[str, tuple[Callable[[], tuple[Any, ...]], str]] = {
    "probabilities": (lambda: given_with(after(lambda logits: logits.softmax(1))), "outputs='probabilities'"),
    "a sigmoid of two classes": (
        lambda: (lambda x: two_classes(x).sigmoid(), *binary()[1:]), "outputs='probabilities'",
    ),
    "dropout that is always on": (lambda: given_with(after(noisy_dropout)), "differently when it is asked twice"),
    "batch statistics that are always on": (
        lambda: given_with(after(batch_statistics)), "depends on the other images",
    ),
    "fewer classes than labels": (lambda: given_with(after(lambda logits: logits[:, :4])), "go up to 9"),
    "NaN or infinite logits": (lambda: given_with(after(lambda logits: logits / 0)), "not finite"),
    "maps instead of logits": (lambda: given_with(nn.Conv2d(1, 10, 1)), r"shape \(8, 10, 6, 6\)"),
    "an image that does not fit": (lambda: (Net(channels=3), *images()), r"images of shape \(1, 6, 6\)"),
    "one class": (lambda: given_with(nn.Sequential(Net(), nn.Linear(10, 1)), y=1), "go up to 9"),
    "channels last": (
        lambda: (Net(), images()[0].permute(0, 2, 3, 1), images()[1]), r"x.transpose\(0, 3, 1, 2\)",
    ),
    "floats of 0 to 255": (lambda: (Net(), 255 * images()[0], images()[1]), r"x / 255"),
    "images that are normalised": (lambda: (Net(), images()[0] - 0.5, images()[1]), r"normalize=\(mean, std\)"),
    "a class instead of a network": (lambda: given_with(Net), r"Net\(\)"),
}  # fmt: skip

#: likewise: what is played with a warning, and its words
WARNED: dict[str, tuple[Callable[[], tuple[Any, ...]], str]] = {
    "a normalisation that was forgotten": (
        lambda: given_with(before(lambda x: torch.where(x > 2, x, -x))), r"normalize=\(0, 1 / 255\) it answers 40",
    ),
    "classes in another order": (lambda: given_with(after(lambda logits: logits.flip(1))), "order of its classes"),
    "the same logits for all images": (lambda: given_with(after(lambda logits: 0 * logits + 1)), "the same logits"),
    "gradients that are zero": (lambda: given_with(before(lambda x: (10 * x).round() / 10)), "has no gradient"),
}  # fmt: skip


def evaluated(model: Any, x: Any, y: Any, options: dict[str, Any] | None = None, **more: Any) -> Any:
    options = {key: value for key, value in (options or {}).items() if key != "y"}
    return lib.evaluate(model, x, y, **{"attack": "fgsm", "eps": 0.05, "progress": False, **options, **more})


@pytest.mark.parametrize("row", RIGHT)
def test_a_network_of_this_form_gives_its_own_number(row: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        result = evaluated(*RIGHT[row]())
    assert result.status == "DONE", result.reason
    assert float(result.clean_accuracy) == 1.0 and result.n in (8, 40)


@pytest.mark.parametrize("row", REFUSED)
def test_a_network_of_this_form_is_refused_in_one_line(row: str) -> None:
    made, words = REFUSED[row]
    with pytest.raises(BenchError, match=words) as caught:
        evaluated(*made())
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400 and not Path("results").exists()


@pytest.mark.parametrize("row", WARNED)
def test_a_network_of_this_form_is_played_with_a_warning(row: str) -> None:
    made, words = WARNED[row]
    with pytest.warns(UserWarning, match=words):
        result = evaluated(*made())
    assert result.status == "DONE", result.reason


def test_a_network_of_a_file_that_is_random_is_named(tmp_path: Path) -> None:
    Path("own.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def forward(self, x):\n"
        "        return nn.functional.dropout(super().forward(x), 0.5, training=True)\n"
        "def build(num_classes, image_shape):\n"
        "    return Net(nn.Flatten(), nn.Linear(64, num_classes))\n"
    )
    with pytest.warns(UserWarning, match="differently when it is asked again"):
        lib.run("regular", "clean", n=5, workers=1, sets={"base.epochs": 3, "base.model": "own.py:build"})


def test_a_network_without_a_gradient_is_attacked_by_queries_and_not_by_gradients() -> None:
    model = after(lambda logits: logits.detach())
    refused = evaluated(model, *images())
    assert refused.status == "FAILED" and "no gradient with respect to its images" in refused.reason
    assert evaluated(model, *images(), attack="square", sets={"threat.queries": 5}).status == "DONE"
    quantised = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Flatten(), nn.Linear(36, 10)), {nn.Linear})
    assert "no gradient" in evaluated(quantised, *images(), sets={}).reason


def test_every_row_of_the_documented_table_is_run() -> None:
    text = (ROOT / "docs" / "howto" / "network.md").read_text()
    rows = re.findall(r"^\| ([^|]+?) \| [^|]+ \|$", text, re.M)
    known = {*RIGHT, *REFUSED, *WARNED, "no gradient, quantised", "a vision transformer", "a shared original"}
    assert set(rows) - {"the network or the data", "---"} == known


def test_a_vision_transformer_is_searched_by_its_class_token() -> None:
    x, _ = images()
    network = Wrapped(Attended().eval())
    features = network.features(x)
    assert features.shape == (40, 8)
    assert torch.allclose(network.module.head(features), network(x), atol=1e-6)


def test_features_are_those_of_the_last_layer_that_is_called() -> None:
    x, _ = images()
    assert torch.equal(Wrapped(TwoHeads().eval()).features(x), x.flatten(1))
    from bench.errors import BadAnswer

    with pytest.raises(BadAnswer, match=r"give a bench\.Network"):
        Wrapped(given_network(lambda x: x.flatten(1)).module and nn.Flatten()).features(x)


def test_a_network_that_computes_with_another_object_is_not_adapted() -> None:
    class Shares(Net):
        def __init__(self) -> None:
            super().__init__()
            self.function = lambda x: Net.forward(self, x)

        def forward(self, x: Tensor) -> Any:
            return self.function(x)

    x, y = images()
    make = given_network(Shares())
    assert tried(make, x) == CLASSES
    with pytest.raises(BenchError, match="do not depend"):
        adapts(make, x)
    with pytest.raises(BenchError, match="do not depend"):
        evaluated(Shares(), x, y, defense="rmc", train=(x, y))
    adapts(given_network(Net()), x)


def test_the_network_of_a_program_stays_as_it_was() -> None:
    network = nn.Sequential(Net(), nn.BatchNorm1d(CLASSES)).train()
    before_ = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    evaluated(network, *images())
    assert network.training and all(weight.requires_grad for weight in network.parameters())
    assert all(torch.equal(tensor, before_[name]) for name, tensor in network.state_dict().items())


def test_what_cannot_be_copied_is_shared_and_the_weights_are_not() -> None:
    network = Locked()
    twin = independent_copy(network)
    assert twin.lock is network.lock and twin.head.weight is not network.head.weight


def test_logits_of_each_form() -> None:
    scores = torch.tensor([-1.0, 2.0])
    assert torch.equal(as_logits(scores), torch.tensor([[0.0, -1.0], [0.0, 2.0]]))
    assert torch.equal(as_logits(scores[:, None]), as_logits(scores))
    shares = as_logits(torch.tensor([[0.25, 0.75]]), "probabilities")
    assert torch.allclose(shares.exp(), torch.tensor([[0.25, 0.75]]))
    assert torch.allclose(as_logits(torch.tensor([0.75]), "probabilities"), shares)
    assert as_logits({"logits": scores}).shape == (2, 2) and as_logits(scores.half()).dtype is torch.float32


@pytest.mark.parametrize(
    ("normalize", "words"),
    [(1, "no pair"), ((0, 0), "not above 0"), ((float("nan"), 1), "not finite"), ((0, 1, 2), "no pair")],
)
def test_a_normalisation_that_cannot_be_is_refused(normalize: Any, words: str) -> None:
    with pytest.raises(BenchError, match=words):
        given_network(Net(), normalize)


def test_arrays_that_a_function_answers_with_are_taken() -> None:
    def answers(x: Tensor) -> Any:
        return 10 * x.numpy().reshape(len(x), -1)[:, :CLASSES].astype(np.float64)

    result = evaluated(answers, *images(), attack="square", sets={"threat.queries": 5})
    assert result.status == "DONE" and float(result.clean_accuracy) == 1.0
    assert isinstance(given_network(answers), GivenNetwork)

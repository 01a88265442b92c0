"""From `base.model` and `base.weights` to a network: registered names, torchvision, timm, and a user's own file.

| base.model         | is                                                                                        |
|--------------------|-------------------------------------------------------------------------------------------|
| `auto`             | the dataset's own                                                                         |
| a registered name  | see `bench list models`                                                                   |
| `torchvision:NAME` | a classifier of torchvision (extra `imagenet`), with ImageNet's normalisation before it   |
| `timm:NAME`        | a classifier of timm, normalised as its configuration says                                |
| `zoo:NAME`         | a network that others trained, with its weights (see `bench.models.zoo`)                  |
| `FILE.py:FUNCTION` | a function of `num_classes` and `image_shape` that returns a `bench.Network`, or any      |
|                    | module: then pixels come in [0, 1], and features are the input of its last layer          |

`base.weights` is a safetensors file with the state of that module. Nothing here downloads, and nothing unpickles.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import registry, source
from bench.data.files import file_sha256
from bench.errors import BadValue, one_line
from bench.interrupts import from_outside
from bench.models import DEFAULT, OTHER
from bench.models.zoo import zoo_source

if TYPE_CHECKING:
    from torch import nn

    from bench.data.task import TaskFacts
    from bench.models.network import Network

#: of ImageNet's training pixels, as torchvision's classifiers expect it
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_LIBRARIES = ("torchvision", "timm")
#: architectures that the zoo names by text and that a user's file may import: no import statement here leads to them
_PUBLISHED = "bench.models.published"


def network_name(model: str, dataset: str) -> str:
    """The network behind `base.model`; `auto` is the dataset's own, `other` another architecture for the same data."""
    table = {"auto": DEFAULT, "other": OTHER}.get(model)
    if table is None:
        return model
    if dataset not in table:
        what = "the default" if model == "auto" else "known as another architecture"
        raise BadValue(
            f"No network is {what} for {dataset!r}; name one: a name of `bench list models`, torchvision:NAME, "
            f"timm:NAME or FILE.py:FUNCTION."
        )
    return table[dataset]


def network_source(model: str, weights: str) -> tuple[str, int, str]:
    """Name, version and source hash of a network: of its code, and of the content of its weights file."""
    library, _, name = model.partition(":")
    if library == "zoo":
        code = f"{zoo_source(name)} {source.module_hash('bench.models.zoo')} {source.module_hash(_PUBLISHED)}"
        label, number = model, 1
    elif library in _LIBRARIES and name:
        label, number, code = model, 1, f"{library} {_version(library)} {source.module_hash('bench.models.wrapped')}"
    elif ".py:" in model:
        path, _ = _file_and_function(model)
        own = hashlib.sha256(path.read_bytes()).hexdigest()
        code = f"{own} {source.module_hash('bench.models.wrapped')} {source.module_hash(_PUBLISHED)}"
        label, number = model, 1
    else:
        entry = registry.models[model]
        label, number, code = entry.name, entry.version, entry.source_hash()
    if weights:
        content = weights_hash(weights)
        code = hashlib.sha256(f"{code} {content}".encode()).hexdigest()
    return label, number, code


def weights_hash(weights: str) -> str:
    """sha256 of a weights file."""
    return file_sha256(_weights_path(weights))


def _weights_path(weights: str) -> Path:
    path = Path(weights).expanduser()
    if not path.is_file():
        raise BadValue(f"base.weights is {weights!r}, which is no file; give the path of a safetensors file.")
    return path


def make_network(model: str, weights: str, facts: TaskFacts) -> Network:
    """A fresh network for a task, with the given weights if any (else random, from torch's global generator).

    Given weights of a network for all of ImageNet, a task of some of its classes gets the outputs of its own classes.
    """
    from bench.models.network import Network
    from bench.models.wrapped import Selected, Wrapped

    if model.startswith("zoo:"):
        return _of_zoo(model, facts)
    partial = bool(weights and facts.outputs)
    made, mean, std = _made(model, facts.all_classes if partial else facts.num_classes, facts.image_shape)
    if partial and not fits(made, weights):  # perhaps weights for the task's own classes alone
        whole, (made, mean, std) = made, _made(model, facts.num_classes, facts.image_shape)
        partial = not fits(made, weights)
        made = whole if partial else made  # neither fits: the error compares it with a network for all classes
    if weights:
        load_weights(made, weights, model)
    network = made if isinstance(made, Network) else Wrapped(made, mean, std)
    return Selected(network, facts.outputs) if partial else network


def _of_zoo(model: str, facts: TaskFacts) -> Network:
    """A network of the zoo, with the outputs of the task's classes where it has more."""
    import torch

    from bench.models.wrapped import Selected
    from bench.models.zoo import zoo

    network = zoo(model)
    try:
        with torch.no_grad():
            classes = network(torch.zeros(1, *facts.image_shape)).shape[1]
    except Exception as error:  # of somebody's architecture
        raise BadValue(
            f"{model} does not take images of shape {facts.image_shape}, as {facts.name} has them: {one_line(error)}"
        ) from error
    if facts.outputs and classes == facts.all_classes:
        return Selected(network, facts.outputs)
    if classes != facts.num_classes:
        raise BadValue(
            f"{model} answers among {classes} classes, but {facts.name} has {facts.num_classes}; give another."
        )
    return network


def _made(model: str, classes: int, image_shape: tuple[int, int, int]) -> tuple[nn.Module, Any, Any]:
    """The bare module, and the normalisation that it needs (None: it does its own)."""
    library, _, name = model.partition(":")
    if library in _LIBRARIES and name:
        package = _import(library)
        if library == "torchvision":
            return _called(lambda: package.models.get_model(name, weights=None, num_classes=classes), model), \
                IMAGENET_MEAN, IMAGENET_STD  # fmt: skip
        module = _called(lambda: package.create_model(name, pretrained=False, num_classes=classes), model)
        settings = getattr(module, "default_cfg", {})
        return module, tuple(settings.get("mean", IMAGENET_MEAN)), tuple(settings.get("std", IMAGENET_STD))
    make = _function(model) if ".py:" in model else registry.models.load(model)
    return _called(lambda: make(num_classes=classes, image_shape=image_shape), model), None, None


def _called(make: Callable[[], Any], model: str) -> nn.Module:
    from torch import nn

    try:
        module = make()
    except Exception as error:  # of another package: any exception means that there is no such network
        raise BadValue(f"base.model {model!r} cannot be made: {type(error).__name__}: {one_line(error)}") from error
    if not isinstance(module, nn.Module):
        raise BadValue(f"base.model {model!r} made a {type(module).__name__}; it must return a torch module.")
    return module


def _import(library: str) -> Any:
    try:
        return importlib.import_module(library)
    except Exception as error:  # torchvision raises RuntimeError with a torch that it was not built for
        raise BadValue(
            f"base.model names a network of {library}, which does not import here ({one_line(error)}); install the "
            f"extra 'imagenet', or give a FILE.py:FUNCTION of your own."
        ) from error


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        raise BadValue(
            f"base.model names a network of {library}, which is not installed; install the extra 'imagenet', or give a "
            f"FILE.py:FUNCTION of your own."
        ) from None


def _file_and_function(model: str) -> tuple[Path, str]:
    file, _, function = model.rpartition(":")
    path = Path(file).expanduser()
    if not path.is_file():
        raise BadValue(f"base.model is {model!r}, but {file!r} is no file; give FILE.py:FUNCTION.")
    return path, function


def _function(model: str) -> Callable[..., Any]:
    path, function = _file_and_function(model)
    name = f"bench_model_{path.stem}_{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}"
    if name not in sys.modules:
        try:
            source.run_file(name, path)
        except BaseException as error:  # a user's file may raise anything while it is imported
            if from_outside(error):
                raise
            raise BadValue(
                f"base.model {model!r} does not import: {type(error).__name__}: {one_line(error)}"
            ) from error
    build = getattr(sys.modules[name], function, None)
    if not callable(build):
        raise BadValue(f"base.model is {model!r}, but {path.name} has no function {function!r}.")
    return build


def fits(module: nn.Module, weights: str) -> bool:
    """Whether a weights file has the names and shapes of a module; its header is read, not its tensors."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(_weights_path(weights), framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError):
        return False
    return shapes == {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def load_weights(module: nn.Module, weights: str, model: str) -> None:
    """Fill a module from a safetensors file (of any float type); `BadValue` where names or shapes differ."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = _weights_path(weights)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise BadValue(f"{path} is no safetensors file ({one_line(error)}); convert it, or give another.") from None
    own = module.state_dict()
    missing, extra = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    other = sorted(n for n in own.keys() & tensors.keys() if own[n].shape != tensors[n].shape)
    if missing or extra or other:
        told = [f"it lacks {_some(missing)}"] if missing else []
        told += [f"it has {_some(extra)}, which the network has not"] if extra else []
        told += [f"{n} is {tuple(tensors[n].shape)} instead of {tuple(own[n].shape)}" for n in other[:1]]
        raise BadValue(f"{path} holds the weights of another architecture than {model!r}: {'; '.join(told)}.")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"

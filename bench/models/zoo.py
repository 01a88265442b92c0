"""The zoo: networks that others trained, by name: `zoo:NAME` as `base.model`, and `bench.zoo("NAME")` in a program.

| name                            | from                                                                            |
|---------------------------------|---------------------------------------------------------------------------------|
| an entry of `ZOO`               | a file of weights at a public address, read once, verified, kept as safetensors  |
| `torchvision/NAME`              | the package torchvision with its weights, if it is installed                     |
| `timm/NAME`                     | the package timm, likewise                                                       |
| `transformers/OWNER/NAME`       | an image classifier of Hugging Face, by the package transformers                 |
| `robustbench/DATASET/THREAT/NAME` | a network of RobustBench, by its package: `robustbench/cifar10/Linf/NAME`      |

A file is looked for in `$BENCH_DATA/weights`, then in the user's cache, and else downloaded by pooch. Its sha256 is
checked before it is opened; a pickle is read by torch's restricted reader (`weights_only`), and only tensors are kept.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.data.files import cache_dir, data_dir, file_sha256
from bench.errors import BadValue, DataError, UnknownName, one_line

if TYPE_CHECKING:
    from torch import nn

    from bench.models.network import Network

Channels = tuple[float, ...]

IMAGENET: tuple[Channels, Channels] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CIFAR10: tuple[Channels, Channels] = ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616))
PLAIN: tuple[Channels, Channels] = ((0.0,), (1.0,))

_RESNETS = (
    "https://raw.githubusercontent.com/akamaster/pytorch_resnet_cifar10/d5489e8995e81e91ce6b1d69dcc98ad579b0b153/"
)
_CROWN = (
    "https://raw.githubusercontent.com/Verified-Intelligence/alpha-beta-CROWN/8250d5fbd530c76e5e3243db28b3cad5fbaef740/"
    "complete_verifier/models/"
)
_OVAL = "https://raw.githubusercontent.com/oval-group/oval-bab/a317464598feb8debd88969e6d7237f9b7d3d21c/models/"


@dataclass(frozen=True)
class Published:
    """A network of the zoo.

    file       the name of its safetensors file without the ending, in `weights/` of the data folder
    sha256     of that file; address, pickled: where its authors publish it, and the sha256 (or its first digits, where
               they publish no more) of what lies there; "" where it has no address
    build      "module:function" of the number of classes; the weights have the names of its layers
    normalise  mean and std of what it wants instead of [0, 1]
    claimed    clean accuracy in percent as published, None where nobody says; measured: by us, on the whole test set
               (imagenet: on 400 images of ten classes, among all 1000)
    robust     what PGD of 20 steps (mnist: 40) leaves, in percent by radius, on 500 to 1000 points
    """

    file: str
    sha256: str
    address: str
    pickled: str
    licence: str
    build: str
    dataset: str
    classes: int
    image_shape: tuple[int, int, int]
    normalise: tuple[Channels, Channels]
    claimed: float | None
    measured: float
    robust: Mapping[str, float]
    summary: str


def _published(
    file: str, sha256: str, address: str, pickled: str, licence: str, build: str, normalise: tuple[Channels, Channels],
    claimed: float | None, measured: float, robust: Mapping[str, float], summary: str, dataset: str = "cifar10",
    classes: int = 10, image_shape: tuple[int, int, int] = (3, 32, 32),
) -> Published:  # fmt: skip
    return Published(
        file, sha256, address, pickled, licence, build, dataset, classes, image_shape, normalise, claimed, measured,
        robust, summary,
    )  # fmt: skip


_OWN = "bench.models.published:"
_ONE_STD: tuple[Channels, Channels] = (IMAGENET[0], (0.225, 0.225, 0.225))

ZOO: dict[str, Published] = {
    "cifar10-resnet18": _published(
        "cifar10_resnet18_std", "68cae98c54ac0b4a24c24e78317d9709eba248cf792378af0d38994666815635", "", "",
        "Apache-2.0", "bench.models.resnet:resnet18", PLAIN, None, 92.08, {"8/255": 0.0},
        "ResNet-18, trained by this project on clean images",
    ),
    "cifar10-resnet20": _published(
        "cifar10_resnet20_std", "02926273efb1deadb6dc654c7087baea932ef2026d9f854680d6858146d85838",
        f"{_RESNETS}pretrained_models/resnet20-12fca82f.th",
        "12fca82f0bebc4135bf1f32f6e3710e61d5108578464b84fd6d7f5c1b04036c8", "BSD-2-Clause", f"{_OWN}resnet20",
        IMAGENET, 91.73, 91.73, {"2/255": 0.6, "8/255": 0.0}, "ResNet-20 (He et al. 2016), trained on clean images",
    ),
    "cifar10-resnet56": _published(
        "cifar10_resnet56_std", "cf29b05e3acebb9dc28868ebd84a604ff452971bb6770f22beaff48708079aee",
        f"{_RESNETS}pretrained_models/resnet56-4bfd9763.th",
        "4bfd97631478d6b638d2764fd2baff3edb1d7d82252d54439343b6596b9b5367", "BSD-2-Clause", f"{_OWN}resnet56",
        IMAGENET, 93.39, 93.39, {"2/255": 0.6, "8/255": 0.0}, "ResNet-56 (He et al. 2016), trained on clean images",
    ),
    "cifar10-resnet2b-adv": _published(
        "cifar10_resnet2b_adv", "7828015f3676449a96b0374327e76d73d250f5a8d30c9282d8fb63ab4b4fdb6c",
        f"{_CROWN}cifar10_resnet/resnet2b.pth", "ef824b47175668e924d7fd409b5ef7e239012b8f0c31fefa66c643efda1eb05b",
        "BSD-3-Clause", f"{_OWN}resnet2b", CIFAR10, None, 69.25, {"2/255": 54.8, "8/255": 17.8},
        "two residual blocks, adversarially trained",
    ),
    "cifar10-resnet4b-adv": _published(
        "cifar10_resnet4b_adv", "ee8b4298565c16429bb36f18d2741aa53739b5dc85e12d1a8760bbf8b493326a",
        f"{_CROWN}cifar10_resnet/resnet4b.pth", "6158f9668935890e832d4e0fdc3b6cece2386ec826319eac36f329490b7729e7",
        "BSD-3-Clause", f"{_OWN}resnet4b", CIFAR10, None, 77.20, {"2/255": 61.2, "8/255": 15.8},
        "four residual blocks, adversarially trained",
    ),
    "cifar10-cnna": _published(
        "cifar10_cnna_sgd_std", "45aaa9fccfaf3b541fb8334803870d5e450d2b46ff3d6c597a2f1ab2105cdf73",
        f"{_OVAL}cifar_sgd_8px.pth", "973ca9783105ba1ceb5f4244a8641ba3a510ffe5c10ad6f37687b9f196ff6c03", "MIT",
        f"{_OWN}cnn_a", _ONE_STD, None, 76.10, {"2/255": 16.0, "8/255": 0.0},
        "two convolutions, trained on clean images",
    ),
    "cifar10-cnna-kw": _published(
        "cifar10_cnna_kw", "bef26af2994e43b1514c82f63c11f97f02c289eee3bf93caa9a8cf635c0b8e03",
        f"{_OVAL}cifar_wide_kw.pth", "1980beb15e180902fd48b50cd0ac24ac80d48f3ec166753d5773a7dc24d60a07", "MIT",
        f"{_OWN}cnn_a", _ONE_STD, None, 61.62, {"2/255": 55.5, "8/255": 25.9},
        "two convolutions, provably robust (Wong and Kolter 2018)",
    ),
    "mnist-madry-tiny": _published(
        "mnist_madry_tiny_adv", "9f76fa38011c8d856f64088ffb9daabf69458c372641736bec806fecf5f3957a",
        f"{_CROWN}bab_attack/MadryCNN_no_maxpool_tiny.pt",
        "171ffe80d82dcc80f28d22d5bafccf570e8d456836a6c02c2c8eaaee51547779", "BSD-3-Clause", f"{_OWN}madry_tiny", PLAIN,
        None, 97.94, {"0.3": 88.2}, "two convolutions, adversarially trained", "mnist", 10, (1, 28, 28),
    ),
    "imagenet-squeezenet1_1": _published(
        "squeezenet1_1", "8d5019667c9288b9cdefe658f488039450f9b290d06b9518f478f4609b4bdfcb",
        "https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth", "b8a52dc0", "BSD-3-Clause",
        f"{_OWN}SqueezeNet", IMAGENET, 58.18, 62.3, {}, "SqueezeNet 1.1 (Iandola et al. 2016)", "imagenet", 1000,
        (3, 224, 224),
    ),
}  # fmt: skip


def zoo(name: str) -> Network:
    """A network of the zoo with its weights, in evaluation mode: images (N, C, H, W) in [0, 1] -> logits (N, K).

    name: as in `zoo:NAME`; see the module. Raises `UnknownName`, or `BadValue` or `DataError` where its package or its
    file is not there.
    """
    from bench.models.network import Network
    from bench.models.wrapped import Wrapped

    package, _, rest = name.removeprefix("zoo:").partition("/")
    if rest:
        return _of_package(package, rest)
    entry = _entry(name)
    shape = {} if entry.build.startswith(_OWN) else {"image_shape": entry.image_shape}
    module = _function(entry.build)(num_classes=entry.classes, **shape)
    module.load_state_dict(_tensors(weights_file(entry)))
    network = module if isinstance(module, Network) else Wrapped(module, *entry.normalise)
    return network.eval()


def zoo_source(name: str) -> str:
    """What tells a network of the zoo apart from others of its name: the sha256 of its weights, a package's version."""
    package, _, rest = name.removeprefix("zoo:").partition("/")
    if rest:
        from importlib.metadata import PackageNotFoundError, version

        try:
            return f"{package} {version(package)}"
        except PackageNotFoundError:
            raise _missing(package) from None
    return _entry(name).sha256


def _entry(name: str) -> Published:
    short = name.removeprefix("zoo:")
    if short not in ZOO:
        raise UnknownName("network of the zoo", short, ZOO, "bench list models")
    return ZOO[short]


def local_file(entry: Published) -> Path | None:
    """The safetensors file of an entry where it lies on this machine; None where it would have to be downloaded."""
    folder = data_dir(None)
    places = [] if folder is None else [folder / "weights", folder / "imagenet" / "weights"]
    for place in (*places, cache_dir() / "zoo"):
        path = place / f"{entry.file}.safetensors"
        if path.is_file():
            return path
    return None


def weights_file(entry: Published) -> Path:
    """The verified safetensors file of an entry; downloaded and converted where it is not on this machine."""
    path = local_file(entry)
    if path is None:
        path = cache_dir() / "zoo" / f"{entry.file}.safetensors"
        _convert(_download(entry), path)
    elif path.parent != cache_dir() / "zoo" and file_sha256(path) != entry.sha256:
        raise DataError(f"{path} has another sha256 than {entry.sha256[:12]}...: it is damaged or of another network.")
    return path


def _download(entry: Published) -> Path:
    """The file at the address of an entry, in the user's cache; its sha256 holds."""
    if not entry.address:
        raise DataError(
            f"{entry.file}.safetensors is not published at an address; put it into weights/ of the folder that "
            f"BENCH_DATA names."
        )
    import pooch

    pooch.get_logger().setLevel("WARNING")
    name = entry.address.rpartition("/")[2]
    try:
        path = Path(pooch.retrieve(entry.address, known_hash=None, fname=name, path=cache_dir() / "zoo"))
    except Exception as error:  # of a network: whatever the library raises
        raise DataError(
            f"{entry.address} cannot be downloaded ({one_line(error)}); put {entry.file}.safetensors into weights/ "
            f"of the folder that BENCH_DATA names."
        ) from error
    verified(path, entry.pickled)
    return path


def verified(path: Path, sha256: str) -> None:
    """`DataError` unless a downloaded file has this sha256 (or its first digits); it is then removed."""
    found = file_sha256(path)
    if found.startswith(sha256):
        return
    head = path.read_bytes()[:512].lstrip().lower()
    path.unlink()
    what = (
        "a web page, not weights"
        if head.startswith((b"<!doctype", b"<html"))
        else f"a file with the sha256 {found[:12]}"
    )
    raise DataError(f"{path.name} was downloaded as {what}; {sha256[:12]} is expected. Try again, or see its address.")


def _convert(pickled: Path, path: Path) -> None:
    """Keep the tensors of a verified pickle as safetensors. Whatever else it holds is left behind."""
    import torch
    from safetensors.torch import save

    from bench.cache import write_atomic

    try:
        held: Any = torch.load(pickled, map_location="cpu", weights_only=True)
    except Exception as error:  # of a reader that refuses: any exception means that it holds more than tensors
        raise DataError(f"{pickled.name} cannot be read as weights alone: {one_line(error)}") from error
    while not all(isinstance(value, torch.Tensor) for value in held.values()):
        held = held["state_dict"]
        held = held[0] if isinstance(held, list) else held
    tensors = {name.removeprefix("module."): value.contiguous() for name, value in held.items()}
    write_atomic(path, save(tensors))


def _tensors(path: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in load_file(path).items()}


def _function(place: str) -> Callable[..., Any]:
    module, _, name = place.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


# -- networks of other packages ------------------------------------------------------------------------------------


def _of_package(package: str, name: str) -> Network:
    """A network with the weights that a package brings or downloads, normalised as it says."""
    from bench.models.wrapped import Wrapped

    loaders = {
        "torchvision": _of_torchvision, "timm": _of_timm, "transformers": _of_transformers,
        "robustbench": _of_robustbench,
    }  # fmt: skip
    if package not in loaders:
        raise UnknownName("network of the zoo", f"{package}/{name}", [*ZOO, *(f"{known}/NAME" for known in loaders)])
    try:
        library = importlib.import_module(package)
    except Exception as error:  # torchvision raises RuntimeError with a torch that it was not built for
        raise _missing(package, one_line(error)) from error
    try:
        module, mean, std = loaders[package](library, name)
    except Exception as error:  # of another package: any exception means that there is no such network here
        raise BadValue(f"zoo:{package}/{name} cannot be loaded: {type(error).__name__}: {one_line(error)}") from error
    return Wrapped(module.eval(), mean, std).eval()


def _missing(package: str, why: str = "it is not installed") -> BadValue:
    return BadValue(
        f"zoo:{package}/... needs the package {package}, which does not import here ({why}): pip install {package}"
    )


def _of_torchvision(library: Any, name: str) -> tuple[nn.Module, Channels, Channels]:
    weights = library.models.get_model_weights(name).DEFAULT
    transform = weights.transforms()
    return library.models.get_model(name, weights=weights), tuple(transform.mean), tuple(transform.std)


def _of_timm(library: Any, name: str) -> tuple[nn.Module, Channels, Channels]:
    module = library.create_model(name, pretrained=True)
    settings = module.pretrained_cfg
    return module, tuple(settings["mean"]), tuple(settings["std"])


def _of_transformers(library: Any, name: str) -> tuple[nn.Module, Channels, Channels]:
    module = library.AutoModelForImageClassification.from_pretrained(name, use_safetensors=True)
    processor = library.AutoImageProcessor.from_pretrained(name)
    return module, tuple(processor.image_mean), tuple(processor.image_std)


def _of_robustbench(library: Any, name: str) -> tuple[nn.Module, Channels, Channels]:
    dataset, threat, model = name.split("/", 2)
    utils = importlib.import_module("robustbench.utils")
    return utils.load_model(model_name=model, dataset=dataset, threat_model=threat), *PLAIN

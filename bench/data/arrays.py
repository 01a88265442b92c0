"""Images and labels that a program holds in memory, as a dataset: the user names it, and its key is their content."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.data.task import Task, TaskFacts, TaskParams, content_hash, select, to_pixels
from bench.errors import BadValue

#: pixels of uint8 images, and the grid of training images
SCALE = 255
CHANNELS = (1, 3, 4)
#: inputs of other users that a game serves before the attacker crafts, and then before the victims; fewer of few images
SERVED = 50

Images = NDArray[np.uint8] | NDArray[np.float32]


@dataclass(frozen=True)
class Arrays:
    """A dataset of arrays. What the registry asks of a dataset class, an object of this one has.

    images, labels  those that are attacked: (N, C, H, W), (N,)
    train           training images and labels, for defenses that need some; none: zero of them
    defaults        what [dataset.NAME] of bench.toml says of other datasets: eps by norm, game, threat
    """

    name: str
    images: Images
    labels: NDArray[np.int64]
    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    classes: int
    defaults: dict[str, dict[str, Any]] = field(default_factory=dict)

    Params = TaskParams
    summary = "arrays of this program"
    downloads = False

    @property
    def original(self) -> str:
        """sha256 of all images and labels."""
        whole = hashlib.sha256(str(self.classes).encode())
        for array in (self.images, self.labels, self.train_images, self.train_labels):
            whole.update(f"{array.dtype} {array.shape}".encode())
            whole.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        return whole.hexdigest()

    def facts(self, params: TaskParams, data_dir: Path | None) -> TaskFacts:
        return self._chosen(params).facts

    def load(self, params: TaskParams, data_dir: Path | None) -> Task:
        return self._chosen(params)

    def _chosen(self, params: TaskParams) -> Task:
        chosen = select(self.name, params, len(self.train_labels))
        images, labels = self.images, self.labels
        if chosen.test is not None:
            images, labels = self.train_images[chosen.test], self.train_labels[chosen.test]
        facts = TaskFacts(
            self.name, self.classes, images.shape[1:], len(chosen.train), len(labels),
            content_hash(self.original, params),
        )  # fmt: skip
        return Task(facts, SCALE, self.train_images[chosen.train], self.train_labels[chosen.train], images, labels)

    def files(self, data_dir: Path | None) -> list[Path]:
        return []

    def check(self, data_dir: Path | None) -> list[str]:
        return [f"in memory, content {self.original[:12]}"]


def arrays(
    name: str,
    x: object,
    y: object,
    train: tuple[object, object] | None,
    classes: int | None = None,
    radii: dict[str, float] | None = None,
) -> Arrays:
    """A dataset of images x (N, C, H, W), float in [0, 1] or uint8, and labels y (N,); torch tensors or numpy arrays.

    Float images that are not multiples of 1/255 stay as they are; of training images the nearest multiples are kept,
    since an augmented set stores bytes. classes: how many there are; None: as many as the labels show.
    Raises `BadValue`, which says what to write, for anything else.
    """
    images, labels = checked_images("x", x), checked_labels("y", y)
    if len(images) != len(labels):
        raise BadValue(f"x has {len(images)} images, but y has {len(labels)} labels; give one label for each image.")
    train_images = np.zeros((0, *images.shape[1:]), dtype=np.uint8)
    train_labels = np.zeros(0, dtype=np.int64)
    if train is not None:
        if not (isinstance(train, tuple | list) and len(train) == 2):
            raise BadValue(f"train is a {type(train).__name__}; give (images, labels).")
        train_images, train_labels = (
            _bytes_of(checked_images("train[0]", train[0])),
            checked_labels("train[1]", train[1]),
        )
        if len(train_images) != len(train_labels):
            raise BadValue(f"train has {len(train_images)} images and {len(train_labels)} labels; give one for each.")
        if train_images.shape[1:] != images.shape[1:]:
            raise BadValue(
                f"train has images of shape {train_images.shape[1:]}, x of {images.shape[1:]}; give equal ones."
            )
    largest = int(max(labels.max(initial=0), train_labels.max(initial=0)))
    if classes is not None and largest >= classes:
        raise BadValue(f"The labels go up to {largest}, but the network has {classes} classes: 0 to {classes - 1}.")
    served = min(SERVED, len(images) // 4)
    return Arrays(
        name, images, labels, train_images, train_labels, classes or max(largest + 1, 2),
        {"eps": dict(radii or {}), "game": {"p": served}, "threat": {"delay": served}},
    )  # fmt: skip


def checked_images(what: str, given: object) -> Images:
    """Images as uint8, or as float32 where they are no multiples of 1/255; a copy. `BadValue` says what to write."""
    array = _array(what, given)
    if array.ndim != 4:
        add = f"; add the channels: {what}[:, None]" if array.ndim == 3 else ""
        raise BadValue(f"{what} has the shape {array.shape}; images are (N, C, H, W){add}.")
    if not len(array):
        raise BadValue(f"{what} holds no image; give at least one.")
    if array.shape[1] not in CHANNELS and array.shape[3] in CHANNELS:
        raise BadValue(
            f"{what} has the shape {array.shape}, with the channels last; give (N, C, H, W): "
            f"{what}.transpose(0, 3, 1, 2) in numpy, {what}.permute(0, 3, 1, 2) in torch."
        )
    if array.dtype == np.uint8:
        return np.array(array)
    if array.dtype.kind != "f":
        raise BadValue(f"{what} is of {array.dtype}; give floats in [0, 1] or uint8 ({what}.astype('uint8')).")
    floats = array.astype(np.float32)
    if not np.isfinite(floats).all():
        raise BadValue(f"{what} holds values that are not finite; give pixels in [0, 1].")
    low, high = float(floats.min()), float(floats.max())
    if low < 0:
        raise BadValue(
            f"{what} holds values from {low:.3g} to {high:.3g}: it looks normalised. Give the pixels in [0, 1], and "
            f"how the network wants them as normalize=(mean, std)."
        )
    if high > 1:
        raise BadValue(
            f"{what} holds values up to {high:.4g}; give floats in [0, 1] ({what} / 255) or uint8. A network that "
            f"wants 0 to 255 gets them by normalize=(0, 1 / 255)."
        )
    stored = _bytes_of(floats)
    exact = bool((to_pixels(stored, SCALE).numpy() == floats).all())
    return stored if exact else floats


def checked_labels(what: str, given: object) -> NDArray[np.int64]:
    """Labels as int64; a copy. `BadValue` says what to write."""
    array = _array(what, given)
    if array.ndim == 2 and array.shape[1] > 1:
        raise BadValue(f"{what} has the shape {array.shape}; give the numbers of classes: {what}.argmax(1).")
    if array.ndim != 1:
        raise BadValue(f"{what} has the shape {array.shape}; labels are (N,): {what}.reshape(-1).")
    if array.dtype.kind not in "iu":
        raise BadValue(f"{what} is of {array.dtype}; labels are whole numbers from 0 on ({what}.astype('int64')).")
    if len(array) and int(array.min()) < 0:
        raise BadValue(f"{what} holds the label {array.min()}; labels are whole numbers from 0 on.")
    return array.astype(np.int64)


def _array(what: str, given: object) -> NDArray[Any]:
    if isinstance(given, torch.Tensor):
        tensor = given.detach().cpu()
        return (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy()
    if isinstance(given, np.ndarray):
        return given
    raise BadValue(f"{what} is a {type(given).__name__}; give a torch tensor or a numpy array.")


def _bytes_of(images: Images) -> NDArray[np.uint8]:
    """The nearest images of 255 steps."""
    if images.dtype == np.uint8:
        return images  # type: ignore[return-value]
    return np.rint(images * np.float32(SCALE)).astype(np.uint8)

"""A task: a dataset with its splits, image shape and number of classes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from bench.errors import BadValue, BrokenPlugin
from bench.values import Params


class TaskParams(Params):
    """Parameters that every dataset has.

    train_size  how many training points to use: the first of a fixed order (0: all)
    split       which points are attacked: `test`, or `validation`, a fixed sixth of the training set that is then
                left out of training, for choosing recipes without a look at the test set
    """

    train_size: int = Field(default=0, ge=0)
    split: Literal["test", "validation"] = "test"


@dataclass(frozen=True)
class TaskFacts:
    """What planning needs to know of a task; cheap to find out.

    train_size and test_size count points after `TaskParams` are applied; content is a hash of all that they hold.
    A task of some classes of a larger one says which of its `all_classes` they are: `outputs`, one per class.
    """

    name: str
    num_classes: int
    image_shape: tuple[int, int, int]
    train_size: int
    test_size: int
    content: str
    outputs: tuple[int, ...] = ()
    all_classes: int = 0


class Images(Protocol):
    """Stored images: an array, or files that are read when they are asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, C, H, W)"""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any) -> NDArray[np.uint8]:
        """The images of some rows (a list or an array of numbers, or a slice): (n, C, H, W) uint8."""


@dataclass(frozen=True)
class Task:
    """Images as uint8 (N, C, H, W); pixels in [0, 1] are `images / pixel_scale`. Labels int64 (N,).

    Test images may be float32 pixels in [0, 1] instead.
    """

    facts: TaskFacts
    pixel_scale: int
    train_images: Images = field(repr=False)
    train_labels: NDArray[np.int64] = field(repr=False)
    test_images: Images = field(repr=False)
    test_labels: NDArray[np.int64] = field(repr=False)

    def pixels(self, images: NDArray[np.uint8], device: torch.device | str = "cpu") -> Tensor:
        """(N, C, H, W) float32 in [0, 1] of stored images."""
        return to_pixels(images, self.pixel_scale, device)

    def test_points(self, indices: list[int], device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W) in [0, 1] and labels (N,) of test points."""
        return self.pixels(self.test_images[indices], device), torch.from_numpy(self.test_labels[indices]).to(device)


def checked_task(task: Any, name: str) -> Task:
    """The task that a dataset loaded, its labels as int64; `BrokenPlugin` where it is not what its facts say."""

    def wrong(what: str) -> BrokenPlugin:
        return BrokenPlugin(f"The dataset {name!r} {what}.")

    if not isinstance(task, Task):
        raise wrong(f"loaded a {type(task).__name__}; its load must return a bench.data.task.Task")
    facts, labels = task.facts, list[NDArray[np.int64]]()
    for split, size in (("train", facts.train_size), ("test", facts.test_size)):
        images, given = getattr(task, f"{split}_images"), np.asarray(getattr(task, f"{split}_labels"))
        if tuple(images.shape) != (size, *facts.image_shape):
            raise wrong(
                f"has {split} images of shape {tuple(images.shape)}; its facts say {(size, *facts.image_shape)}"
            )
        if given.shape != (size,) or given.dtype.kind not in "iu":
            raise wrong(
                f"has {split} labels of shape {given.shape} and type {given.dtype}; give ({size},) whole numbers"
            )
        if size and not 0 <= int(given.min()) <= int(given.max()) < facts.num_classes:
            raise wrong(
                f"has {split} labels from {given.min()} to {given.max()}; {facts.num_classes} classes are 0 to "
                f"{facts.num_classes - 1}"
            )
        dtype = getattr(images, "dtype", np.dtype(np.uint8))
        if dtype != np.uint8 and not (split == "test" and dtype == np.float32):
            raise wrong(f"has {split} images of type {dtype}; give uint8 (those that are attacked may be float32)")
        labels.append(given.astype(np.int64))
    return replace(task, train_labels=labels[0], test_labels=labels[1])


def to_pixels(
    images: NDArray[np.uint8] | NDArray[np.float32], scale: int, device: torch.device | str = "cpu"
) -> Tensor:
    """Stored images as float32 pixels in [0, 1]: bytes are divided by the scale, floats are pixels already."""
    pixels = torch.from_numpy(np.ascontiguousarray(images)).to(device)
    return pixels.to(torch.float32).div_(scale) if pixels.dtype is torch.uint8 else pixels.to(torch.float32, copy=True)


def fixed_order(name: str, count: int) -> NDArray[np.int64]:
    """A permutation of `count` points that is the same everywhere and for ever."""
    seed = int.from_bytes(hashlib.sha256(f"order of {name}".encode()).digest()[:8], "big")
    return np.random.Generator(np.random.PCG64(seed)).permutation(count)


@dataclass(frozen=True)
class Selection:
    """Which points of the original files a task uses: for training, and for attacking (from `source`)."""

    train: NDArray[np.int64]
    test: NDArray[np.int64] | None
    source: Literal["test", "train"]


def select(name: str, params: TaskParams, train_count: int) -> Selection:
    """The points that `params` choose out of `train_count` training points; `test` None means all test points."""
    order = fixed_order(name, train_count)
    held_out = train_count // 6
    pool = order[held_out:] if params.split == "validation" else order
    size = params.train_size or len(pool)
    if size > len(pool):
        raise BadValue(
            f"dataset.train_size is {params.train_size}, but {name} has {len(pool)} training points"
            f"{' beside the validation points' if params.split == 'validation' else ''}; give at most that."
        )
    train = np.sort(pool[:size])
    if params.split == "validation":
        return Selection(train, np.sort(order[:held_out]), "train")
    return Selection(train, None, "test")


def content_hash(original: str, params: TaskParams) -> str:
    """Hash of a task's content: that of its original files and of what `params` choose from them."""
    return hashlib.sha256(f"{original} {params.model_dump_json()}".encode()).hexdigest()


def task_facts(
    name: str,
    params: TaskParams,
    classes: int,
    image_shape: tuple[int, int, int],
    train_count: int,
    test_count: int,
    original: str,
) -> TaskFacts:
    """The facts of the task that `params` choose out of this many original training and test points.

    original: a hash of the original files.
    """
    chosen = select(name, params, train_count)
    test_size = test_count if chosen.test is None else len(chosen.test)
    return TaskFacts(name, classes, image_shape, len(chosen.train), test_size, content_hash(original, params))


def build_task(
    name: str,
    params: TaskParams,
    scale: int,
    classes: int,
    original: str,
    train: tuple[NDArray[np.uint8], NDArray[np.int64]],
    test: tuple[NDArray[np.uint8], NDArray[np.int64]],
) -> Task:
    """The task that `params` choose out of the original (images, labels) of both splits."""
    chosen = select(name, params, len(train[1]))
    source = test if chosen.source == "test" else train
    test_images = source[0] if chosen.test is None else source[0][chosen.test]
    test_labels = source[1] if chosen.test is None else source[1][chosen.test]
    facts = task_facts(name, params, classes, train[0].shape[1:], len(train[1]), len(test[1]), original)
    return Task(facts, scale, train[0][chosen.train], train[1][chosen.train], test_images, test_labels)

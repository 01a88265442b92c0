"""`cifar10`: the original Python batches, 50,000 + 10,000 images of 3 x 32 x 32.

Krizhevsky: Learning Multiple Layers of Features from Tiny Images, 2009. The batches are pickles: each is verified
against its published md5, then read by an unpickler that builds only arrays. Read from `--data-dir` or
BENCH_DATA (`DIR/cifar-10-batches-py/*`, never written to), else downloaded by pooch into the user's cache.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.data.files import locate_in_archive, unpacked
from bench.data.pickles import read_arrays
from bench.data.task import Task, TaskFacts, TaskParams, build_task, task_facts
from bench.errors import DataError

FOLDER = "cifar-10-batches-py"
FILES = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
ARCHIVE, ARCHIVE_MD5 = "cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"
MIRRORS = ("https://www.cs.toronto.edu/~kriz/",)
TRAIN_SIZE, TEST_SIZE = 50_000, 10_000
SHAPE, CLASSES = (3, 32, 32), 10
ORIGINAL = hashlib.sha256(" ".join(FILES.values()).encode()).hexdigest()


class Cifar10:
    """CIFAR-10."""

    Params = TaskParams
    downloads = True

    @staticmethod
    def facts(params: TaskParams, data_dir: Path | None) -> TaskFacts:
        Cifar10.check(data_dir)
        return task_facts("cifar10", params, CLASSES, SHAPE, TRAIN_SIZE, TEST_SIZE, ORIGINAL)

    @staticmethod
    def load(params: TaskParams, data_dir: Path | None) -> Task:
        batches = [read_batch(path) for path in _paths(data_dir)]
        train = tuple(np.concatenate(parts) for parts in zip(*batches[:-1], strict=True))
        return build_task("cifar10", params, 255, CLASSES, ORIGINAL, (train[0], train[1]), batches[-1])

    @staticmethod
    def files(data_dir: Path | None) -> list[Path]:
        return [(data_dir or unpacked(FOLDER)) / FOLDER / name for name in FILES]

    @staticmethod
    def check(data_dir: Path | None) -> list[str]:
        return [f"{path}: md5 as published" for path in _paths(data_dir)]


def _paths(data_dir: Path | None) -> list[Path]:
    return locate_in_archive(FOLDER, ARCHIVE, ARCHIVE_MD5, MIRRORS, FILES, data_dir)


def read_batch(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (N, 3, 32, 32) and labels (N,) of one batch file, whose checksum has been verified."""
    batch = read_arrays(path)
    images, labels = (batch.get(key) if isinstance(batch, dict) else None for key in (b"data", b"labels"))
    if not (
        isinstance(images, np.ndarray)
        and isinstance(labels, list)
        and all(isinstance(label, int) and 0 <= label < CLASSES for label in labels)
        and images.dtype == np.uint8
        and images.shape == (len(labels), 3072)
    ):
        raise DataError(f"{path} is no batch of CIFAR-10: it has not the data and labels of one; fetch it again.")
    return images.reshape(-1, *SHAPE), np.array(labels, np.int64)

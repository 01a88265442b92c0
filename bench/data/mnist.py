"""`mnist`: the four original gzipped idx files (LeCun, Cortes, Burges), verified against the published md5.

Read from `--data-dir` or BENCH_DATA (`DIR/mnist/*.gz`, never written to), else downloaded by pooch into the user's
cache.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.data.files import cache_dir, locate
from bench.data.task import Task, TaskFacts, TaskParams, build_task, task_facts
from bench.errors import DataError

FILES = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
TRAIN_SIZE, TEST_SIZE = 60_000, 10_000
ORIGINAL = hashlib.sha256(" ".join(FILES.values()).encode()).hexdigest()


class Mnist:
    """The MNIST database of handwritten digits, 28 x 28."""

    Params = TaskParams
    downloads = True

    @staticmethod
    def facts(params: TaskParams, data_dir: Path | None) -> TaskFacts:
        Mnist.check(data_dir)
        return task_facts("mnist", params, 10, (1, 28, 28), TRAIN_SIZE, TEST_SIZE, ORIGINAL)

    @staticmethod
    def load(params: TaskParams, data_dir: Path | None) -> Task:
        arrays = [read_idx(path) for path in _paths(data_dir)]
        train = (arrays[0][:, None], arrays[1].astype(np.int64))
        test = (arrays[2][:, None], arrays[3].astype(np.int64))
        return build_task("mnist", params, 255, 10, ORIGINAL, train, test)

    @staticmethod
    def files(data_dir: Path | None) -> list[Path]:
        return [(data_dir or cache_dir()) / "mnist" / name for name in FILES]

    @staticmethod
    def check(data_dir: Path | None) -> list[str]:
        return [f"{path}: md5 as published" for path in _paths(data_dir)]


def _paths(data_dir: Path | None) -> list[Path]:
    return [locate("mnist", name, md5, MIRRORS, data_dir) for name, md5 in FILES.items()]


def read_idx(path: Path) -> NDArray[Any]:
    """The array of unsigned bytes in a gzipped idx file: (N, rows, columns) or (N,)."""
    try:
        raw = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be unpacked ({error}); it is damaged, so fetch it again.") from None
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08":
        raise DataError(f"{path} is no idx file of unsigned bytes; fetch it again.")
    rank = raw[3]
    if rank not in (1, 3):
        raise DataError(f"{path} holds {rank} dimensions; images have 3 and labels 1, so fetch it again.")
    head, body = raw[4 : 4 + 4 * rank], raw[4 + 4 * rank :]
    shape = struct.unpack(f">{rank}I", head) if len(head) == 4 * rank else ()
    if not shape or len(body) != math.prod(shape):
        raise DataError(
            f"{path} holds {len(body)} bytes where its header says {shape}; it is truncated, fetch it again."
        )
    return np.frombuffer(body, np.uint8).reshape(shape)

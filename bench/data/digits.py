"""`digits`: scikit-learn's 1797 real handwritten 8 x 8 digits, the embedded default; needs no download.

1297 to train and 500 to test, split by a fixed order. The original pixels are n/16; they are stored as 15n of 240, so
that adversarial copies have a finer grid than the images themselves.

Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from bench.data.task import Task, TaskFacts, TaskParams, build_task, fixed_order, task_facts

SCALE = 240
TEST_SIZE = 500
TRAIN_SIZE = 1297


class Digits:
    """The embedded dataset."""

    Params = TaskParams
    downloads = False

    @staticmethod
    def facts(params: TaskParams, data_dir: Path | None) -> TaskFacts:
        return task_facts("digits", params, 10, (1, 8, 8), TRAIN_SIZE, TEST_SIZE, _original())

    @staticmethod
    def load(params: TaskParams, data_dir: Path | None) -> Task:
        images, labels = _arrays()
        order = fixed_order("digits split", len(labels))
        test, train = order[:TEST_SIZE], order[TEST_SIZE:]
        return build_task(
            "digits", params, SCALE, 10, _original(), (images[train], labels[train]), (images[test], labels[test])
        )

    @staticmethod
    def files(data_dir: Path | None) -> list[Path]:
        return []

    @staticmethod
    def check(data_dir: Path | None) -> list[str]:
        return [f"embedded in scikit-learn, content {_original()[:12]}"]


def _arrays() -> tuple[Any, Any]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = (bunch.images[:, None] * (SCALE // 16)).astype(np.uint8)
    return images, bunch.target.astype(np.int64)


def _original() -> str:
    images, labels = _arrays()
    return hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()

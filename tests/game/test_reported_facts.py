"""What a plug-in reports about itself is checked before it becomes a row."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import bench as lib
from tests import planted

#: counts of the labels of ten classes
SOUND = {"D": [0] * 9 + [3]}


def reporting(steps: Any, neighbours: Any) -> type:
    class Reports(planted.Wrapped):
        def predict(self, x: Tensor) -> Tensor:
            self.adaptation_steps = steps
            return super().predict(x)

        def neighbour_labels(self, x: Tensor) -> Any:
            return [neighbours] * len(x)

    return Reports


@pytest.mark.parametrize(
    ("steps", "neighbours", "words"),
    [
        (float("nan"), SOUND, "Reports.adaptation_steps is nan; it counts optimiser steps"),
        (2**40, SOUND, "adaptation_steps is 1099511627776"),
        (-1, SOUND, "adaptation_steps is -1"),
        ("3", SOUND, "adaptation_steps is '3'"),
        (0, {"D": [object()] * 10}, "Reports.neighbour_labels gives {'D': "),
        (0, {"D": [1, 2]}, "each of the 10 labels"),
        (0, {"D": [-1] * 10}, "neighbour_labels gives"),
        (0, {3: [0] * 10}, "neighbour_labels gives {3: "),
        (0, ["D"], "neighbour_labels gives ['D']"),
    ],
)
def test_a_fact_that_is_none_ends_its_run_with_one_line(steps: Any, neighbours: Any, words: str) -> None:
    lib.register_defense("reports", reporting(steps, neighbours))
    result = lib.run("reports", "pgd-skip", n=4, workers=1, sets={"base.epochs": 1, "attack.steps": 2})
    assert result.status == "FAILED" and words in result.reason and len(result.reason) < 300


def test_numbers_of_other_types_are_taken() -> None:
    lib.register_defense("reports", reporting(torch.tensor(2), {"D": torch.arange(10)}))
    result = lib.run("reports", "pgd-skip", n=4, workers=1, sets={"base.epochs": 1, "attack.steps": 2})
    assert result.status == "DONE", result.reason
    assert result.rows()[0]["adaptation_steps"] in (0, 2)

"""A GPU works on after a call has returned; whose call it was is who pays for the time."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from torch import Tensor

import bench as lib
from bench import Attack, Draws, Oracle, clock
from tests import planted

#: seconds that the device works on after each answer, each batch of images, each look at neighbours
ANSWER, CRAFT, LOOK = 0.02, 0.3, 0.01


class Device:
    """A device that is given work and does it when somebody waits for it."""

    def __init__(self) -> None:
        self.waiting = 0.0

    def settle(self, device: torch.device) -> None:
        time.sleep(self.waiting)
        self.waiting = 0.0


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    made = Device()
    monkeypatch.setattr(clock, "settle", made.settle)
    return made


def test_who_gave_the_device_work_is_charged_for_it(device: Device) -> None:
    class Later(planted.Counting):
        def answer_one(self, x: Tensor) -> Tensor:
            device.waiting += ANSWER
            return super().answer_one(x)

        def neighbour_labels(self, x: Tensor) -> Any:
            device.waiting += LOOK
            return super().neighbour_labels(x)

    class Crafts(Attack):
        def perturb(self, oracle: Oracle, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
            device.waiting += CRAFT
            return x

    lib.register_defense("later", Later)
    lib.register_attack("crafts", Crafts)
    result = lib.run("later", "crafts", n=4, workers=1, sets={"base.epochs": 1})
    assert result.status == "DONE", result.reason
    rows, spent = result.rows(), result.seconds
    assert all(ANSWER <= row["seconds_defense"] < CRAFT / 2 for row in rows)
    assert spent["attack"] >= CRAFT and spent["defense"] >= 4 * (ANSWER + LOOK)
    assert spent["harness"] < CRAFT


def test_a_cpu_is_never_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(torch.cuda, "synchronize", asked.append)
    clock.settle(torch.device("cpu"))
    assert not asked
    clock.settle(torch.device("cuda", 1))
    assert asked == [torch.device("cuda", 1)]


def test_work_from_before_a_block_is_not_its_own(device: Device) -> None:
    device.waiting = 0.05
    with clock.timed(torch.device("cpu")) as taken:
        device.waiting = 0.02
    assert 0.02 <= taken.seconds < 0.05 and device.waiting == 0

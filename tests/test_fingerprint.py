"""Fingerprints: what an object holds and captured, the same in every process."""

from __future__ import annotations

import copy
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bench.fingerprint import _installed, fingerprint, tensors_fingerprint, tensors_in
from tests.conftest import ROOT

STEP = 0.1
HELD = {"net": nn.Linear(2, 2)}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


class Steps:
    def step(self) -> float:
        return STEP

    def inner(self) -> Callable[[], float]:
        return lambda: STEP


class Captures:
    def answer(self) -> Any:
        return HELD["net"]


def closing(value: Any) -> Callable[[], Any]:
    return lambda: value


class Slotted:
    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


CHANGES: dict[str, tuple[Any, Any]] = {
    "a weight": (nn.Linear(1, 1), nn.Linear(1, 1)),
    "a number": ([1], [2]),
    "a type": ([1], [1.0]),
    "a numpy number": ([np.float32(1)], [np.float32(2)]),
    "an array": (np.zeros(3), np.ones(3)),
    "an array of objects": (np.array([1, "a"], dtype=object), np.array([1, "b"], dtype=object)),
    "a shape": (np.zeros(4), np.zeros((2, 2))),
    "a dtype": (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
    "a closure": (closing(1), closing(2)),
    "an argument of a partial": (partial(closing, 1), partial(closing, 2)),
    "a default": (lambda x=1: x, lambda x=2: x),
    "code": (lambda x: x + 1, lambda x: x - 1),
    "a slot": (Slotted(1), Slotted(2)),
    "an attribute": (SimpleNamespace(a=1), SimpleNamespace(a=2)),
    "a set": ({1, 2}, {1, 3}),
    "the order of layers": (nn.Sequential(nn.ReLU(), nn.Tanh()), nn.Sequential(nn.Tanh(), nn.ReLU())),
    "a stride": (nn.MaxPool2d(2, 2), nn.MaxPool2d(2, 1)),
    "a bound object": (Slotted(torch.zeros(1)).__init__, Slotted(torch.ones(1)).__init__),
    "a generator": (torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)),
    "a sparse value": (torch.eye(2).to_sparse(), (2 * torch.eye(2)).to_sparse()),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_an_object_holds_is_in_its_fingerprint(what: str) -> None:
    one, other = CHANGES[what]
    assert fingerprint(one) == fingerprint(one) != fingerprint(other)


def test_a_copy_of_a_network_has_its_fingerprint_whatever_its_mode_and_a_changed_weight_has_not() -> None:
    net = network()
    twin = copy.deepcopy(net).eval()
    assert fingerprint(net) == fingerprint(twin)
    with torch.no_grad():
        twin[0].weight[0, 0, 0, 0] += 1e-6
    assert fingerprint(net) != fingerprint(twin) and tensors_fingerprint(net) != tensors_fingerprint(twin)
    twin = copy.deepcopy(net)
    twin[1].running_mean += 1
    assert fingerprint(net) != fingerprint(twin)


def test_a_class_has_the_globals_that_its_methods_name(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint(Steps), fingerprint(Captures)
    monkeypatch.setitem(globals(), "STEP", 0.2)
    assert fingerprint(Steps) != before[0]
    monkeypatch.undo()
    assert fingerprint(Steps) == before[0]
    monkeypatch.setitem(HELD, "net", nn.Linear(2, 2))
    assert fingerprint(Captures) != before[1]


def test_what_goes_round_in_a_circle_or_cannot_be_looked_into_ends() -> None:
    thing: dict[str, Any] = {"lock": threading.Lock(), "loop": []}
    thing["loop"].append(thing)
    assert fingerprint(thing) == fingerprint(thing)


def test_counters_beside_the_tensors_are_left_out_of_what_was_fitted() -> None:
    held = {"weights": torch.ones(3), "asked": 0}
    before, tensors = fingerprint(held), tensors_fingerprint(held)
    held["asked"] = 1
    assert fingerprint(held) != before and tensors_fingerprint(held) == tensors
    assert list(tensors_in(held).values()) == [3]


def test_a_fingerprint_is_the_same_in_another_process() -> None:
    code = (
        "from tests.test_fingerprint import *; print(fingerprint(network()), fingerprint(Steps), fingerprint(closing))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == [fingerprint(network()), fingerprint(Steps), fingerprint(closing)]


def test_a_package_is_known_by_its_name_wherever_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packages may lie in an environment that this one builds upon, or in any folder of PYTHONPATH."""
    before = fingerprint(network())
    places = {
        "of_the_system": "/usr/lib/python3/dist-packages/of_the_system/__init__.py",
        "of_the_user": "/home/me/.local/lib/python3.11/site-packages/of_the_user.py",
        "beside_torch": "/shared/libraries/beside_torch.py",
        "mine": "/home/me/project/mine.py",
    }
    for name, file in places.items():
        module = ModuleType(name)
        module.__file__ = file
        monkeypatch.setitem(sys.modules, name, module)
    _installed.cache_clear()
    try:
        monkeypatch.setattr(sysconfig, "get_path", lambda name: "/elsewhere")
        monkeypatch.setattr(torch, "__file__", "/shared/libraries/torch/__init__.py")
        assert [_installed(name) for name in places] == [True, True, True, False]
        assert fingerprint(network()) == before
    finally:
        _installed.cache_clear()

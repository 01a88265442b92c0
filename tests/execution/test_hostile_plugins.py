"""Plug-ins that raise what no handler of exceptions catches: their own run fails with the reason, the others go on."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
from torch import Tensor

import bench as lib
from bench.execution.jobs import Job, perform
from bench.game.resources import Resources
from tests import planted
from tests.conftest import spec_of


class Odd(BaseException):
    """No `Exception`."""


def raising(what: BaseException) -> type:
    class Raises(planted.Wrapped):
        def predict(self, x: Tensor) -> Tensor:
            raise what

    return Raises


ODD = [Odd("odd"), GeneratorExit("odd"), SystemExit("odd"), StopIteration("odd"), KeyboardInterrupt("odd")]


@pytest.mark.parametrize("what", ODD, ids=repr)
def test_whatever_a_plug_in_raises_ends_its_run_alone(what: BaseException) -> None:
    lib.register_defense("raises", raising(what))
    failed, sound = lib.run(
        ["raises", "regular"], "pgd-skip", n=4, workers=1, sets={"base.epochs": 1, "attack.steps": 2}
    )
    assert failed.status == "FAILED" and type(what).__name__ in failed.reason
    assert sound.status == "DONE"


def test_an_interrupt_passes_through() -> None:
    class Interrupted(planted.Wrapped):
        def predict(self, x: Tensor) -> Tensor:
            os.kill(os.getpid(), signal.SIGINT)
            return super().predict(x)

    lib.register_defense("raises", Interrupted)
    request: dict[str, Any] = {"n": 4, "workers": 1, "sets": {"base.epochs": 1}}
    with pytest.raises(KeyboardInterrupt):
        lib.run("raises", "clean", **request)
    (left,) = lib.results(defense="raises")
    assert left.status == "RUNNING"


def test_a_job_that_nobody_asks_on_ends_quietly(resources: Resources) -> None:
    events = perform(resources, Job("game", spec_of("regular", "clean", n=4), 0))
    next(events)
    events.close()
    assert list(events) == []

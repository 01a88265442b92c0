"""`given`: a network as it is given, in memory or by `base.model` and `base.weights`; nothing is trained."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from bench import registry
from bench.contracts import Context, Defense
from bench.contracts.base import Base
from bench.data.task import Task, TaskFacts
from bench.errors import BadValue
from bench.models.frozen import freeze
from bench.values import Params


class GivenParams(Params):
    """model: a network with weights: one that a program registered, `zoo:NAME`, or any other name of
    `base.model` together with weights, a safetensors file."""

    model: str = ""
    weights: str = ""


class Given(Base):
    """The network in evaluation mode. Its layout in memory is left as it is: it answers as it does elsewhere."""

    Params: ClassVar[type[Params]] = GivenParams
    trains: ClassVar[bool] = False

    @classmethod
    def validate(cls, params: Any, facts: TaskFacts) -> None:
        if not params.model:
            raise BadValue(
                "The base 'given' is trained by nobody: name its network with base.model (and base.weights)."
            )
        known = params.model in registry.models and registry.models[params.model].origin == registry.BUILT_IN
        if not params.weights and (known or params.model.startswith(("torchvision:", "timm:"))):
            raise BadValue(
                f"base.model {params.model!r} is an architecture, and its weights would be random: give base.weights, "
                f"or a network of the zoo (bench list models)."
            )

    def train(self, task: Task, network: nn.Module, context: Context) -> None:
        """Nothing: the weights are there."""

    def fit(self, task: Task, base: Defense | None, context: Context) -> None:
        self.network = freeze(self.build(task.facts, context.seed).to(context.device))

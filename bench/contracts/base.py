"""Train-time defenses: networks built by name, trained on first use, cached under the key of what shapes them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bench.cache import dump_tensors, write_atomic
from bench.contracts import Context, Defense, StaticDefense
from bench.data.task import Task, TaskFacts
from bench.draws import seed_of
from bench.models.frozen import freeze, frozen_copy
from bench.models.layout import channels_last
from bench.models.sources import make_network, network_name

if TYPE_CHECKING:
    from bench.models.network import Network


#: the kind of artefact from which interrupted training goes on; its key is that of the base
CHECKPOINTS = "training"


class Base(StaticDefense):
    """A train-time defense: it gives a classifier theta_0. A subclass implements `train`.

    `network` has `features(x) -> (N, D)` and `forward(x) -> (N, K)` (see `bench.models.network`).
    """

    network: nn.Module
    #: it learns from the training set; False: its network comes with its weights
    trains: ClassVar[bool] = True

    def build(self, facts: TaskFacts, seed: int) -> Network:
        """The network that training starts from, a function of the seed; what is loaded later has the same layers."""
        return build_network(self.params, facts, seed, self.completed)

    def completed(self, network: Network, facts: TaskFacts) -> Network:
        """The network with the layers that this method adds, if it adds any."""
        return network

    @abstractmethod
    def train(self, task: Task, network: nn.Module, context: Context) -> None:
        """Train `network` in place on the task's training set, with every draw from `context.seed`.

        Long training stores its progress (`defenses.checkpoints`) and stops at `context.deadline`.
        """

    def fit(self, task: Task, base: Defense | None, context: Context) -> None:
        self.network = trained_network(self, task, context)

    def answer(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = self.network(x)
        return logits

    def proxy(self) -> nn.Module:
        return frozen_copy(self.network)


def build_network(
    params: Any, facts: TaskFacts, seed: int, completed: Callable[[Network, TaskFacts], Network] | None = None
) -> Network:
    """The network of `params.model` and `params.weights` (if there are such keys); random weights are a function of
    `seed`.

    The global generator is left alone.
    """
    model = network_name(getattr(params, "model", "auto"), facts.name)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_of(seed, "initial weights"))
        network = make_network(model, getattr(params, "weights", ""), facts)
        return network if completed is None else completed(network, facts)


def trained_network(base: Base, task: Task, context: Context) -> Network:
    """theta_0: frozen, in evaluation mode, on the context's device; trained here if the cache lacks it."""
    network = channels_last(base.build(task.facts, context.seed))

    def train(folder: Path) -> None:
        network.to(context.device)
        base.train(task, network, context)
        write_atomic(folder / "weights.safetensors", dump_tensors(network.state_dict(), {}))

    inputs = {"base": type(base).__name__, "params": base.params.model_dump(mode="json"), "seed": context.seed}
    folder = context.cache.get_or_build("bases", context.base_key, train, {**inputs, "dataset": task.facts.name})
    context.cache.drop(CHECKPOINTS, context.base_key)
    network.load_state_dict(load_file(folder / "weights.safetensors"))
    return freeze(network.to(context.device))

"""Train-time defenses: networks built by name, trained on first use, cached under the key of what shapes them."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bench import registry
from bench.cache import dump_tensors, write_atomic
from bench.contracts import Context, Defense, StaticDefense
from bench.data.task import Task, TaskFacts
from bench.draws import seed_of
from bench.errors import BadValue
from bench.models import DEFAULT
from bench.models.frozen import freeze, frozen_copy

if TYPE_CHECKING:
    from bench.models.network import Network


class Base(StaticDefense):
    """A train-time defense: it yields a classifier theta_0. A subclass says `train`.

    `network` has `features(x) -> (N, D)` and `forward(x) -> (N, K)` (see `bench.models.network`).
    """

    network: nn.Module

    @abstractmethod
    def train(self, task: Task, network: nn.Module, context: Context) -> None:
        """Train `network` in place on the task's training set, with every draw from `context.seed`."""

    def fit(self, task: Task, base: Defense | None, context: Context) -> None:
        self.network = trained_network(self, task, context)

    def answer(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = self.network(x)
        return logits

    def proxy(self) -> nn.Module:
        return frozen_copy(self.network)


def network_name(model: str, dataset: str) -> str:
    """The registered name behind `base.model`; `auto` is the dataset's own."""
    if model != "auto":
        return model
    if dataset not in DEFAULT:
        raise BadValue(f"No network is the default for {dataset!r}; give base.model one of: bench list models.")
    return DEFAULT[dataset]


def build_network(model: str, facts: TaskFacts, seed: int) -> Network:
    """A fresh network; its initial weights are a function of `seed` and leave the global generator alone."""
    make = registry.models.load(network_name(model, facts.name))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "initial weights"))
        network: Network = make(num_classes=facts.num_classes, image_shape=facts.image_shape)
    return network


def trained_network(base: Base, task: Task, context: Context) -> Network:
    """theta_0: frozen, in evaluation mode, on the context's device; trained here if the cache lacks it."""
    network = build_network(base.params.model, task.facts, context.seed)

    def train(folder: Path) -> None:
        network.to(context.device)
        base.train(task, network, context)
        write_atomic(folder / "weights.safetensors", dump_tensors(network.state_dict(), {}))

    folder = context.cache.get_or_build("bases", context.base_key, train)
    network.load_state_dict(load_file(folder / "weights.safetensors"))
    return freeze(network.to(context.device))

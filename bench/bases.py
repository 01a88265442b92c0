"""Trained networks: built by name, trained on first use, cached under the key of everything that shapes them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from safetensors.torch import load_file
from torch import nn

from bench import registry
from bench.cache import dump_tensors, write_atomic
from bench.contracts import Base, Context
from bench.data.task import Task, TaskFacts
from bench.draws import seed_of
from bench.errors import BadValue
from bench.models import DEFAULT

if TYPE_CHECKING:
    from bench.models.network import Network

AnyNetwork = TypeVar("AnyNetwork", bound=nn.Module)


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


def frozen_copy(network: AnyNetwork) -> AnyNetwork:
    """A copy of the network that nobody else holds, in evaluation mode, its weights without gradients."""
    return freeze(copy.deepcopy(network))


def freeze(network: AnyNetwork) -> AnyNetwork:
    """The network in evaluation mode, its weights without gradients."""
    network.eval()
    for weight in network.parameters():
        weight.requires_grad_(False)
    return network

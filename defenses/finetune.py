"""The adaptation loop: a network and its Adam moments, fine-tuned on a few hundred images before each answer.

This is the hot path of a runtime defense: tensors stay on the device, no loader, one synchronisation an epoch at most.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bench.models.frozen import frozen_copy


@dataclass(frozen=True)
class Recipe:
    """How long and how fast to fine-tune.

    patience         stop after this many epochs without a lower validation loss
    stop_train_loss  ... and only once the mean training loss of an epoch is below this (0: not asked)
    restore_best     go back to the weights of the lowest validation loss
    batch_norm       `train`: batch statistics while adapting; `frozen`: the running ones
    """

    lr: float
    epochs: int
    patience: int
    batch_size: int
    stop_train_loss: float = 0.0
    restore_best: bool = False
    batch_norm: Literal["frozen", "train"] = "frozen"

    @property
    def watches(self) -> bool:
        """Whether a validation loss can change anything."""
        return self.restore_best or self.epochs > self.patience + 1


class Learner:
    """A network that is fine-tuned again and again; weights and moments carry over until they are reset."""

    def __init__(self, start: nn.Module, recipe: Recipe) -> None:
        self.recipe = recipe
        self._start = start
        self.network = copy.deepcopy(start)
        self.network.requires_grad_(True)
        self._weights = list(self.network.parameters())
        self._optimiser = torch.optim.Adam(self._weights, lr=recipe.lr, fused=True)
        self._zero_moments()

    def fork(self) -> Learner:
        """An independent copy in the same state."""
        twin = Learner(self._start, self.recipe)
        twin.load(self.tensors())
        return twin

    def reset(self) -> None:
        """Back to the starting weights and empty moments."""
        with torch.no_grad():
            for tensor, origin in zip(_tensors(self.network), _tensors(self._start), strict=True):
                tensor.copy_(origin)
        self._zero_moments()

    def _zero_moments(self) -> None:
        for weight in self._weights:
            self._optimiser.state[weight] = {
                "step": torch.zeros((), dtype=torch.float32, device=weight.device),
                "exp_avg": torch.zeros_like(weight),
                "exp_avg_sq": torch.zeros_like(weight),
            }

    def tensors(self) -> dict[str, Tensor]:
        """Copies of the weights, buffers and moments, by name."""
        found = {f"network.{i}": t.detach().clone() for i, t in enumerate(_tensors(self.network))}
        for i, weight in enumerate(self._weights):
            for name, value in self._optimiser.state[weight].items():
                found[f"adam.{i}.{name}"] = value.clone()
        return found

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take up what `tensors` returned."""
        with torch.no_grad():
            for i, tensor in enumerate(_tensors(self.network)):
                tensor.copy_(tensors[f"network.{i}"])
            for i, weight in enumerate(self._weights):
                for name, value in self._optimiser.state[weight].items():
                    value.copy_(tensors[f"adam.{i}.{name}"])

    @torch.enable_grad()  # whoever asks for an answer may do so without gradients
    def fit(self, x: Tensor, y: Tensor, x_val: Tensor, y_val: Tensor, order: torch.Generator) -> int:
        """Fine-tune on x (n, C, H, W) in [0, 1], y (n,) with early stopping on the validation set; optimiser steps."""
        recipe = self.recipe
        self.network.train(recipe.batch_norm == "train")
        steps = 0
        best, best_tensors, waited = torch.inf, None, 0
        for _ in range(recipe.epochs):
            train_loss = torch.zeros((), device=x.device)
            rows = torch.randperm(len(x), generator=order).to(x.device)
            images, labels = x.index_select(0, rows), y.index_select(0, rows)
            for start in range(0, len(x), recipe.batch_size):
                batch = slice(start, start + recipe.batch_size)
                loss = cross_entropy(self.network(images[batch]), labels[batch])
                self._optimiser.zero_grad(set_to_none=True)
                loss.backward()
                self._optimiser.step()
                steps += 1
                if recipe.stop_train_loss:
                    train_loss += loss.detach() * len(labels[batch])
            if not recipe.watches:
                continue
            value = self._loss(x_val, y_val)
            waited = 0 if value < best else waited + 1
            if value < best:
                best = value
                best_tensors = [t.detach().clone() for t in _tensors(self.network)] if recipe.restore_best else None
            low = not recipe.stop_train_loss or float(train_loss) / len(x) < recipe.stop_train_loss
            if waited >= recipe.patience and low:
                break
        if recipe.restore_best and best_tensors is not None:
            with torch.no_grad():
                for tensor, kept in zip(_tensors(self.network), best_tensors, strict=True):
                    tensor.copy_(kept)
        self.network.eval()
        return steps

    def _loss(self, x: Tensor, y: Tensor) -> float:
        training = self.network.training
        self.network.eval()
        with torch.no_grad():
            loss = float(cross_entropy(self.network(x), y))
        self.network.train(training)
        return loss

    def logits(self, x: Tensor) -> Tensor:
        """Logits (N, K) of x (N, C, H, W) now."""
        with torch.no_grad():
            logits: Tensor = self.network(x)
        return logits

    def frozen(self) -> nn.Module:
        """A copy of the network as it is now, whose weights take no gradients."""
        return frozen_copy(self.network)


def _tensors(network: nn.Module) -> list[Tensor]:
    """Weights and buffers in a fixed order."""
    return [*network.parameters(), *network.buffers()]

"""The adaptation loop: weights and Adam moments, fine-tuned on a few hundred images before each answer.

This is the hot path of a runtime defense: tensors stay on the device, no loader, at most one synchronisation an epoch,
and none where no epoch can be stopped early.

A learner is a state. The network, Adam and the recorded step are a workspace's (`defenses.workspace`), which all
learners of one defense share: a learner copies its state into it, so a fork, probe or restored state costs one copy.
"""

from __future__ import annotations

import weakref
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.models.frozen import frozen_copy
from defenses.lanes import Lanes
from defenses.recording import Recorder, copy_all, recorder_for
from defenses.workspace import Recipe, Workspace

__all__ = ["Learner", "Recipe", "TuningSet", "side_by_side"]


@dataclass(frozen=True)
class TuningSet:
    """What is fine-tuned on: x (n, C, H, W) in [0, 1], y (n,); a validation set; the generator of the order."""

    x: Tensor
    y: Tensor
    x_val: Tensor
    y_val: Tensor
    order: torch.Generator


class _Shared:
    """A workspace, and the learner whose state is in it."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.holder: weakref.ref[Learner] | None = None
        self.stream = torch.cuda.Stream() if workspace.device.type == "cuda" else None

    @contextmanager
    def on_own_stream(self) -> Iterator[None]:
        """Work that is started inside runs at the same time as that of other workspaces."""
        if self.stream is None:
            yield
        else:
            with torch.cuda.stream(self.stream):
                yield


class Learner:
    """A network that is fine-tuned again and again; weights and moments carry over until they are reset."""

    def __init__(
        self, start: nn.Module, recipe: Recipe, image_shape: tuple[int, ...], recorder: Recorder | None = None
    ) -> None:
        """start: the network to begin with, for images of `image_shape` (C, H, W), in evaluation mode; it is left
        alone. recorder: how a step is repeated; None: as the device is best served (`recorder_for`)."""
        device = next(start.parameters()).device
        self._make = lambda: _Shared(Workspace(start, recipe, image_shape, recorder or recorder_for(device)))
        self.recipe = recipe
        self._shared = self._make()
        self._lanes = [self._shared]
        #: how many of them are used at once
        self.pace = Lanes(device)
        self._state: list[Tensor] | None = None  # None: the workspace holds it
        self._shared.holder = weakref.ref(self)

    @property
    def _workspace(self) -> Workspace:
        """The workspace, holding this learner's state."""
        shared = self._shared
        holder = None if shared.holder is None else shared.holder()
        if holder is not self:
            if holder is not None:
                holder._state = _copies(shared.workspace.tensors)
            assert self._state is not None
            copy_all(shared.workspace.tensors, self._state)
            self._state = None
            shared.holder = weakref.ref(self)
        return shared.workspace

    @property
    def network(self) -> nn.Module:
        """The network with the present weights. Do not keep it: other learners use it too."""
        return self._workspace.network

    def fork(self) -> Learner:
        """An independent copy in the same state."""
        twin = object.__new__(Learner)
        twin.__dict__.update(self.__dict__)
        twin._state = _copies(self._tensors())
        return twin

    def lanes(self, count: int) -> list[Learner]:
        """This many forks that can be fine-tuned at the same time, since each has a workspace of its own."""
        while len(self._lanes) < count:
            self._lanes.append(self._make())
        forks = []
        for shared in self._lanes[:count]:
            twin = self.fork()
            twin._shared = shared
            forks.append(twin)
        return forks

    def become(self, other: Learner) -> None:
        """Take up the state of another learner of the same network."""
        if other is not self:
            copy_all(self._tensors(), other._tensors())

    def _tensors(self) -> Sequence[Tensor]:
        """The tensors of the state, not copied."""
        return self._shared.workspace.tensors if self._state is None else self._state

    def reset(self) -> None:
        """Back to the starting weights and empty moments."""
        self._workspace.reset()

    def tensors(self) -> dict[str, Tensor]:
        """Copies of the weights, buffers and moments, by name."""
        return {n: tensor.detach().clone() for n, tensor in zip(self._names(), self._tensors(), strict=True)}

    def _names(self) -> list[str]:
        """Names of the tensors of a state, in their order."""
        return self._shared.workspace.names

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore the tensors that `tensors` returned."""
        copy_all(self._tensors(), [tensors[name] for name in self._names()])

    def fit(self, x: Tensor, y: Tensor, x_val: Tensor, y_val: Tensor, order: torch.Generator) -> int:
        """Fine-tune on x (n, C, H, W) in [0, 1], y (n,) with early stopping on the validation set; optimiser steps."""
        (steps,) = side_by_side([(self, TuningSet(x, y, x_val, y_val, order))])
        return steps

    def fitting(self, data: TuningSet) -> Generator[None, None, int]:
        """As `fit`, as a generator that pauses after each step."""
        recipe, place, x, y = self.recipe, self._workspace, data.x, data.y
        place.begin()
        steps = 0
        best, best_tensors, waited = torch.inf, None, 0
        for _ in range(recipe.epochs):
            place.train_loss.zero_()
            rows = torch.randperm(len(x), generator=data.order).to(x.device)
            images, labels = x.index_select(0, rows), y.index_select(0, rows)
            for start in range(0, len(x), recipe.batch_size):
                batch = slice(start, start + recipe.batch_size)
                place.step(images[batch], labels[batch])
                steps += 1
                yield
            if not recipe.watches:
                continue
            losses = torch.stack([place.validation_loss(data.x_val, data.y_val), place.train_loss])
            value, train_loss = losses.tolist()  # the one look at the device in an epoch
            waited = 0 if value < best else waited + 1
            if value < best:
                best = value
                best_tensors = place.network_tensors() if recipe.restore_best else None
            low = not recipe.stop_train_loss or train_loss / len(x) < recipe.stop_train_loss
            if waited >= recipe.patience and low:
                break
        if best_tensors is not None:
            place.take_network(best_tensors)
        place.end()
        return steps

    def logits(self, x: Tensor) -> Tensor:
        """Logits (N, K) of x (N, C, H, W) now, in float32."""
        return self._workspace.logits(x)

    def attacked(
        self, x: Tensor, y: Tensor, eps: float, steps: int, step_size: float, draws: torch.Generator
    ) -> Tensor:
        """PGD images (N, C, H, W) for x in [0, 1], y (N,) against the weights now, from a random start.

        Linf; eps and step_size in pixels of [0, 1], step_size 0: 2.5 eps / steps. See `defenses.crafting`.
        """
        offset = (torch.rand(x.shape, generator=draws) * 2 - 1) * eps
        return self._workspace.craft(x, y, eps, steps, step_size or 2.5 * eps / steps, offset)

    def frozen(self) -> nn.Module:
        """A copy of the network with the present weights, which take no gradients."""
        return frozen_copy(self.network)


def side_by_side(tasks: Sequence[tuple[Learner, TuningSet]]) -> list[int]:
    """Fine-tune learners in workspaces of their own at the same time; the steps of each.

    Each gets what it would get alone: on a GPU their steps overlap, elsewhere they take turns.
    """
    if len({id(learner._shared) for learner, _ in tasks}) < len(tasks):
        raise ValueError("Learners that are fine-tuned at the same time need workspaces of their own; see `lanes`.")
    done: list[int] = [0] * len(tasks)
    running = {}
    for number, (learner, data) in enumerate(tasks):
        if learner._shared.stream is not None:
            learner._shared.stream.wait_stream(torch.cuda.current_stream())
        running[number] = learner.fitting(data)
    while running:
        for number in list(running):
            with tasks[number][0]._shared.on_own_stream():
                try:
                    next(running[number])
                except StopIteration as end:
                    done[number] = end.value
                    del running[number]
    for learner, _ in tasks:
        if learner._shared.stream is not None:
            torch.cuda.current_stream().wait_stream(learner._shared.stream)
    return done


def _copies(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors]

"""Where weights are adapted: a network, its Adam, and one step, which a GPU records once and then repeats.

The step is described once, in `Workspace._step`: forward, cross-entropy with a weight per row, backward, Adam. On a
CPU it is called batch by batch. With a recorder (on CUDA always) it runs over tensors that stay where they are, so a
short last batch is filled up by rows of weight 0 and one recording serves every batch. With batch statistics
(`batch_norm` train) such rows would count, so there each number of rows has its recording.

A workspace serves one learner at a time; `defenses.finetune` knows which. Its tensors keep their place in memory:
another learner copies its state into them.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bench.models.layout import channels_last
from defenses.crafting import Crafting
from defenses.descent import descend, empty_moments
from defenses.frozen_norm import freeze_norms
from defenses.precision import Precision, computing, lowered
from defenses.recording import Body, Forward, Recorder, Repeated, copy_all


@dataclass(frozen=True)
class Recipe:
    """How long and how fast to fine-tune.

    patience         stop after this many epochs without a lower validation loss
    stop_train_loss  ... and only once the mean training loss of an epoch is below this (0: not asked)
    restore_best     go back to the weights of the lowest validation loss
    batch_norm       `train`: batch statistics while adapting; `frozen`: the running ones
    precision        of the forward and backward pass, see `defenses.precision`
    """

    lr: float
    epochs: int
    patience: int
    batch_size: int
    stop_train_loss: float = 0.0
    restore_best: bool = False
    batch_norm: Literal["frozen", "train"] = "frozen"
    precision: Precision = "float32"

    @property
    def watches(self) -> bool:
        """Whether a validation loss can change anything."""
        return self.restore_best or self.epochs > self.patience + 1


class Workspace:
    """The network being adapted, Adam's moments and the step; `tensors` is all that a step changes, in a fixed order.

    start: the network that adaptation begins with; it is not changed. recorder: repeats the step; None: it is called.
    """

    def __init__(
        self, start: nn.Module, recipe: Recipe, image_shape: tuple[int, ...], recorder: Recorder | None
    ) -> None:
        self.recipe = recipe
        self.network = copy.deepcopy(start).requires_grad_(True)
        weight = next(self.network.parameters())
        self.device, self.dtype = weight.device, weight.dtype
        if recipe.batch_norm == "frozen":
            freeze_norms(self.network, torch.zeros((1, *image_shape), device=self.device, dtype=self.dtype))
        cuda = self.device.type == "cuda"
        channels_last(self.network)
        self.network.eval()
        self._optimiser = torch.optim.Adam(self.network.parameters(), lr=recipe.lr, fused=True, capturable=cuda)
        self._moments = empty_moments(self._optimiser)
        #: PGD against the network with its present weights
        self.craft = Crafting(self.network, recipe.precision, recorder)
        self._network_tensors = tensors_of(self.network)
        self.tensors = [*self._network_tensors, *self._moments]
        #: the names of the tensors
        self.names = [f"network.{i}" for i in range(len(self._network_tensors))]
        self.names += [f"adam.{i}" for i in range(len(self._moments))]
        self._start = tensors_of(start)
        #: sum of the training loss over the rows since it was last set to 0
        self.train_loss = torch.zeros((), device=self.device, dtype=self.dtype)
        self._recorder = recorder
        self._recorded: dict[int, _Recorded] = {}

    def network_tensors(self) -> list[Tensor]:
        """Copies of the weights and buffers alone."""
        return [tensor.detach().clone() for tensor in self._network_tensors]

    def take_network(self, tensors: list[Tensor]) -> None:
        """Take up weights and buffers that `network_tensors` returned; moments stay."""
        copy_all(self._network_tensors, tensors)

    def reset(self) -> None:
        """The starting weights and empty moments."""
        copy_all(self._network_tensors, self._start)
        torch._foreach_zero_(self._moments)

    def begin(self) -> None:
        """Get ready for steps: batch norm as the recipe says."""
        self.network.train(self.recipe.batch_norm == "train")

    def end(self) -> None:
        """Back to evaluation mode, in which answers are given."""
        self.network.eval()

    def step(self, x: Tensor, y: Tensor) -> None:
        """One step of Adam on the mean cross-entropy of x (B, C, H, W) in [0, 1], y (B,), B <= batch size."""
        rows = len(x)
        if self._recorder is None:
            self._step(x, y, torch.full((rows,), 1 / rows, device=self.device, dtype=self.dtype), rows, lowered)
            return
        room = self.recipe.batch_size if self.recipe.batch_norm == "frozen" else rows
        if room not in self._recorded:
            self._recorded[room] = _Recorded(self, x, room, self._recorder)
        self._recorded[room].repeat(x, y)

    def _step(self, x: Tensor, y: Tensor, share: Tensor, rows: int | Tensor, forward: Forward) -> None:
        """The step. share (B,): the weight of each row in the loss; rows: how many of them count."""
        loss = descend(self.network, self._optimiser, x, y, share, self.recipe.precision, forward)
        self.train_loss += loss * rows

    def validation_loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean cross-entropy (a scalar tensor) of x (N, C, H, W), y (N,) in evaluation mode, in float32."""
        training = self.network.training
        self.network.eval()
        loss = cross_entropy(self.logits(x), y)
        self.network.train(training)
        return loss

    def logits(self, x: Tensor) -> Tensor:
        """Logits (N, K) of x (N, C, H, W), in float32 whatever the network was adapted in."""
        with torch.no_grad(), computing("float32"):
            logits: Tensor = self.network(x)
        return logits


class _Recorded:
    """The step over tensors of its own, recorded; images like x (B, C, H, W), room rows."""

    def __init__(self, place: Workspace, x: Tensor, room: int, recorder: Recorder) -> None:
        self._x = x.new_zeros((room, *x.shape[1:]))
        self._y = torch.zeros(room, dtype=torch.int64, device=x.device)
        self._share = x.new_full((room,), 1 / room)
        self._rows = x.new_full((), room)
        self._filled = room

        def body_with(forward: Forward) -> Body:
            def body() -> None:
                images = self._x
                if images.device.type == "cuda":
                    images = images.contiguous(memory_format=torch.channels_last)
                place._step(images, self._y, self._share, self._rows, forward)

            return body

        self._again = Repeated(recorder, body_with, [*place.tensors, place.train_loss])

    def repeat(self, x: Tensor, y: Tensor) -> None:
        """The step on x (B, C, H, W), y (B,) with B at most the room; rows beyond B keep old images and weigh 0."""
        rows = len(x)
        self._x[:rows].copy_(x)
        self._y[:rows].copy_(y)
        if rows != self._filled:
            self._share.zero_()
            self._share[:rows] = 1 / rows
            self._rows.fill_(rows)
            self._filled = rows
        self._again()


def tensors_of(network: nn.Module) -> list[Tensor]:
    """Weights and buffers in a fixed order."""
    return [*(weight.detach() for weight in network.parameters()), *network.buffers()]

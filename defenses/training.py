"""What bases that are trained share: their parameters, and the loop. A module per method says the loss of a batch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from bench.contracts import Context
from bench.contracts.base import Base
from bench.data.task import Task, TaskFacts
from bench.draws import generator
from bench.errors import BadValue
from bench.values import Params

#: pixels of zeros around an image from which `augment` cuts it out again
PADDING = 4


class TrainedParams(Params):
    """model: a registered network, `auto`, `torchvision:NAME`, `timm:NAME` or `FILE.py:FUNCTION`; weights: a
    safetensors file to start from; epochs (0: the weights as they are), batch_size, lr and weight_decay of AdamW with a
    one-cycle rate; augment: random crops of the image padded by 4 pixels, and mirror images."""

    model: str = "auto"
    weights: str = ""
    epochs: int = Field(default=8, ge=0)
    batch_size: int = Field(default=128, ge=1)
    lr: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    augment: bool = False


class AdversarialParams(TrainedParams):
    """eps: radius of the training examples in pixels (linf; 0: the task's default); warmup: epochs over which it grows
    from 0 (below 1: a part of one)."""

    eps: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    warmup: float = Field(default=0.0, ge=0, allow_inf_nan=False)


@dataclass(frozen=True)
class Step:
    """Where training stands: epochs done as a real number, and the generator of this step's draws."""

    epoch: float
    draws: torch.Generator


class TrainedBase(Base):
    """A network trained with AdamW. A subclass says `loss`; everything random is a function of (context.seed, step)."""

    Params: ClassVar[type[Params]] = TrainedParams

    @classmethod
    def validate(cls, params: Any, facts: TaskFacts) -> None:
        if not params.epochs and not params.weights:
            raise BadValue(
                "base.epochs is 0 and base.weights names no file, so the network would stay random; give one."
            )

    @abstractmethod
    def loss(self, network: nn.Module, x: Tensor, y: Tensor, step: Step) -> Tensor:
        """Scalar loss of a batch x (B, C, H, W) in [0, 1], y (B,); `network` is in training mode."""

    def train(self, task: Task, network: nn.Module, context: Context) -> None:
        params, device, seed = self.params, context.device, context.seed
        labels = torch.from_numpy(task.train_labels)
        count, size = len(labels), params.batch_size
        steps = -(-count // size)
        optimiser = torch.optim.AdamW(network.parameters(), lr=params.lr, weight_decay=params.weight_decay, fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, max_lr=params.lr * 2, total_steps=max(params.epochs * steps, 2), cycle_momentum=False
        )
        network.train()
        for epoch in range(params.epochs):
            order = torch.randperm(count, generator=generator(seed, "training order", epoch))
            total = torch.zeros((), device=device)
            for number, start in enumerate(range(0, count, size)):
                rows = order[start : start + size]
                step = Step(epoch + number / steps, generator(seed, "training", epoch, number))
                x = task.pixels(task.train_images[rows.numpy()], device)
                if params.augment:
                    x = augmented(x, step.draws)
                loss = self.loss(network, x, labels[rows].to(device), step)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
                schedule.step()
                total += loss.detach() * len(rows)
            context.report(f"epoch {epoch + 1}/{params.epochs}, loss {float(total) / count:.4f}")
        network.eval()

    def radius(self, step: Step) -> float:
        """The radius of training examples at this step, in pixels (see `AdversarialParams`)."""
        params = self.params
        return float(params.eps * min(1.0, step.epoch / params.warmup if params.warmup else 1.0))


@contextmanager
def held(network: nn.Module) -> Iterator[None]:
    """The network in evaluation mode and without gradients of its weights, to craft against it; then as it was."""
    training = network.training
    taught = [weight for weight in network.parameters() if weight.requires_grad]
    network.eval()
    network.requires_grad_(False)
    try:
        yield
    finally:
        for weight in taught:
            weight.requires_grad_(True)
        network.train(training)


def augmented(x: Tensor, draws: torch.Generator) -> Tensor:
    """Random crops and mirror images of x (B, C, H, W), one draw per image."""
    count, _, height, width = x.shape
    top, left = (torch.randint(2 * PADDING + 1, (count,), generator=draws).to(x.device) for _ in range(2))
    mirrored = (torch.rand(count, generator=draws) < 0.5).to(x.device)
    rows = top[:, None] + torch.arange(height, device=x.device)
    columns = left[:, None] + torch.arange(width, device=x.device)
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    padded = nn.functional.pad(x, (PADDING,) * 4).permute(0, 2, 3, 1)
    images = torch.arange(count, device=x.device)[:, None, None]
    return padded[images, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()

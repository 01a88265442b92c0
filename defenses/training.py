"""What trained bases share: their parameters and the loop. Each method has a module, which defines its loss."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from bench.contracts import Context
from bench.contracts.base import Base
from bench.data.task import Task, TaskFacts
from bench.draws import generator, seed_of
from bench.errors import BadValue
from bench.values import Params
from defenses.checkpoints import Checkpoints
from defenses.crafting import Crafting
from defenses.descent import descend, empty_moments
from defenses.device_search import fits_beside
from defenses.precision import InPrecision, Precision, computing
from defenses.recording import Body, Recorder, recorder_for
from defenses.workspace import tensors_of

#: pixels of zeros around an image from which `augment` cuts it out again
PADDING = 4


class TrainedParams(Params):
    """model: a registered network, `auto`, `torchvision:NAME`, `timm:NAME` or `FILE.py:FUNCTION`; weights: a
    safetensors file to start from; epochs (0: the weights as they are), batch_size, lr and weight_decay of AdamW with a
    one-cycle rate; augment: random crops of the image padded by 4 pixels, and mirror images; precision: of the forward
    and backward passes, see `defenses.precision`."""

    model: str = "auto"
    weights: str = ""
    epochs: int = Field(default=8, ge=0)
    batch_size: int = Field(default=128, ge=1)
    lr: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    augment: bool = False
    precision: Precision = "float32"


class AdversarialParams(TrainedParams):
    """eps: radius of the training examples in pixels (linf; 0: the task's default); warmup: epochs over which it grows
    from 0 (below 1: a part of one)."""

    eps: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    warmup: float = Field(default=0.0, ge=0, allow_inf_nan=False)


@dataclass(frozen=True)
class Step:
    """The position in training.

    epoch  epochs done, as a real number
    draws  the generator of this step
    craft  how examples are crafted against the network that learns; None: by foolbox's loop
    """

    epoch: float
    draws: torch.Generator
    craft: Crafting | None = None


class TrainedBase(Base):
    """A network trained with AdamW. A subclass implements `loss`. All draws are functions of (context.seed, step)."""

    Params: ClassVar[type[Params]] = TrainedParams

    @classmethod
    def validate(cls, params: Any, facts: TaskFacts) -> None:
        if params.epochs and not facts.train_size:
            raise BadValue(
                f"{facts.name} has no training images, which a base is trained on: give train=(images, labels), or the "
                f"base 'given' with a network."
            )
        if not params.epochs and not params.weights:
            raise BadValue(
                "base.epochs is 0 and base.weights names no file, so the network would stay random; give one."
            )

    @abstractmethod
    def loss(self, network: nn.Module, x: Tensor, y: Tensor, step: Step) -> Tensor:
        """Scalar loss of a batch x (B, C, H, W) in [0, 1], y (B,); `network` is in training mode, and computes in the
        precision that was asked for."""

    def train(self, task: Task, network: nn.Module, context: Context) -> None:
        self._train(task, network, context, recorder_for(context.device))

    def _train(self, task: Task, network: nn.Module, context: Context, recorder: Recorder | None) -> None:
        params, device, seed = self.params, context.device, context.seed
        stock = Stock(task, device)
        count, size = len(task.train_labels), params.batch_size
        steps = -(-count // size)
        training = Training(network, params, recorder)
        rates = one_cycle(params.lr, params.epochs * steps)
        total = torch.zeros((), device=device)
        checkpoints = Checkpoints(context, [*training.touched, total])
        done = checkpoints.resume()
        network.train()
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            for number, rate in enumerate(rates):
                epoch, batch = divmod(number, steps)
                if batch == 0:
                    order = torch.randperm(count, generator=generator(seed, "training order", epoch))
                if number < done:
                    continue
                if batch == 0:
                    total.zero_()
                rows = order[batch * size : (batch + 1) * size]
                step = Step(epoch + batch / steps, generator(seed, "training", epoch, batch), training.craft)
                torch.manual_seed(seed_of(seed, "training noise", epoch, batch))  # of layers that draw, as dropout does
                x, y = stock.batch(rows)
                if params.augment:
                    x = augmented(x, step.draws)
                training.set_rate(rate)
                total += self._step(training, x, y, step) * len(rows)
                if batch == steps - 1:
                    context.report(f"epoch {epoch + 1}/{params.epochs}, loss {float(total) / count:.4f}")
                checkpoints.passed(number + 1)
        network.eval()

    def _step(self, training: Training, x: Tensor, y: Tensor, step: Step) -> Tensor:
        """One step of the optimiser on a batch; its loss. Never recorded: a loss may draw and differentiate."""
        precision = self.params.precision
        with computing(precision):
            loss = self.loss(InPrecision(training.network, precision), x, y, step)
            training.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            training.optimiser.step()
        return loss.detach()

    def radius(self, step: Step) -> float:
        """The radius of training examples at this step, in pixels (see `AdversarialParams`)."""
        params = self.params
        return float(params.eps * min(1.0, step.epoch / params.warmup if params.warmup else 1.0))


class ExamplesBase(TrainedBase):
    """A network trained by the cross-entropy on examples. A subclass implements `examples`; a GPU records the step."""

    @abstractmethod
    def examples(self, network: nn.Module, x: Tensor, y: Tensor, step: Step) -> tuple[Tensor, Tensor, Tensor]:
        """What is learnt from a batch x (B, C, H, W) in [0, 1], y (B,): images, labels and their weights in the loss,
        as many as it likes, the same number for the same B."""

    def loss(self, network: nn.Module, x: Tensor, y: Tensor, step: Step) -> Tensor:
        images, labels, share = self.examples(network, x, y, step)
        return (nn.functional.cross_entropy(network(images), labels, reduction="none") * share).sum()

    def _step(self, training: Training, x: Tensor, y: Tensor, step: Step) -> Tensor:
        return training.learn(*self.examples(training.network, x, y, step))


def attacked(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    step: Step,
    eps: float,
    steps: int,
    step_size: float,
    offset: Tensor | None,
) -> Tensor:
    """PGD images for x (B, C, H, W), y (B,) against the network that learns, in evaluation mode."""
    craft = step.craft or Crafting(network, "float32", None)
    return craft(x, y, eps, steps, step_size, offset)


class Stock:
    """The training images, on the device if they fit there."""

    def __init__(self, task: Task, device: torch.device) -> None:
        self._task = task
        self._device = device
        self._labels = torch.from_numpy(task.train_labels).to(device)
        self._images: Tensor | None = None
        images = task.train_images
        if isinstance(images, np.ndarray) and fits_beside(images.nbytes, device):
            self._images = torch.from_numpy(images).to(device)

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) float32 in [0, 1] and labels (B,) of some rows (B,), which are on the CPU."""
        here = rows.to(self._device)
        if self._images is None:
            return self._task.pixels(self._task.train_images[rows.numpy()], self._device), self._labels[here]
        images = self._images.index_select(0, here).to(torch.float32).div_(self._task.pixel_scale)
        return images, self._labels[here]


def one_cycle(lr: float, steps: int) -> Iterator[float]:
    """The learning rates of one cycle up to 2 lr, one per step (Smith and Topin 2018, as torch has it)."""
    nothing = torch.optim.SGD([torch.zeros(1)], lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        nothing, max_lr=lr * 2, total_steps=max(steps, 2), cycle_momentum=False
    )
    for _ in range(steps):
        yield float(nothing.param_groups[0]["lr"])
        nothing.step()
        schedule.step()


class Training:
    """A network that learns, its AdamW and the step on weighted examples, which a recorder repeats.

    Batch statistics are those of the batch, so every number of rows has a recording of its own.
    """

    def __init__(self, network: nn.Module, params: Any, recorder: Recorder | None) -> None:
        self.network = network
        self.craft = Crafting(network, params.precision, recorder)
        self._precision: Precision = params.precision
        self._recorder = recorder
        self._recorded: dict[int, _RecordedStep] = {}
        weights = list(network.parameters())
        cuda = weights[0].is_cuda
        self._rate = torch.tensor(params.lr, device=weights[0].device)
        self.optimiser = torch.optim.AdamW(
            weights, lr=self._rate if cuda else params.lr, weight_decay=params.weight_decay, fused=True, capturable=cuda
        )
        self.touched = [*tensors_of(network), *empty_moments(self.optimiser)]

    def set_rate(self, rate: float) -> None:
        """The learning rate of the next steps."""
        for group in self.optimiser.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def learn(self, x: Tensor, y: Tensor, share: Tensor) -> Tensor:
        """One step on images x (B, C, H, W), y (B,) weighted by share (B,); the loss."""
        if self._recorder is None:
            return descend(self.network, self.optimiser, x, y, share, self._precision)
        if len(x) not in self._recorded:
            self._recorded[len(x)] = _RecordedStep(self, x, self._precision, self._recorder)
        return self._recorded[len(x)].repeat(x, y, share)


class _RecordedStep:
    """The step over tensors of its own, for batches like x, recorded."""

    def __init__(self, training: Training, x: Tensor, precision: Precision, recorder: Recorder) -> None:
        self._x = x.detach().clone()
        self._y = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        self._share = x.new_full((len(x),), 1 / len(x))
        self._loss = x.new_zeros(())

        def body() -> None:
            images = self._x
            if images.is_cuda:
                images = images.contiguous(memory_format=torch.channels_last)
            self._loss.copy_(descend(training.network, training.optimiser, images, self._y, self._share, precision))

        self._again: Body = recorder.record(body, training.touched)

    def repeat(self, x: Tensor, y: Tensor, share: Tensor) -> Tensor:
        self._x.copy_(x)
        self._y.copy_(y)
        self._share.copy_(share)
        self._again()
        return self._loss


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

"""purify: adds noise to the input and takes it away by a denoiser, in rounds; the base answers for what is left.

Purification by a generative model of clean images (Nie et al.: Diffusion Models for Adversarial Purification, ICML
2022), with the schedule of several rounds of Lee and Kim (Robust Evaluation of Diffusion-Based Adversarial
Purification, ICCV 2023): the noise is small in the first rounds and larger in the last ones. They find that such
defenses fall to PGD through the whole process with the mean over draws; diffhammer finds that one draw is enough.

Readings: instead of a pretrained diffusion model, a small denoiser (four convolutions, which give the noise) is trained
here on the clean training images at noise levels that are drawn uniformly up to `noise_max`; a round is one step of it,
straight to the mean image. `noise` has one level for each round, in pixels of [0, 1]. The noise of an input is drawn
from (noise key, its pixels), so it is a static random defense. proxy: what the rounds change is held fixed, with one
noise for all inputs; `unrolled` has the gradient through the last rounds.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field, field_validator
from safetensors.torch import load_file
from torch import Tensor, nn

from bench.cache import digest, dump_tensors, write_atomic
from bench.contracts import Context, Defense, StaticDefense, in_blocks
from bench.contracts.base import CHECKPOINTS, Base
from bench.data.task import Task, TaskFacts
from bench.draws import generator, seed_of
from bench.errors import BadValue
from bench.models.frozen import freeze, frozen_copy
from bench.rows import image_hash
from bench.values import Params
from defenses.checkpoints import Checkpoints
from defenses.descent import empty_moments
from defenses.precision import computing
from defenses.training import Stock, one_cycle
from defenses.unrolling import State, stepped
from defenses.workspace import tensors_of


class PurifyParams(Params):
    """noise: of each round, standard deviations in pixels of [0, 1], separated by commas; samples: purified images
    whose logits are averaged; epochs, batch_size and lr of the denoiser's training, of this many channels (width), with
    noise up to noise_max."""

    noise: str = "0.1,0.1,0.2,0.2"
    samples: int = Field(default=1, ge=1)
    epochs: int = Field(default=5, ge=1)
    batch_size: int = Field(default=128, ge=1)
    lr: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    width: int = Field(default=32, ge=1)
    noise_max: float = Field(default=0.3, gt=0, le=1, allow_inf_nan=False)

    @field_validator("noise")
    @classmethod
    def _levels(cls, text: str) -> str:
        try:
            levels = [float(part) for part in text.split(",")]
        except ValueError:
            levels = []
        if not levels or not all(0 <= level <= 1 for level in levels):
            raise ValueError("give the noise of each round, numbers from 0 to 1, such as 0.1,0.2")
        return text

    def levels(self) -> list[float]:
        """The noise of each round."""
        return [float(part) for part in self.noise.split(",")]


class Denoiser(nn.Module):
    """The mean clean image (N, C, H, W) of noisy ones and the standard deviations (N,) of their noise."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels + 1, width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width, channels, 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        level = noise.view(-1, 1, 1, 1).expand(-1, 1, *x.shape[2:])
        changed: Tensor = x - self.body(torch.cat([x, level], 1))
        return changed


class Purify(StaticDefense):
    """Answers for the input after rounds of noise and denoising."""

    Params: ClassVar[type[Params]] = PurifyParams
    randomised: ClassVar[bool] = True
    not_unrolled: ClassVar[str] = ""

    _network: nn.Module
    _denoiser: nn.Module
    _image_shape: tuple[int, int, int]

    @classmethod
    def validate(cls, params: Any, facts: TaskFacts) -> None:
        if not facts.train_size:
            raise BadValue(f"{facts.name} has no training images, which the denoiser of purify is trained on.")

    def fit(self, task: Task, base: Defense | None, context: Context) -> None:
        assert isinstance(base, Base)
        self._network = base.network
        self.noise_key = context.noise_key
        self._image_shape = task.facts.image_shape
        self._denoiser = _trained(task, self.params, context)

    def answer(self, x: Tensor) -> Tensor:
        rounds = len(self.params.levels())
        parts = []
        for sample in range(self.params.samples):
            keys = [generator(self.noise_key, "purify", image_hash(one), sample) for one in x]
            given = torch.stack([torch.randn((rounds, *x.shape[1:]), generator=key) for key in keys], 1)
            with torch.no_grad():
                parts.append(_Purified(self._network, self._denoiser, self.params.levels(), [given])(x))
        return torch.stack(parts).mean(0)

    def predict(self, x: Tensor) -> Tensor:
        self.adaptation_steps += len(self.params.levels()) * self.params.samples * len(x)
        return in_blocks(self.answer, x)

    def proxy(self) -> nn.Module:
        return self.unrolled(0)

    def unrolled(self, steps: int, served: int = 0, draw: int | None = None) -> nn.Module:
        levels = self.params.levels()
        levels = levels[: served or len(levels)]
        shape = (len(levels), 1, *self._image_shape)
        noises = [
            torch.randn(shape, generator=generator(self.noise_of(draw), "purify proxy", sample))
            for sample in range(self.params.samples)
        ]
        return _Purified(frozen_copy(self._network), frozen_copy(self._denoiser), levels, noises, steps).eval()


class _Purified(nn.Module):
    """Mean logits (N, K) of a network for images after all rounds.

    noises: for each sample, standard normal numbers (rounds, N or 1, C, H, W); last: rounds, the last ones, through
    which a gradient flows; what the earlier ones change is held fixed on the way back.
    """

    def __init__(
        self, network: nn.Module, denoiser: nn.Module, levels: list[float], noises: list[Tensor], last: int = 0
    ) -> None:
        super().__init__()
        self.network, self.denoiser = network, denoiser
        self._levels, self._noises, self._last = levels, noises, last

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.network(x + self._change(x, noise.to(x))) for noise in self._noises]).mean(0)

    def _change(self, x: Tensor, noise: Tensor) -> Tensor:
        """What all rounds change in x (N, C, H, W)."""

        def round_(x: Tensor, state: State, number: int) -> State:
            level = self._levels[number]
            noisy = x + state[0] + level * noise[number]
            clean = self.denoiser(noisy, torch.full((len(x),), level, device=x.device)).clamp(0, 1)
            return (clean - x,)

        count = len(self._levels)
        (change,) = stepped(round_, x, (torch.zeros_like(x),), count, min(self._last, count))
        return change if self._last else change.detach()


def _trained(task: Task, params: PurifyParams, context: Context) -> nn.Module:
    """The denoiser, from the cache or trained now."""
    own = {name: getattr(params, name) for name in ("epochs", "batch_size", "lr", "width", "noise_max")}
    key = digest(["denoiser", context.base_key, context.seed, own])
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_of(context.seed, "denoiser"))
        denoiser = Denoiser(task.facts.image_shape[0], params.width).to(context.device)

    def train(folder: Path) -> None:
        _train(denoiser, task, params, replace(context, base_key=key))
        write_atomic(folder / "weights.safetensors", dump_tensors(denoiser.state_dict(), {}))

    folder = context.cache.get_or_build("bases", key, train)
    context.cache.drop(CHECKPOINTS, key)
    denoiser.load_state_dict(load_file(folder / "weights.safetensors"))
    return freeze(denoiser)


@torch.enable_grad()
def _train(denoiser: nn.Module, task: Task, params: PurifyParams, context: Context) -> None:
    """The least squared error at noise levels drawn for each image; draws are functions of (seed, epoch, batch)."""
    stock, count, size = Stock(task, context.device), len(task.train_labels), params.batch_size
    steps = -(-count // size)
    optimiser = torch.optim.AdamW(denoiser.parameters(), lr=params.lr, fused=True)
    checkpoints = Checkpoints(context, [*tensors_of(denoiser), *empty_moments(optimiser)])
    done = checkpoints.resume()
    for number, rate in enumerate(one_cycle(params.lr, params.epochs * steps)):
        if number < done:
            continue
        epoch, batch = divmod(number, steps)
        order = torch.randperm(count, generator=generator(context.seed, "denoiser order", epoch))
        x, _ = stock.batch(order[batch * size : (batch + 1) * size])
        draws = generator(context.seed, "denoiser noise", epoch, batch)
        level = (torch.rand(len(x), generator=draws) * params.noise_max).to(x)
        noisy = x + level.view(-1, 1, 1, 1) * torch.randn(x.shape, generator=draws).to(x)
        for group in optimiser.param_groups:
            group["lr"] = rate
        with computing("float32"):
            loss = (denoiser(noisy, level) - x).square().mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
        if batch == steps - 1:
            context.report(f"denoiser: epoch {epoch + 1}/{params.epochs}, squared error {float(loss.detach()):.5f}")
        checkpoints.passed(number + 1)

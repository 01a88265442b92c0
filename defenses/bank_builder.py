"""How the augmented set D' is made: the recipe, its checks, and the builder that fills the cache piece by piece.

Source: Wu, Yuan, Wu, ICML 2020, section on the augmented set (PGD copies made against the trained network).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field
from torch import Tensor

from bench.cache import Cache, digest
from bench.contracts import BLOCK, Context
from bench.contracts.base import Base
from bench.data.task import Task, TaskFacts, fixed_order
from bench.draws import Draws
from bench.errors import BadValue
from bench.models.frozen import frozen_copy
from bench.models.layout import channels_last
from bench.norms import random_offset
from bench.source import module_hash
from bench.values import Params
from defenses.array_file import new_array
from defenses.bank import Bank, features_of, stored_towards
from defenses.crafting import Crafting
from defenses.frozen_norm import freeze_norms
from defenses.neighbours import IndexKind, Neighbours, write_index
from defenses.precision import Precision
from defenses.recording import recorder_for

#: taken when the module is loaded, so that an edit during a long run does not split its bank
_SOURCE = module_hash(__name__)

#: most images of a piece, and most bytes of them: what is held in memory while a bank is made
PIECE = 1024
PIECE_BYTES = 1 << 26

#: blocks of a piece on a GPU: each piece records its ascent, and a block is drawn while the one before is computed
GPU_BLOCKS = 8


def _steps_of_copies(given: object) -> str:
    """Steps, or steps with commas between them, as text in one form."""
    text = ",".join(map(str, given)) if isinstance(given, list | tuple) else str(given)
    try:
        steps = [int(part) for part in text.split(",")]
    except ValueError:
        steps = []
    if not steps or min(steps) < 1:
        raise ValueError("steps of at least 1, with commas between those of different copies (40, or 40,1)")
    return ",".join(map(str, steps))


class BankParams(Params):
    """copies: adversarial copies of every image in the bank, within eps (linf; 0: the task's default); bank_steps: PGD
    steps of a copy, of bank_step_size pixels (0: eps / 30, or eps / steps where that is more). Of several, with commas,
    copies take one each in turn. A copy of one step is FGSM's: it starts from its image, others at a random point of
    the ball. bank_size: how many training images (0: all); index: `flat` (exact) or `ivf` (for banks that do not fit
    in memory), which looks into `probes` lists a shard. bank_precision: what copies are made in;
    features are float32 in any case."""

    copies: int = Field(default=1, ge=1)
    bank_steps: Annotated[str, BeforeValidator(_steps_of_copies)] = "40"
    bank_step_size: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    eps: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    bank_size: int = Field(default=0, ge=0)
    index: IndexKind = "flat"
    probes: int = Field(default=16, ge=1)
    bank_precision: Precision = "float32"

    def bank_recipe(self) -> BankRecipe:
        given = [int(steps) for steps in self.bank_steps.split(",")]
        steps = tuple(given[copy % len(given)] for copy in range(self.copies))
        return BankRecipe(steps, self.bank_step_size, self.eps, self.bank_size, self.index, self.bank_precision)


def check_bank(params: Any, facts: TaskFacts, copies: int) -> None:
    """Raise `BadValue` if the bank of `params` is larger than the training set, has fewer rows than k, or steps for
    copies that are not made."""
    size = params.bank_size or facts.train_size
    if not facts.train_size:
        raise BadValue(f"{facts.name} has no training images, which the defense searches: give train=(images, labels).")
    if size > facts.train_size:
        raise BadValue(
            f"defense.bank_size is {size}, but {facts.name} has {facts.train_size} training images; give at most that."
        )
    if copies and (steps := params.bank_steps.count(",") + 1) > copies:
        raise BadValue(
            f"defense.bank_steps is {params.bank_steps}, but defense.copies is {copies}; give steps for at most that "
            f"many copies, or set defense.copies to {steps}."
        )
    rows = size * (1 + copies)
    if params.k > rows:
        raise BadValue(
            f"defense.k is {params.k}, but the bank of {facts.name} has {rows} rows ({size} images x {1 + copies}); "
            f"give at most that."
        )


@dataclass(frozen=True)
class BankRecipe:
    """PGD steps of every copy of an image; step size in pixels (0: see `BankParams`); radius eps in pixels (linf);
    size: how many training images (0: all); the kind of index; the precision that copies are made in."""

    steps: tuple[int, ...] = ()
    step_size: float = 0.0
    eps: float = 0.0
    size: int = 0
    index: IndexKind = "flat"
    precision: Precision = "float32"

    @property
    def copies(self) -> int:
        return len(self.steps)


class BankBuilder:
    """Makes the bank of one base in the cache, in pieces that any process can make, each bounded in memory."""

    def __init__(self, recipe: BankRecipe, task: Task, base: Base, context: Context) -> None:
        self.recipe = recipe
        self.task = task
        self.base = base
        self.context = context
        #: which training images are in the bank: the first `size` of a fixed order, so that a smaller bank is a part
        self.chosen = np.arange(task.facts.train_size)
        if recipe.size:
            self.chosen = np.sort(fixed_order("bank", task.facts.train_size)[: recipe.size])
        seed = context.seed if recipe.copies else 0  # without copies there are no draws
        self.key = digest([context.base_key, _SOURCE, seed, asdict(recipe)])
        self.inputs = {"base": context.base_key, "source": _SOURCE, "seed": seed, "recipe": asdict(recipe)}
        image_bytes = int(np.prod(task.facts.image_shape))
        piece = min(PIECE, PIECE_BYTES // image_bytes)
        self.piece = max(piece // BLOCK * BLOCK, BLOCK)
        #: images that copies are made of at a time, and that features are computed of
        self.block, self.part = BLOCK, self.piece
        if context.device.type == "cuda":
            self.block = self.part = max(piece, 1)
            self.piece = GPU_BLOCKS * self.block

    def missing(self) -> list[str]:
        """The missing pieces; [] for a small bank, which `build` makes at once."""
        count = len(self.chosen)
        if self.cache.has("banks", self.key) or not self.recipe.copies or count <= self.piece:
            return []
        names = [str(start) for start in range(0, count, self.piece)]
        return [name for name in names if not self.cache.has("pieces", f"{self.key}-{name}")]

    @property
    def cache(self) -> Cache:
        return self.context.cache

    def make_piece(self, name: str) -> Path:
        """Adversarial copies of the chosen images from number `name` on: (copies, rows, C, H, W) uint8."""

        def build(folder: Path) -> None:
            start = int(name)
            rows = self.chosen[start : start + self.piece]
            copies = [self._copies(rows, copy) for copy in range(self.recipe.copies)]
            np.save(folder / "images.npy", np.stack(copies))

        return self.cache.get_or_build("pieces", f"{self.key}-{name}", build, {**self.inputs, "from": int(name)})

    def _copies(self, rows: NDArray[np.int64], copy: int) -> NDArray[np.uint8]:
        """Copy number `copy` of some training images, (R, C, H, W): a block is fetched when the next one is drawn."""
        made: list[NDArray[np.uint8]] = []
        craft, waiting = self._crafting(), None
        for start in range(0, len(rows), self.block):
            block = rows[start : start + self.block].tolist()
            images = self.task.train_images[block]
            offset = self._offset(block, copy)
            if waiting is not None:
                made.append(self._stored(*waiting, copy))
            waiting = block, images, self._crafted(craft, images, block, offset, copy)
        if waiting is not None:
            made.append(self._stored(*waiting, copy))
        return np.concatenate(made)

    def _offset(self, block: list[int], copy: int) -> Tensor | None:
        """Where the copies of these images start, relative to them."""
        if self.recipe.steps[copy] == 1:
            return None
        draws = Draws(self.context.seed, f"bank copy {copy}", block)
        return random_offset(draws, self.task.facts.image_shape, self.recipe.eps, "linf")

    def _crafted(
        self, craft: Crafting, images: NDArray[np.uint8], block: list[int], offset: Tensor | None, copy: int
    ) -> Tensor:
        """The copies of a block, which a GPU is still computing."""
        recipe, x = self.recipe, self.task.pixels(images, self.context.device)
        y = torch.from_numpy(self.task.train_labels[block]).to(x.device)
        steps = recipe.steps[copy]
        return craft(x, y, recipe.eps, steps, recipe.step_size or max(recipe.eps / 30, recipe.eps / steps), offset)

    def _stored(self, block: list[int], images: NDArray[np.uint8], x_adv: Tensor, copy: int) -> NDArray[np.uint8]:
        stored = stored_towards(images, x_adv, self.task.pixel_scale)
        self.context.report(f"augmented set: copy {copy + 1}/{self.recipe.copies}, image {block[-1] + 1}")
        return stored

    def _crafting(self) -> Crafting:
        """What attacks theta_0 in the layout and the precision that copies are made in."""
        example = torch.zeros((1, *self.task.facts.image_shape), device=self.context.device)
        network = channels_last(freeze_norms(frozen_copy(self.base.network), example))
        return Crafting(network, self.recipe.precision, recorder_for(self.context.device))

    def build(self, probes: int = 0) -> Bank:
        """The bank, from the cache or made from its pieces. probes: how many lists of an `ivf` index are searched."""
        count = len(self.chosen)
        starts = range(0, count, self.piece)

        def assemble(folder: Path) -> None:
            total = count * (1 + self.recipe.copies)
            shape = (total, *self.task.facts.image_shape)
            with new_array(folder / "images.npy", np.uint8, shape) as write:
                for start in starts:
                    rows = self.chosen[start : start + self.piece]
                    write(start, self.task.train_images[rows])
                    if self.recipe.copies:
                        piece = np.load(self.make_piece(str(start)) / "images.npy")
                        for copy, part in enumerate(piece):
                            write(count * (1 + copy) + start, part)
            images = np.load(folder / "images.npy", mmap_mode="r")
            write_index(folder, self._features(images), self.recipe.index)

        folder = self.cache.get_or_build("banks", self.key, assemble, self.inputs)
        for start in starts:
            self.cache.drop("pieces", f"{self.key}-{start}")
        labels = np.tile(self.task.train_labels[self.chosen], 1 + self.recipe.copies)
        images = np.load(folder / "images.npy", mmap_mode="r")
        bank = Bank(images, labels, Neighbours.opened(folder, probes), count, self.task.pixel_scale)
        return bank.on_device(self.context.device) if self.recipe.index == "flat" else bank

    def _features(self, images: NDArray[np.uint8]) -> Iterator[NDArray[np.float32]]:
        """Features of all images of the bank, part by part."""
        for start in range(0, len(images), self.part):
            part = self.task.pixels(np.array(images[start : start + self.part]), self.context.device)
            yield features_of(self.base.network, part)

"""The augmented set D': the training images and adversarial copies of them, searchable by theta_0's features.

Rows 0..n-1 are the clean images; copy c of image i is row n * (1 + c) + i. Images are one uint8 array with the task's
pixel scale, memory-mapped from the cache; a copy is rounded towards its image, so that it stays in the ball.

Source: Wu, Yuan, Wu, ICML 2020, section on the augmented set (PGD copies made against the trained network).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field
from torch import Tensor, nn

from bench.cache import Cache, digest
from bench.contracts import BLOCK, Context, in_blocks
from bench.contracts.base import Base
from bench.data.task import Task, TaskFacts, fixed_order, to_pixels
from bench.draws import Draws
from bench.errors import BadValue
from bench.models.frozen import frozen_copy
from bench.models.layout import channels_last
from bench.norms import random_offset
from bench.pgd import pgd
from bench.source import module_hash
from bench.values import Params
from defenses.device_search import DeviceNeighbours, fits_beside
from defenses.frozen_norm import freeze_norms
from defenses.neighbours import IndexKind, Neighbours, Ranking, rank, write_index
from defenses.precision import InPrecision, Precision, computing

#: taken when the module is loaded, so that an edit during a long run does not split its bank
_SOURCE = module_hash(__name__)

#: most images of a piece, and most bytes of them: what is held in memory while a bank is made
PIECE = 1024
PIECE_BYTES = 1 << 26


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
        image_bytes = int(np.prod(task.facts.image_shape))
        piece = min(PIECE, PIECE_BYTES // image_bytes)
        self.piece = max(piece // BLOCK * BLOCK, BLOCK)
        #: images that copies are made of at a time: a GPU makes a piece at once
        self.block = BLOCK
        if context.device.type == "cuda":
            self.piece = self.block = max(piece, 1)

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

        return self.cache.get_or_build("pieces", f"{self.key}-{name}", build)

    def _copies(self, rows: NDArray[np.int64], copy: int) -> NDArray[np.uint8]:
        made, recipe = [], self.recipe
        steps = recipe.steps[copy]
        step_size = recipe.step_size or max(recipe.eps / 30, recipe.eps / steps)
        network = self._attacked_network()
        for start in range(0, len(rows), self.block):
            block = rows[start : start + self.block].tolist()
            images = self.task.train_images[block]
            x = self.task.pixels(images, self.context.device)
            y = torch.from_numpy(self.task.train_labels[block]).to(x.device)
            draws = Draws(self.context.seed, f"bank copy {copy}", block)
            offset = random_offset(draws, tuple(x.shape[1:]), recipe.eps, "linf") if steps > 1 else None
            with computing(recipe.precision):
                x_adv = pgd(network, x, y, eps=recipe.eps, steps=steps, step_size=step_size, offset=offset)
            made.append(stored_towards(images, x_adv, self.task.pixel_scale))
            self.context.report(f"augmented set: copy {copy + 1}/{recipe.copies}, image {block[-1] + 1}")
        return np.concatenate(made)

    def _attacked_network(self) -> nn.Module:
        """theta_0 in the layout and the precision that copies are made in."""
        example = torch.zeros((1, *self.task.facts.image_shape), device=self.context.device)
        network = freeze_norms(frozen_copy(self.base.network), example)
        return InPrecision(channels_last(network), self.recipe.precision)

    def build(self, probes: int = 0) -> Bank:
        """The bank, from the cache or made from its pieces. probes: how many lists of an `ivf` index are searched."""
        count = len(self.chosen)
        starts = range(0, count, self.piece)

        def assemble(folder: Path) -> None:
            total = count * (1 + self.recipe.copies)
            images = np.lib.format.open_memmap(
                folder / "images.npy", mode="w+", dtype=np.uint8, shape=(total, *self.task.facts.image_shape)
            )
            for start in starts:
                rows = self.chosen[start : start + self.piece]
                images[start : start + len(rows)] = self.task.train_images[rows]
                if self.recipe.copies:
                    piece = np.load(self.make_piece(str(start)) / "images.npy")
                    for copy, part in enumerate(piece):
                        first = count * (1 + copy) + start
                        images[first : first + len(part)] = part
            images.flush()
            write_index(folder, self._features(images), self.recipe.index)

        folder = self.cache.get_or_build("banks", self.key, assemble)
        for start in starts:
            shutil.rmtree(self.cache.path("pieces", f"{self.key}-{start}"), ignore_errors=True)
        labels = np.tile(self.task.train_labels[self.chosen], 1 + self.recipe.copies)
        images = np.load(folder / "images.npy", mmap_mode="r")
        bank = Bank(images, labels, Neighbours.opened(folder, probes), count, self.task.pixel_scale)
        return bank.on_device(self.context.device) if self.recipe.index == "flat" else bank

    def _features(self, images: NDArray[np.uint8]) -> Iterator[NDArray[np.float32]]:
        """Features of all images of the bank, part by part."""
        for start in range(0, len(images), self.piece):
            part = self.task.pixels(images[start : start + self.piece], self.context.device)
            yield features_of(self.base.network, part)


def features_of(network: nn.Module, x: Tensor) -> NDArray[np.float32]:
    """Features (N, D) of images x (N, C, H, W) in [0, 1], in padded blocks."""
    with torch.no_grad(), computing("float32"):
        features: NDArray[np.float32] = in_blocks(network.features, x).cpu().numpy()  # type: ignore[arg-type]
    return features


def stored_towards(images: NDArray[np.uint8], x_adv: Tensor, scale: int) -> NDArray[np.uint8]:
    """x_adv (N, C, H, W) in [0, 1] on the stored grid, each pixel rounded towards its pixel in `images`."""
    origin = torch.from_numpy(images).to(x_adv.device).double()
    stored = origin + (x_adv.double() * scale - origin).trunc_()
    return stored.to(torch.uint8).cpu().numpy()


@dataclass(frozen=True)
class Overlay:
    """Rows of a bank that were replaced. Never written in place: a replacement makes a new overlay.

    rows (R,) ascending int64; images (R, C, H, W) uint8; features (R, D) float32; hidden: a bitmap of `rows`.
    """

    rows: NDArray[np.int64]
    images: NDArray[np.uint8]
    features: NDArray[np.float32]
    hidden: NDArray[np.uint8]


@dataclass(frozen=True)
class Bank:
    """A frozen bank and what was replaced in it. Forks share both; a replacement is a new value.

    images (M, C, H, W) uint8; labels (M,) int64; clean: the first `clean` rows are the training set; resident: the
    images once more, on a device where they fit.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    index: Neighbours
    clean: int
    pixel_scale: int
    overlay: Overlay | None = None
    resident: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def on_device(self, device: torch.device, always: bool = False) -> Bank:
        """The bank with its features and images on the device, if both fit there (`device_search.fits_beside`)."""
        features = self.index.take(np.arange(1))
        if not (always or fits_beside(self.images.nbytes + len(self) * features.nbytes, device)):
            return self
        images = torch.from_numpy(np.array(self.images)).to(device)
        return replace(self, index=DeviceNeighbours(self.index, device), resident=images)

    def pixels(self, rows: NDArray[np.int64], device: torch.device) -> Tensor:
        """Images (k, C, H, W) float32 in [0, 1] of some rows, with the replaced ones."""
        if self.resident is None:
            return to_pixels(self.gather(rows), self.pixel_scale, device)
        images = self.resident.index_select(0, torch.from_numpy(rows).to(self.resident.device))
        if self.overlay is not None:
            where, place = self._replaced_among(rows)
            images[torch.from_numpy(where).to(images.device)] = torch.from_numpy(self.overlay.images[place]).to(images)
        return images.to(device).to(torch.float32).div_(self.pixel_scale)

    def histograms(self, query: NDArray[np.float32], k: int, classes: int) -> dict[str, list[int]]:
        """How many of the k nearest rows carry each label: of all rows now (D'), and of the training images (D)."""
        nearest = self._nearest_in_each(query, k)
        return {name: np.bincount(self.labels[ids], minlength=classes).tolist() for name, ids in nearest.items()}

    def shown(self, query: NDArray[np.float32], count: int) -> dict[str, tuple[Tensor, list[int]]]:
        """The nearest rows in D and in D', as images (count, C, H, W) in [0, 1] with their labels."""
        return {
            name: (torch.from_numpy(self.gather(ids)).float() / self.pixel_scale, self.labels[ids].tolist())
            for name, ids in self._nearest_in_each(query, count).items()
        }

    def _nearest_in_each(self, query: NDArray[np.float32], k: int) -> dict[str, NDArray[np.int64]]:
        nearest = {"D": self.index.search(query, k, below=self.clean).ids}
        if len(self) > self.clean:
            nearest["D'"] = self.search(query, k).ids
        return nearest

    def search(self, query: NDArray[np.float32], k: int) -> Ranking:
        """The k rows nearest to a query (D,), among the rows with the replaced ones."""
        overlay = self.overlay
        if overlay is None:
            return self.index.search(query, k)
        frozen = self.index.search(query, k, overlay.hidden)
        return frozen.merged(_nearest(overlay, query, k)).first(k)

    def gather(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Images (k, C, H, W) uint8 of some rows, with the replaced ones."""
        images = self.images[rows]
        if self.overlay is not None:
            where, place = self._replaced_among(rows)
            images[where] = self.overlay.images[place]
        return images

    def _replaced_among(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Which of some rows are replaced: their positions in `rows`, and their places in the overlay."""
        assert self.overlay is not None
        place = np.searchsorted(self.overlay.rows, rows).clip(max=len(self.overlay.rows) - 1)
        where = np.flatnonzero(self.overlay.rows[place] == rows)
        return where, place[where]

    def originals(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The clean row of each row."""
        return rows % self.clean

    def replaced(self, rows: NDArray[np.int64], images: NDArray[np.uint8], features: NDArray[np.float32]) -> Bank:
        """The bank with some rows (R,) replaced by images (R, C, H, W) with these features (R, D)."""
        old = self.overlay
        if old is not None:
            kept = ~np.isin(old.rows, rows)
            rows = np.concatenate([old.rows[kept], rows])
            images = np.concatenate([old.images[kept], images])
            features = np.concatenate([old.features[kept], features])
        return self.with_overlay(rows, images, features)

    def frozen(self) -> Bank:
        """The bank without replaced rows."""
        return replace(self, overlay=None)

    def with_overlay(self, rows: NDArray[np.int64], images: NDArray[np.uint8], features: NDArray[np.float32]) -> Bank:
        """The frozen bank with exactly these rows replaced."""
        order = np.argsort(rows, kind="stable")
        mask = np.zeros(-(-len(self) // 8) * 8, dtype=bool)
        mask[rows] = True
        hidden = np.packbits(mask, bitorder="little")
        return replace(self, overlay=Overlay(rows[order], images[order], features[order], hidden))


def _nearest(overlay: Overlay, query: NDArray[np.float32], k: int) -> Ranking:
    """The k nearest of the replaced rows: a float32 sieve, then float64."""
    rough = np.einsum("rd,rd->r", overlay.features, overlay.features) - 2 * overlay.features @ query
    fetch = min(k + 32, len(rough))
    near = np.argpartition(rough, fetch - 1)[:fetch]
    return rank(overlay.rows[near], overlay.features[near], query).first(k)

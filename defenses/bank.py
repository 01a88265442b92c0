"""The augmented set D': the training images and adversarial copies of them, searchable by theta_0's features.

Rows 0..n-1 are the clean images; copy c of image i is row n * (1 + c) + i. Images are one uint8 array with the task's
pixel scale, memory-mapped from the cache; a copy is rounded towards its image, so that it stays in the ball.

Source: Wu, Yuan, Wu, ICML 2020, section on the augmented set (PGD copies made against the trained network).
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.bases import Base
from bench.cache import Cache, digest
from bench.contracts import BLOCK, Context, in_blocks
from bench.data.task import Task
from bench.draws import Draws
from bench.pgd import pgd, random_offset
from bench.registry import module_hash
from defenses.neighbours import Neighbours, Ranking, rank

#: taken when the module is loaded, so that an edit during a long run does not split its bank
_SOURCE = module_hash(__name__)

#: training images whose copies are made as one piece
PIECE = 5000


@dataclass(frozen=True)
class BankRecipe:
    """copies per image; PGD steps and step size in pixels; radius eps in pixels (linf)."""

    copies: int
    steps: int = 40
    step_size: float = 0.0
    eps: float = 0.0


class BankBuilder:
    """Makes the bank of one base in the cache, in pieces that any process can make."""

    def __init__(self, recipe: BankRecipe, task: Task, base: Base, context: Context) -> None:
        self.recipe = recipe
        self.task = task
        self.base = base
        self.context = context
        seed = context.seed if recipe.copies else 0  # without copies nothing is drawn
        parts = [context.base_key, _SOURCE, seed]
        self.key = digest([*parts, recipe.copies, recipe.steps, recipe.step_size, recipe.eps])

    def missing(self) -> list[str]:
        """Pieces worth making apart; none for a small bank, which `build` makes in one go."""
        count = self.task.facts.train_size
        if self.cache.has("banks", self.key) or not self.recipe.copies or count <= PIECE:
            return []
        names = [str(start) for start in range(0, count, PIECE)]
        return [name for name in names if not self.cache.has("pieces", f"{self.key}-{name}")]

    @property
    def cache(self) -> Cache:
        return self.context.cache

    def make_piece(self, name: str) -> Path:
        """Adversarial copies of PIECE training images from `name` on: (copies, rows, C, H, W) uint8."""

        def build(folder: Path) -> None:
            start = int(name)
            rows = range(start, min(start + PIECE, self.task.facts.train_size))
            copies = [self._copies(rows, copy) for copy in range(self.recipe.copies)]
            np.save(folder / "images.npy", np.stack(copies))

        return self.cache.get_or_build("pieces", f"{self.key}-{name}", build)

    def _copies(self, rows: range, copy: int) -> NDArray[np.uint8]:
        made = []
        for start in range(rows.start, rows.stop, BLOCK):
            block = list(range(start, min(start + BLOCK, rows.stop)))
            images = self.task.train_images[block]
            x = self.task.pixels(images, self.context.device)
            y = torch.from_numpy(self.task.train_labels[block]).to(x.device)
            draws = Draws(self.context.seed, f"bank copy {copy}", block)
            offset = random_offset(draws, tuple(x.shape[1:]), self.recipe.eps, "linf")
            recipe = self.recipe
            x_adv = pgd(
                self.base.network, x, y, eps=recipe.eps, steps=recipe.steps, step_size=recipe.step_size, offset=offset
            )
            made.append(stored_towards(images, x_adv, self.task.pixel_scale))
            self.context.report(f"augmented set: copy {copy + 1}/{recipe.copies}, image {block[-1] + 1}")
        return np.concatenate(made)

    def build(self) -> Bank:
        """The bank, made from its pieces where the cache lacks it."""
        count = self.task.facts.train_size

        def assemble(folder: Path) -> None:
            total = count * (1 + self.recipe.copies)
            images = np.lib.format.open_memmap(
                folder / "images.npy", mode="w+", dtype=np.uint8, shape=(total, *self.task.facts.image_shape)
            )
            images[:count] = self.task.train_images
            if self.recipe.copies:
                for start in range(0, count, PIECE):
                    piece = np.load(self.make_piece(str(start)) / "images.npy")
                    for copy, part in enumerate(piece):
                        first = count * (1 + copy) + start
                        images[first : first + len(part)] = part
            images.flush()
            features = np.concatenate(
                [self._features(images[start : start + PIECE]) for start in range(0, total, PIECE)]
            )
            np.save(folder / "features.npy", features)

        folder = self.cache.get_or_build("banks", self.key, assemble)
        for start in range(0, count, PIECE):
            shutil.rmtree(self.cache.path("pieces", f"{self.key}-{start}"), ignore_errors=True)
        labels = np.tile(self.task.train_labels, 1 + self.recipe.copies)
        index = Neighbours(np.load(folder / "features.npy"))
        return Bank(np.load(folder / "images.npy", mmap_mode="r"), labels, index, count, self.task.pixel_scale)

    def _features(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return features_of(self.base.network, self.task.pixels(images, self.context.device))


def features_of(network: nn.Module, x: Tensor) -> NDArray[np.float32]:
    """Features (N, D) of images x (N, C, H, W) in [0, 1], in padded blocks."""
    with torch.no_grad():
        features: NDArray[np.float32] = in_blocks(network.features, x).cpu().numpy()  # type: ignore[arg-type]
    return features


def stored_towards(images: NDArray[np.uint8], x_adv: Tensor, scale: int) -> NDArray[np.uint8]:
    """x_adv (N, C, H, W) in [0, 1] on the stored grid, each pixel rounded towards its pixel in `images`."""
    delta = x_adv.double().cpu().numpy() * scale - images
    return (images + np.trunc(delta)).astype(np.uint8)


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

    images (M, C, H, W) uint8; labels (M,) int64; clean: the first `clean` rows are the training set.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    index: Neighbours
    clean: int
    pixel_scale: int
    overlay: Overlay | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def search(self, query: NDArray[np.float32], k: int) -> Ranking:
        """The k rows nearest to a query (D,), as the bank stands now."""
        overlay = self.overlay
        if overlay is None:
            return self.index.search(query, k)
        frozen = self.index.search(query, k, overlay.hidden)
        return frozen.merged(_nearest(overlay, query, k)).first(k)

    def gather(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Images (k, C, H, W) of some rows, as the bank stands now."""
        images = self.images[rows]
        if self.overlay is not None:
            place = np.searchsorted(self.overlay.rows, rows).clip(max=len(self.overlay.rows) - 1)
            replaced = self.overlay.rows[place] == rows
            images[replaced] = self.overlay.images[place[replaced]]
        return images

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
        """The bank with nothing replaced."""
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

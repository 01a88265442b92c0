"""The augmented set D': the training images and adversarial copies of them, searchable by theta_0's features.

Rows 0..n-1 are the clean images; copy c of image i is row n * (1 + c) + i. Images are one uint8 array with the task's
pixel scale, memory-mapped from the cache; a copy is rounded towards its image, so that it stays in the ball.

Source: Wu, Yuan, Wu, ICML 2020, section on the augmented set (PGD copies made against the trained network).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.contracts import in_blocks
from bench.data.task import to_pixels
from defenses.device_search import DeviceNeighbours, fits_beside
from defenses.neighbours import Neighbours, Ranking, rank
from defenses.precision import computing


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

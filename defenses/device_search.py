"""Exact nearest neighbours on a device: every distance in float64, order settled by (distance, id).

One query is searched at a time, so the work is one pass over the features, whatever the arithmetic: distances by a
matrix product would save nothing, and in float32 would lose digits where features are long and near each other.
Differences in float64 need no candidates and no second ranking; 100,000 x 512 features take about a millisecond on a
data-centre GPU, where faiss on one core takes 25.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from defenses.neighbours import Neighbours, Ranking

#: bytes of float64 differences that are held at a time
CHUNK_BYTES = 1 << 28
#: most of the device's free memory that a bank may take
SHARE_OF_FREE = 0.25


class DeviceNeighbours(Neighbours):
    """The rows of an index in memory of a device: same neighbours, in the same order.

    Rows are taken, and searched in batches for a proxy, as before: that is what the inner index is for.
    """

    def __init__(self, inner: Neighbours, device: torch.device) -> None:
        self._take(inner.shards)
        parts = [torch.from_numpy(np.array(shard.features)).to(device) for shard in inner.shards]
        self._features = torch.cat(parts)  # (M, D) float32
        self._hidden: tuple[NDArray[np.uint8], Tensor] | None = None

    def search(
        self, query: NDArray[np.float32], k: int, hidden: NDArray[np.uint8] | None = None, below: int | None = None
    ) -> Ranking:
        features = self._features if below is None else self._features[:below]
        squared = squared_distances(features, torch.from_numpy(query).to(features.device))
        if hidden is not None:
            squared.masked_fill_(self._mask(hidden), torch.inf)
        near, ids = squared.sort(stable=True)  # equal distances stay in the order of their rows
        near, ids = near[:k].cpu(), ids[:k].cpu()
        found = near < torch.inf
        return Ranking(ids[found].numpy(), near[found].numpy())

    def _mask(self, hidden: NDArray[np.uint8]) -> Tensor:
        """The bitmap as (M,) bool on the device; that of the last search is kept."""
        if self._hidden is None or self._hidden[0] is not hidden:
            bits = np.unpackbits(hidden, bitorder="little", count=len(self)).astype(bool)
            self._hidden = hidden, torch.from_numpy(bits).to(self._features.device)
        return self._hidden[1]


def squared_distances(features: Tensor, query: Tensor) -> Tensor:
    """Squared Euclidean distances (M,) float64 of features (M, D) float32 to a query (D,) float32."""
    rows = max(CHUNK_BYTES // (8 * max(features.shape[1], 1)), 1)
    exact = query.double()
    parts = [(part.double() - exact).square_().sum(dim=1) for part in features.split(rows)]
    return torch.cat(parts)


def fits_beside(bytes_needed: int, device: torch.device) -> bool:
    """Whether so many bytes may stay on the device: `SHARE_OF_FREE` of its free memory. Never on a CPU, where the
    mapped file is as near."""
    if device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return bytes_needed <= SHARE_OF_FREE * free

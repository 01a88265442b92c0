"""Nearest neighbours in feature space: exact search by faiss, order settled in float64.

Raw faiss ids differ between thread counts and between single and batched queries where distances are close, so a few
more are fetched and re-ranked by (distance in float64, id).
"""

from __future__ import annotations

import faiss
import numpy as np
from numpy.typing import NDArray

#: neighbours fetched beyond K, so that a tie at the border is settled by the re-ranking
SPARE = 32


class Neighbours:
    """An exact L2 index over features (M, D) float32, which it copies; `features` is its copy, never written."""

    def __init__(self, features: NDArray[np.float32]) -> None:
        rows, dim = features.shape
        self._index = faiss.IndexFlatL2(dim)
        self._index.add(features)
        self.features = faiss.rev_swig_ptr(self._index.get_xb(), rows * dim).reshape(rows, dim)

    def __len__(self) -> int:
        return len(self.features)

    def batch(self, queries: NDArray[np.float32], k: int) -> NDArray[np.int64]:
        """Rows (B, k) near each query (B, D), as faiss returns them: for a relaxation, not for an answer."""
        ids: NDArray[np.int64] = self._index.search(queries, min(k, len(self)))[1]
        return ids

    def search(self, query: NDArray[np.float32], k: int, hidden: NDArray[np.uint8] | None = None) -> Ranking:
        """The k nearest rows of one query (D,), nearest first. `hidden`: a bitmap of rows to leave out."""
        fetch = min(k + SPARE, len(self))
        parameters = None
        if hidden is not None:
            shown = faiss.IDSelectorNot(faiss.IDSelectorBitmap(len(hidden) * 8, faiss.swig_ptr(hidden)))
            parameters = faiss.SearchParameters(sel=shown)  # type: ignore[call-arg]  # faiss stubs lack it
        _, ids = self._index.search(query[None], fetch, params=parameters)
        found = ids[0][ids[0] >= 0]
        return rank(found, self.features[found], query).first(k)


class Ranking:
    """Rows by distance: ids (k,) int64 and squared distances (k,) float64, nearest first."""

    def __init__(self, ids: NDArray[np.int64], squared: NDArray[np.float64]) -> None:
        self.ids = ids
        self.squared = squared

    def first(self, k: int) -> Ranking:
        return Ranking(self.ids[:k], self.squared[:k])

    def merged(self, other: Ranking) -> Ranking:
        """Both rankings as one."""
        return _sorted(np.concatenate([self.ids, other.ids]), np.concatenate([self.squared, other.squared]))


def rank(ids: NDArray[np.int64], features: NDArray[np.float32], query: NDArray[np.float32]) -> Ranking:
    """Rows `ids` (k,) with these features (k, D) by (squared distance to the query (D,) in float64, id)."""
    delta = features.astype(np.float64) - query.astype(np.float64)
    return _sorted(ids, np.einsum("kd,kd->k", delta, delta))


def _sorted(ids: NDArray[np.int64], squared: NDArray[np.float64]) -> Ranking:
    order = np.lexsort((ids, squared))
    return Ranking(ids[order], squared[order])

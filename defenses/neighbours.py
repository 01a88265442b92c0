"""Nearest neighbours in feature space: search by faiss, order settled in float64.

Raw faiss ids differ between thread counts and between single and batched queries where distances are close, so a few
more are fetched and re-ranked by (distance in float64, id).

An index is a list of shards, each a file that is mapped and not read: what is searched stays in the page cache, shared
by all processes. `flat` is exact. `ivf` looks only into the lists whose centroids are nearest (`probes` a shard), for
banks that do not fit in memory; its answers may miss neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np
from numpy.typing import NDArray

#: neighbours fetched beyond K, so that a tie at the border is settled by the re-ranking
SPARE = 32
#: bytes of features in a shard: what building an index holds in memory
SHARD_BYTES = 1 << 28

IndexKind = Literal["flat", "ivf"]


@dataclass(frozen=True)
class _Shard:
    """Rows from `start` on: a faiss index, and their features (rows, D) float32, never written."""

    start: int
    index: Any
    features: NDArray[np.float32]


class Neighbours:
    """An L2 index over features (M, D) float32."""

    def __init__(self, features: NDArray[np.float32]) -> None:
        """An exact index in memory, over a copy of the features."""
        index = faiss.IndexFlatL2(features.shape[1])
        index.add(np.ascontiguousarray(features))
        self._take([_Shard(0, index, _flat_features(index))])

    def _take(self, shards: list[_Shard]) -> None:
        self.shards = shards
        self._starts = np.array([shard.start for shard in shards])
        self._rows = sum(len(shard.features) for shard in shards)

    @classmethod
    def opened(cls, folder: Path, probes: int = 0) -> Neighbours:
        """The index that `write_index` left in a folder, mapped into memory; probes: lists to look into, of `ivf`."""
        shards, start = [], 0
        for path in _files(folder):
            kept = path.with_suffix(".npy")
            if kept.exists():  # an ivf index does not keep the order of the rows
                index: Any = faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
                index.nprobe = max(probes, 1)
                features = np.load(kept, mmap_mode="r")
            else:
                index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
                features = _flat_features(index)
            shards.append(_Shard(start, index, features))
            start += len(features)
        found = object.__new__(cls)
        found._take(shards)
        return found

    def __len__(self) -> int:
        return self._rows

    def take(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Features (k, D) of some rows."""
        if len(self.shards) == 1:
            return self.shards[0].features[ids]
        where = np.searchsorted(self._starts, ids, side="right") - 1
        out = np.empty((len(ids), self.shards[0].features.shape[1]), np.float32)
        for number in np.unique(where):
            mine = where == number
            shard = self.shards[number]
            out[mine] = shard.features[ids[mine] - shard.start]
        return out

    def batch(self, queries: NDArray[np.float32], k: int) -> NDArray[np.int64]:
        """Rows (B, k) near each query (B, D) of an index in memory, as faiss returns them: not for an answer."""
        (shard,) = self.shards
        ids: NDArray[np.int64] = shard.index.search(queries, min(k, len(self)))[1]
        return ids

    def search(
        self, query: NDArray[np.float32], k: int, hidden: NDArray[np.uint8] | None = None, below: int | None = None
    ) -> Ranking:
        """The k nearest rows of one query (D,), nearest first.

        hidden: a bitmap of rows to leave out; below: only rows of smaller number than this. Give one at most.
        """
        found = []
        for shard in self.shards:
            rows = len(shard.features)
            shown: Any = None
            if hidden is not None:
                mine = hidden[shard.start // 8 : -(-(shard.start + rows) // 8)]
                shown = faiss.IDSelectorNot(faiss.IDSelectorBitmap(len(mine) * 8, faiss.swig_ptr(mine)))
            elif below is not None:
                rows = min(max(below - shard.start, 0), rows)
                shown = faiss.IDSelectorRange(0, rows)
            if rows:
                _, ids = shard.index.search(query[None], min(k + SPARE, rows), params=_parameters(shard.index, shown))
                found.append(ids[0][ids[0] >= 0] + shard.start)
        ids = np.concatenate(found) if found else np.empty(0, np.int64)
        return rank(ids, self.take(ids), query).first(k)


def _parameters(index: Any, selector: Any) -> Any:
    if selector is None:
        return None
    if isinstance(index, faiss.IndexIVF):
        return faiss.SearchParametersIVF(sel=selector, nprobe=index.nprobe)  # type: ignore[call-arg]
    return faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]  # faiss stubs lack it


def _flat_features(index: Any) -> NDArray[np.float32]:
    rows, dim = index.ntotal, index.d
    features: NDArray[np.float32] = faiss.rev_swig_ptr(index.get_xb(), rows * dim).reshape(rows, dim)
    features.flags.writeable = False
    return features


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("index-*.faiss"))


def shard_rows(dim: int) -> int:
    """Rows of a shard of D features: a multiple of 8, so that a bitmap can be cut between shards."""
    return max(SHARD_BYTES // (4 * dim) // 8 * 8, 8)


def write_index(folder: Path, features: Iterator[NDArray[np.float32]], kind: IndexKind) -> None:
    """Write an index over rows that come in parts (rows, D), shard by shard: one shard is in memory at a time."""
    number, held, rows = 0, [], 0
    for part in features:
        size = shard_rows(part.shape[1])
        while len(part):
            room = size - rows
            held.append(part[:room])
            rows, part = rows + len(part[:room]), part[room:]
            if rows == size:
                _write_shard(folder / f"index-{number:05d}.faiss", held, kind)
                number, held, rows = number + 1, [], 0
    if held:
        _write_shard(folder / f"index-{number:05d}.faiss", held, kind)


def _write_shard(path: Path, parts: Sequence[NDArray[np.float32]], kind: IndexKind) -> None:
    features = np.concatenate(parts)
    rows, dim = features.shape
    index: Any = faiss.IndexFlatL2(dim)
    if kind == "ivf":
        lists = max(math.isqrt(rows) // 2, 1)
        index = faiss.IndexIVFFlat(faiss.IndexFlatL2(dim), dim, lists)
        index.train(features[:: max(rows // (64 * lists), 1)])  # faiss's k-means starts from a fixed seed
        np.save(path.with_suffix(".npy"), features)
    index.add(features)
    faiss.write_index(index, str(path))


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

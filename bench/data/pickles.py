"""Pickles of plain arrays, read by an unpickler that makes only those. Verify the file's checksum first."""

from __future__ import annotations

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import DataError, one_line


class _Array:
    """Stands for the class of arrays, which nothing in a pickle may call: it would make one of any size."""


def _reconstruct(kind: object, shape: tuple[int, ...], letter: bytes) -> NDArray[Any]:
    """The empty array that a pickled one starts as; its state then brings type, shape and bytes, as many as it has."""
    if kind is not _ARRAY or shape != (0,):
        raise pickle.UnpicklingError(f"it begins an array of the shape {shape!r:.50}")
    return np.empty(0, np.int8)


_ARRAY = _Array()
#: what an array is rebuilt from, under the names of old and new versions of numpy
_ALLOWED = {
    ("numpy", "ndarray"): _ARRAY,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
}


class _Arrays(pickle.Unpickler):
    """Builds dicts, lists, bytes, numbers and numpy arrays. It refuses everything else, and imports nothing."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _ALLOWED[module, name]


def _check_memo(data: bytes) -> None:
    """Refuse a place in the memo that no pickle of this length has: the unpickler would fill memory up to there."""
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and not 0 <= int(argument or 0) < len(data):
            raise pickle.UnpicklingError(f"it numbers a value {argument}")


def read_arrays(path: Path) -> Any:
    """The value in a pickle of Python 2 (strings come as bytes); `DataError` if it holds more than plain values."""
    try:
        data = path.read_bytes()
        _check_memo(data)
        return _Arrays(io.BytesIO(data), encoding="bytes").load()
    except Exception as error:  # pickle's documentation: damaged bytes may raise anything
        raise DataError(f"{path} is no pickle of plain arrays ({one_line(error)}); fetch it again.") from None

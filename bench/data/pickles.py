"""Pickles of plain arrays, read by an unpickler that makes only those. Verify the file's checksum first."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from bench.errors import DataError, one_line

#: what an array is rebuilt from, under the names of old and new versions of numpy
_ALLOWED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): np.ndarray.__reduce__(np.empty(0))[0],
    ("numpy._core.multiarray", "_reconstruct"): np.ndarray.__reduce__(np.empty(0))[0],
}


class _Arrays(pickle.Unpickler):
    """Builds dicts, lists, bytes, numbers and numpy arrays. It refuses everything else, and imports nothing."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _ALLOWED[module, name]


def read_arrays(path: Path) -> Any:
    """The value in a pickle of Python 2 (strings come as bytes); `DataError` if it holds more than plain values."""
    try:
        return _Arrays(io.BytesIO(path.read_bytes()), encoding="bytes").load()
    except Exception as error:  # pickle's documentation: damaged bytes may raise anything
        raise DataError(f"{path} is no pickle of plain arrays ({one_line(error)}); fetch it again.") from None

"""Arrays that are larger than memory, written into a file part by part.

Through the file, not through a map of it: on a full disk a write into a map ends the process by a signal (SIGBUS),
and a write into the file is an error that the program can tell.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike, NDArray

from bench.cache import on_disk

#: is called with the number of a row and the rows from there on
WriteRows = Callable[[int, NDArray[np.generic]], None]


@contextmanager
def new_array(path: Path, dtype: DTypeLike, shape: tuple[int, ...]) -> Iterator[WriteRows]:
    """A new `.npy` file for an array of this shape. Within, rows are written in any order; each has to be written.

    `DiskError` where the disk does not take them.
    """
    kind = np.dtype(dtype)
    header = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
    row_bytes = kind.itemsize * int(np.prod(shape[1:]))
    with on_disk(path):
        file = path.open("wb", buffering=0)
    with file:
        with on_disk(path):
            np.lib.format.write_array_header_1_0(file, header)
        start = file.tell()

        def write(first: int, rows: NDArray[np.generic]) -> None:
            left = np.ascontiguousarray(rows, kind).reshape(-1).view(np.uint8).data
            with on_disk(path):
                file.seek(start + first * row_bytes)
                while len(left):
                    left = left[file.write(left) :]

        yield write
        with on_disk(path):
            os.fsync(file.fileno())

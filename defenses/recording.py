"""Work that is recorded once and repeated: a CUDA graph on a GPU.

A body is a function without arguments that reads and writes tensors at fixed places in memory. It must not read a value
on the host. To repeat it, copy new inputs into the same tensors and call what `record` returned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

Body = Callable[[], None]

#: runs before a recording: libraries choose their algorithms and workspaces in these
WARM_UP = 3


class Recorder(Protocol):
    """Records a body, and restores `touched`, the tensors that it changes, and the global generators."""

    def record(self, body: Body, touched: Sequence[Tensor]) -> Body:
        """What repeats the body."""


class CudaGraphs:
    """Records into CUDA graphs: one launch instead of hundreds.

    Warm-up and capture run on one stream of the recording's own, for two reasons. Capturing asks for a stream that is
    not the default one. And cuBLAS keeps a workspace per stream: recordings made on one stream would share it, and
    would write over each other's sums when they are repeated side by side. Gradients that the body makes live in the
    graph's memory.

    cuDNN tries its algorithms in the warm-up and keeps the fastest. Another process may choose others: on a GPU equal
    labels and logits within a tolerance are promised, not equal bits.
    """

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()

    def record(self, body: Body, touched: Sequence[Tensor]) -> Body:
        kept = [tensor.clone() for tensor in touched]
        here, graph = torch.cuda.current_stream(), torch.cuda.CUDAGraph()
        with _fastest_algorithms():
            self._stream.wait_stream(here)
            with torch.cuda.stream(self._stream), torch.random.fork_rng([here.device_index]):
                for _ in range(WARM_UP):
                    body()
            here.wait_stream(self._stream)
            copy_all(touched, kept)
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                body()
        return graph.replay


@contextmanager
def _fastest_algorithms() -> Iterator[None]:
    """Let cuDNN measure which of its algorithms is fastest."""
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


class Rehearsal:
    """Does what `CudaGraphs` does without a GPU: the warm-up, the way back, and then the body at every call."""

    def __init__(self) -> None:
        self.recorded = 0

    def record(self, body: Body, touched: Sequence[Tensor]) -> Body:
        kept = [tensor.clone() for tensor in touched]
        with torch.random.fork_rng([]):
            for _ in range(WARM_UP):
                body()
        copy_all(touched, kept)
        self.recorded += 1
        return body


def recorder_for(device: torch.device) -> Recorder | None:
    """Graphs on CUDA; None on other devices, where the work is done step by step."""
    return CudaGraphs() if device.type == "cuda" else None


@torch.no_grad()
def copy_all(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy tensors into others in place, those of one type together: a few launches instead of hundreds."""
    by_type: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
    for target, source in zip(targets, sources, strict=True):
        mine, theirs = by_type.setdefault(target.dtype, ([], []))
        mine.append(target)
        theirs.append(source)
    for mine, theirs in by_type.values():
        torch._foreach_copy_(mine, theirs)

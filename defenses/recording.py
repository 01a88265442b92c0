"""Work that is recorded once and repeated: a CUDA graph on a GPU.

A body is a function without arguments that reads and writes tensors which stay where they are; nothing in it may look
at a value on the host. Whoever records it copies new inputs into the same tensors and calls what `record` returned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

Body = Callable[[], None]

#: runs before a recording: libraries choose their algorithms and workspaces in these
WARM_UP = 3


class Recorder(Protocol):
    """Records a body, and leaves `touched`, the tensors that it changes, as they were."""

    def record(self, body: Body, touched: Sequence[Tensor]) -> Body:
        """What repeats the body."""


class CudaGraphs:
    """Records into CUDA graphs: one launch instead of hundreds.

    The warm-up runs on a stream of its own, as capturing asks for; gradients that the body makes live in the graph's
    memory.
    """

    def record(self, body: Body, touched: Sequence[Tensor]) -> Body:
        kept = [tensor.clone() for tensor in touched]
        here, side = torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(here)
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                body()
        here.wait_stream(side)
        copy_all(touched, kept)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            body()
        return graph.replay


class Rehearsal:
    """Does what `CudaGraphs` does without a GPU: the warm-up, the way back, and then the body at every call."""

    def __init__(self) -> None:
        self.recorded = 0

    def record(self, body: Body, touched: Sequence[Tensor]) -> Body:
        kept = [tensor.clone() for tensor in touched]
        for _ in range(WARM_UP):
            body()
        copy_all(touched, kept)
        self.recorded += 1
        return body


def recorder_for(device: torch.device) -> Recorder | None:
    """Graphs on CUDA; None elsewhere: the work is then done step by step."""
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

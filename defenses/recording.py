"""Work that is recorded once and repeated: a CUDA graph on a GPU.

A body is a function without arguments that reads and writes tensors at fixed places in memory. It must not read a value
on the host. To repeat it, copy new inputs into the same tensors and call what `record` returned.

Between convolutions a network adds, rectifies and casts, each in a pass over the maps. Generated code (torch.compile)
joins such passes: on an H200 an epoch of 8 steps on ResNet-18 in bfloat16 takes 18.0 ms with it and 24.8 without, a
step of PGD on 1024 images 7.4 and 9.8 (`benchmarks/gpu.py`). Generating it takes 4 to 17 s, so `Repeated` begins with
the code as it is written, and changes over once its process has repeated enough for the rest to be worth it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from defenses.precision import Precision, lowered

Body = Callable[[], None]

#: as `lowered`: a network, images (N, C, H, W) and a precision -> logits (N, K)
Forward = Callable[[nn.Module, Tensor, Precision], Tensor]

#: runs before a recording: libraries choose their algorithms and workspaces in these
WARM_UP = 3

#: repeats in a process after which generated code pays: about ten seconds of adaptation on an H200
PATIENCE = 4000


class Recorder(Protocol):
    """Records a body, and restores `touched`, the tensors that it changes, and the global generators."""

    def record(self, body: Body, touched: Sequence[Tensor]) -> Body:
        """What repeats the body."""

    def pays(self) -> bool:
        """Asked at each repeat: whether generated code pays from now on."""

    def generated(self, forward: Forward) -> Forward:
        """The same function, in code generated for the device."""


class Repeated:
    """A body that is recorded now, and once more with generated code when that pays. Call it to repeat the body.

    body_with: the body, made with `lowered` or with what does the same; touched: the tensors that the body changes.
    """

    def __init__(self, recorder: Recorder, body_with: Callable[[Forward], Body], touched: Sequence[Tensor]) -> None:
        self._recorder, self._body_with, self._touched = recorder, body_with, touched
        self._generated = False
        self._again = recorder.record(body_with(lowered), touched)

    def __call__(self) -> None:
        if not self._generated and self._recorder.pays():
            self._generated = True
            self._generate()
        self._again()

    def _generate(self) -> None:
        """Change over, or stay with what there is if this machine or this network does not allow it."""
        body = self._body_with(self._recorder.generated(lowered))
        try:
            self._again = self._recorder.record(body, self._touched)
        except (RuntimeError, OSError, ImportError) as error:  # all that torch.compile raises: no compiler, no Triton
            reason = " ".join(str(error).split()[:40])
            warnings.warn(
                f"torch.compile gave no code for the adaptation step ({type(error).__name__}: {reason}); it goes on "
                f"without, slower and to the same end.",
                RuntimeWarning,
                stacklevel=2,
            )


class CudaGraphs:
    """Records into CUDA graphs: one launch instead of hundreds.

    Warm-up and capture run on one stream of the recording's own, for two reasons. Capturing asks for a stream that is
    not the default one. And cuBLAS keeps a workspace per stream: recordings made on one stream would share it, and
    would write over each other's sums when they are repeated side by side. Gradients that the body makes live in the
    graph's memory.

    cuDNN tries its algorithms in the warm-up and keeps the fastest. Another process may choose others: on a GPU equal
    labels and logits within a tolerance are promised, not equal bits.
    """

    #: of all recorders of the process
    _repeats: ClassVar[int] = 0

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()

    def record(self, body: Body, touched: Sequence[Tensor]) -> Body:
        kept = [tensor.clone() for tensor in touched]
        here, graph = torch.cuda.current_stream(), torch.cuda.CUDAGraph()
        with _fastest_algorithms():
            try:
                self._stream.wait_stream(here)
                with torch.cuda.stream(self._stream), torch.random.fork_rng([here.device_index]):
                    for _ in range(WARM_UP):
                        body()
            finally:
                here.wait_stream(self._stream)
                copy_all(touched, kept)
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                body()
        return graph.replay

    def pays(self) -> bool:
        CudaGraphs._repeats += 1
        return CudaGraphs._repeats > PATIENCE

    def generated(self, forward: Forward) -> Forward:
        return compiled(forward, "inductor")


#: how many networks, shapes and kinds of gradient one function is compiled for in a process; torch's 8 are few
VERSIONS = 64


@cache
def compiled(forward: Forward, backend: str | Callable[..., Any]) -> Forward:
    """The function, compiled by torch for each kind of network and shape it is called with.

    One for the process, since a network's weights are inputs of the code: workspaces of one network share it.
    """
    dynamo: Any = torch._dynamo
    dynamo.config.recompile_limit = max(dynamo.config.recompile_limit, VERSIONS)
    function: Forward = torch.compile(forward, backend=backend, dynamic=False)
    return function


@contextmanager
def _fastest_algorithms() -> Iterator[None]:
    """Let cuDNN measure which of its algorithms is fastest."""
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


class Rehearsal:
    """Does what `CudaGraphs` does without a GPU: the warm-up, the way back, and then the body at every call.

    patience: repeats after which code is generated, by a backend of torch.compile that needs no compiler.
    """

    def __init__(self, patience: int = PATIENCE, backend: str | Callable[..., Any] = "aot_eager") -> None:
        self.recorded = 0
        self._left = patience
        self._backend = backend

    def record(self, body: Body, touched: Sequence[Tensor]) -> Body:
        kept = [tensor.clone() for tensor in touched]
        try:
            with torch.random.fork_rng([]):
                for _ in range(WARM_UP):
                    body()
        finally:
            copy_all(touched, kept)
        self.recorded += 1
        return body

    def pays(self) -> bool:
        self._left -= 1
        return self._left < 0

    def generated(self, forward: Forward) -> Forward:
        return compiled(forward, self._backend)


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

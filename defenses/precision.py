"""In which precision a network is adapted, trained or attacked: one place for all methods.

float32   every product in float32, on a GPU too (TF32 is off)
tf32      float32 tensors; a GPU may round the factors of matrix products and convolutions to 10 bits of mantissa. A CPU
          has no such unit: there it is float32
bfloat16  the forward pass under autocast: convolutions and matrix products in bfloat16 (7 bits of mantissa)

In each of them weights, Adam's moments, batch norm's statistics and the loss are float32. The precision is a parameter
of the method, so it is in the run's key and never follows from the device. What is measured (answers, features, the
judge's view) is computed under `computing("float32")` always.

Source of the scheme: Micikevicius et al.: Mixed Precision Training, ICLR 2018 (float32 master weights); bfloat16 has
float32's range, so losses need no scaling.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

Precision = Literal["float32", "tf32", "bfloat16"]


@contextmanager
def computing(precision: Precision) -> Iterator[None]:
    """TF32 is allowed inside for `tf32` alone, and is afterwards what it was before.

    The switches are global and read when an operation starts (or is recorded): no other thread may compute meanwhile.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def lowered(network: nn.Module, x: Tensor, precision: Precision) -> Tensor:
    """Output of the network for x (N, C, H, W), its forward pass in this precision; float32 for bfloat16 too.

    The gradients of x and of the weights come back in their own type.
    """
    if precision != "bfloat16":
        output: Tensor = network(x)
        return output
    with torch.autocast(x.device.type, torch.bfloat16):
        output = network(x)
    return output.float()


class InPrecision(nn.Module):
    """A network that computes in this precision when it is called: x (N, C, H, W) -> logits (N, K) float32."""

    def __init__(self, network: nn.Module, precision: Precision) -> None:
        super().__init__()
        self.network = network
        self.precision: Precision = precision

    def forward(self, x: Tensor) -> Tensor:
        return lowered(self.network, x, self.precision)

    def __getattr__(self, name: str) -> Any:
        if name == "features":  # what retrieval asks for is exact, whatever the network is attacked in
            return self.network.features
        return super().__getattr__(name)

"""A frozen batch norm is a scale and a shift, and after a convolution it is part of the convolution.

With running mean m and variance v held fixed, batch norm is y = s x + t with s = weight / sqrt(v + eps) and
t = bias - m s, per channel. Where x is the output of a convolution (or linear layer) with weights W and bias b, and
nothing else reads x, y is the output of the same layer with weights s W and bias s b + t. So no pass over the feature
maps is left: the gradients of W, b, weight and bias follow from those of s W and s b + t by the chain rule, over
tensors of the size of the weights. The function and its gradients are those of batch norm, up to rounding.

(Jacob et al.: Quantization and Training of Neural Networks, CVPR 2018, section 3.2, fold it in the same way.)
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _FrozenNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm with fixed statistics; `inside`: the layer before it does the work.

    fixed: 1 / sqrt(v + eps) and -m / sqrt(v + eps), (C,) each, computed once: they cost a GPU as many launches as a
    layer otherwise.
    """

    inside: bool
    fixed: tuple[Tensor, Tensor]

    def factors(self) -> tuple[Tensor, Tensor]:
        """Scale and shift per channel, (C,) each, differentiable in weight and bias."""
        scale, shift = self.fixed
        if self.weight is not None:
            scale, shift = self.weight * scale, self.weight * shift
        return scale, shift if self.bias is None else self.bias + shift

    def forward(self, x: Tensor) -> Tensor:
        if self.inside:
            return x
        scale, shift = self.factors()
        shape = (1, -1, *[1] * (x.dim() - 2))
        return torch.addcmul(shift.view(shape), x, scale.view(shape))

    def _check_input_dim(self, input: Tensor) -> None:
        """Any shape (N, C, ...)."""


class _Shifted(torch.autograd.Function):
    """Maps (N, C, H, W) plus a shift per channel (C,); the gradient of the shift is summed in float32, in two stages.

    One stage, which torch does for the bias of a convolution, was a seventh of an epoch on an H100: 37 us for maps of
    64 x 32 x 32 in bfloat16 with 128 images, 15 us in two.
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor, shift: Tensor) -> Tensor:
        ctx.kind = shift.dtype
        return maps + shift.to(maps.dtype).view(1, -1, 1, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        (gradient,) = gradients
        return gradient, channel_sums(gradient).to(ctx.kind)


def channel_sums(maps: Tensor, parts: int = 128) -> Tensor:
    """Sums (C,) of maps (N, C, H, W) over all but the channels, at least in float32."""
    rows = maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])
    parts = math.gcd(parts, len(rows))
    kind = torch.promote_types(maps.dtype, torch.float32)
    return rows.view(parts, len(rows) // parts, -1).sum(1, dtype=kind).sum(0)


class _FoldedConv2d(nn.Conv2d):
    """A convolution with the frozen norm behind it inside; the tuple keeps the norm from being its child."""

    norm: tuple[_FrozenNorm]

    def forward(self, input: Tensor) -> Tensor:
        scale, shift = self.norm[0].factors()
        bias = shift if self.bias is None else shift + self.bias * scale
        weight = self.weight * scale.view(-1, 1, 1, 1)
        if not input.is_cuda:
            return self._conv_forward(input, weight, bias)
        if torch.compiler.is_compiling():  # generated code sums in one pass with what comes before
            maps = self._conv_forward(input, weight, None)
            return maps + bias.to(maps.dtype).view(1, -1, 1, 1)
        shifted: Tensor = _Shifted.apply(self._conv_forward(input, weight, None), bias)
        return shifted


class _FoldedLinear(nn.Linear):
    """A linear layer with the frozen norm behind it inside."""

    norm: tuple[_FrozenNorm]

    def forward(self, input: Tensor) -> Tensor:
        scale, shift = self.norm[0].factors()
        bias = shift if self.bias is None else shift + self.bias * scale
        return linear(input, self.weight * scale.view(-1, 1), bias)


#: exact types only: a subclass may compute something else
_FOLDED: dict[type[nn.Module], type[nn.Module]] = {nn.Conv2d: _FoldedConv2d, nn.Linear: _FoldedLinear}
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def freeze_norms(network: nn.Module, example: Tensor) -> nn.Module:
    """Turn every batch norm with running statistics into its scale and shift, in place; returns the network.

    Names, order and identity of weights and buffers stay as they are. example (1, C, H, W): an image to see by one
    forward pass what each norm is given.
    """
    norms = [m for m in network.modules() if type(m) in _NORMS and cast(Any, m).running_var is not None]
    before = _layers_before(network, norms, example) if norms else {}
    for norm in norms:
        norm.__class__ = _FrozenNorm
        frozen = cast(_FrozenNorm, norm)
        assert frozen.running_var is not None and frozen.running_mean is not None
        spread = (frozen.running_var + frozen.eps).rsqrt()
        frozen.fixed = spread, -frozen.running_mean * spread
        layer = before.get(norm)
        frozen.inside = layer is not None
        if layer is not None:
            layer.__class__ = _FOLDED[type(layer)]
            cast(_FoldedConv2d, layer).norm = (frozen,)
    return network


def _layers_before(network: nn.Module, norms: list[nn.Module], example: Tensor) -> dict[nn.Module, nn.Module]:
    """The layer that each norm can be folded into: only that norm reads its output."""
    outputs: dict[int, nn.Module] = {}  # tensor -> the layer that gave it
    calls: Counter[nn.Module] = Counter()
    inputs: dict[nn.Module, int] = {}  # norm -> the tensor that it was given
    uses = _Uses()

    def gave(layer: nn.Module, given: Any, output: Tensor) -> None:
        calls[layer] += 1
        outputs[id(output)] = layer
        uses.alive.append(output)

    def given(norm: nn.Module, args: tuple[Tensor, ...]) -> None:
        calls[norm] += 1
        inputs[norm] = id(args[0])
        uses.alive.append(args[0])

    hooks = [m.register_forward_hook(gave) for m in network.modules() if type(m) in _FOLDED]
    hooks += [norm.register_forward_pre_hook(given) for norm in norms]
    training = network.training
    try:
        with torch.no_grad(), uses:
            network.eval()(example)
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    layers = {}
    for norm, tensor in inputs.items():
        layer = outputs.get(tensor)
        if layer is not None and calls[layer] == calls[norm] == 1 and uses.count[tensor] == 1:
            layers[norm] = layer
    return layers


class _Uses(TorchDispatchMode):
    """Counts by how many operations each tensor is read."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[int] = Counter()
        self.alive: list[Any] = []  # a tensor that is gone could give its number to another

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = tree_leaves((args, kwargs or {}))
        self.count.update(id(value) for value in given if isinstance(value, Tensor))
        output = func(*args, **(kwargs or {}))
        self.alive.append((given, output))
        return output

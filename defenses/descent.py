"""One step of Adam on a weighted cross-entropy: what adaptation and training have in common."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from defenses.precision import Precision, computing, lowered
from defenses.recording import Forward


@torch.enable_grad()  # the caller may have switched gradients off
def descend(
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    share: Tensor,
    precision: Precision,
    forward: Forward = lowered,
) -> Tensor:
    """Forward, backward, step; the loss, a scalar: cross-entropies of x (B, C, H, W), y (B,) weighted by share (B,).

    In the network's own mode. Weights, moments and the loss keep the type of `share`. forward: what calls the network.
    """
    with computing(precision):
        logits = forward(network, x, precision).to(share.dtype)
        loss = (cross_entropy(logits, y, reduction="none") * share).sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    return loss.detach()


def empty_moments(optimiser: torch.optim.Optimizer) -> list[Tensor]:
    """Give Adam (or AdamW, fused) its count and its two moments per weight before its first step.

    They keep their place in memory, so that recordings and copies can use them.
    """
    moments: list[Tensor] = []
    for group in optimiser.param_groups:
        for weight in group["params"]:
            state = {
                "step": torch.zeros((), dtype=torch.float32, device=weight.device),
                "exp_avg": torch.zeros_like(weight),
                "exp_avg_sq": torch.zeros_like(weight),
            }
            optimiser.state[weight] = state
            moments += state.values()
    return moments

"""Plain supervised training of a small network: the loop that train-time defenses share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from bench.contracts import Context
from bench.data.task import Task
from bench.draws import generator

LossOf = Callable[[nn.Module, Tensor, Tensor], Tensor]


def train(
    network: nn.Module,
    task: Task,
    context: Context,
    *,
    epochs: int,
    batch_size: int,
    lr: float,
    loss_of: LossOf,
) -> None:
    """Train in place with Adam and a one-cycle rate; order of epoch e is a function of (context.seed, e).

    loss_of(network, x, y): scalar loss of a batch x (B, C, H, W) in [0, 1], y (B,).
    """
    device = context.device
    images = torch.from_numpy(task.train_images)
    labels = torch.from_numpy(task.train_labels)
    count = len(labels)
    steps = -(-count // batch_size)
    optimiser = torch.optim.Adam(network.parameters(), lr=lr, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=lr * 2, total_steps=max(epochs * steps, 2), cycle_momentum=False
    )
    network.train()
    for epoch in range(epochs):
        order = torch.randperm(count, generator=generator(context.seed, "training order", epoch))
        total = 0.0
        for start in range(0, count, batch_size):
            rows = order[start : start + batch_size]
            x = images[rows].to(device).to(torch.float32).div_(task.pixel_scale)
            y = labels[rows].to(device)
            loss = loss_of(network, x, y)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
            total += float(loss.detach()) * len(rows)
        context.report(f"epoch {epoch + 1}/{epochs}, loss {total / count:.4f}")
    network.eval()

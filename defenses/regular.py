"""`regular`: a network trained on clean images with the cross-entropy; theta_0 of everything else."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn

from bench.bases import Base
from bench.contracts import Context
from bench.data.task import Task
from bench.params import Params
from defenses.training import train


class BaseParams(Params):
    """model: a registered network, or `auto`; epochs, batch_size and lr of Adam."""

    model: str = "auto"
    epochs: int = Field(default=5, ge=1)
    batch_size: int = Field(default=128, ge=1)
    lr: float = Field(default=1e-3, gt=0, allow_inf_nan=False)


class Regular(Base):
    """Clean training."""

    Params: ClassVar[type[Params]] = BaseParams

    def train(self, task: Task, network: nn.Module, context: Context) -> None:
        params = self.params
        train(
            network,
            task,
            context,
            epochs=params.epochs,
            batch_size=params.batch_size,
            lr=params.lr,
            loss_of=_cross_entropy,
        )


def _cross_entropy(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(network(x), y)

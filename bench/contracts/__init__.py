"""The contracts, each of which fits on a card: `Defense`, `Base`, `Attack`."""

from bench.contracts.attack import Attack, Effort
from bench.contracts.defense import (
    BLOCK,
    BatchDefense,
    Context,
    Defense,
    DefenseInfo,
    Kind,
    OnlineDefense,
    StaticDefense,
    checked_logits,
    in_blocks,
    labels_of,
    probe,
    shallow_fork,
    with_refusal,
)

__all__ = [
    "BLOCK",
    "Attack",
    "BatchDefense",
    "Context",
    "Defense",
    "DefenseInfo",
    "Effort",
    "Kind",
    "OnlineDefense",
    "StaticDefense",
    "checked_logits",
    "in_blocks",
    "labels_of",
    "probe",
    "shallow_fork",
    "with_refusal",
]

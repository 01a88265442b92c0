"""Values that plug-ins use: `Params`, the base class of all parameters, and `State`, the state of a defense."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from torch import Tensor


class Params(BaseModel):
    """Parameters of a plug-in. Each needs a default; unknown names are refused; values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


@dataclass
class State:
    """All that an answer of a defense may change: tensors by name, and facts that JSON can hold."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

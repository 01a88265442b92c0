"""What plug-ins are made of: `Params`, the base of every set of parameters, and `State`, what a defense may change."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict
from torch import Tensor


class Params(BaseModel):
    """Parameters of a plug-in: every one has a default, unknown ones are refused, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


@dataclass
class State:
    """All that an answer may change: tensors by name, and facts that JSON can hold."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

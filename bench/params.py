"""What the parameters of every plug-in and dataset are made from."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Params(BaseModel):
    """Parameters of a plug-in: every one has a default, unknown ones are refused, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

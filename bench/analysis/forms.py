"""The form of a stored summary. What stands in a database may be anything, so it is held against this first."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Number = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
#: of a part that only some runs have; where it is there, it is not null
Missing: Any = Field(default=None)
#: figures that only come together
TOGETHER = (("false_rejections", "detection_rate"), ("uncut_accuracy", "median_distance"))


class Form(BaseModel):
    """A part of a summary: no other names, and no value of another type."""

    model_config = ConfigDict(extra="forbid", strict=True)


class EstimateForm(Form):
    value: Share
    low: Share
    high: Share
    method: str
    within_trials: EstimateForm = Missing


class SecondsForm(Form):
    attack: Number
    defense: Number
    harness: Number
    total: Number


class LedgerForm(Form):
    forwards: int
    backwards: int
    queries: int
    simulated: int
    adaptation_steps: int
    background_steps: int


class FlagForm(Form):
    id: str
    value: Number
    message: str


class RedrawsForm(Form):
    values: list[Share]
    mean: Share
    spread: Number
    worst: Share


class ResubmissionForm(Form):
    times: int
    average: Share
    worst: Share
    after: dict[str, Share]
    clean_average: Share
    clean_worst: Share


class DifferenceForm(Form):
    value: Number
    low: Number
    high: Number
    p_value: Number
    only_a: int
    only_b: int
    method: str


class MomentForm(Form):
    served: int
    sent: int
    instant: Number
    cumulative: Number


class HarmForm(Form):
    lost: DifferenceForm
    moments: list[MomentForm] = Field(min_length=1)


class FiguresForm(Form):
    """What `bench.analysis.figures.figures_of` gives."""

    clean_accuracy: EstimateForm | None
    robust_accuracy: EstimateForm | None
    false_rejections: EstimateForm | None = Missing
    detection_rate: EstimateForm | None = Missing
    violations: int
    seconds: SecondsForm
    answer_s: Number | None
    answer_p95_s: Number | None
    probe_s: Number | None
    ledger: LedgerForm
    flags: list[FlagForm]
    redraws: RedrawsForm = Missing
    resubmission: ResubmissionForm = Missing
    harm: HarmForm = Missing
    uncut_accuracy: EstimateForm | None = Missing
    median_distance: Number | None = Missing

    @model_validator(mode="after")
    def _pairs(self) -> FiguresForm:
        for one, other in TOGETHER:
            if (one in self.model_fields_set) != (other in self.model_fields_set):
                raise ValueError(f"{one} comes with {other}")
        return self


class OutcomesForm(Form):
    """What `bench.analysis.answered.Answered.to_json` gives: of each example its index, its game, and 1 for right."""

    index: list[int]
    game: list[int]
    right: Annotated[str, Field(pattern=r"^[01]*$")]
    shared: str

    @model_validator(mode="after")
    def _lengths(self) -> OutcomesForm:
        if not len(self.index) == len(self.game) == len(self.right):
            raise ValueError("the examples have different numbers of facts")
        return self


def has_form(form: type[Form], value: Any) -> bool:
    """Whether a value read from a database has this form."""
    try:
        form.model_validate(value)
    except ValidationError:
        return False
    return True

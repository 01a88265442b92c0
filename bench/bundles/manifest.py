"""The form of a bundle: `manifest.json`, and a line of rows. `docs/bundle.schema.json` is made from it.

| member                      | holds                                                                     |
|-----------------------------|---------------------------------------------------------------------------|
| `manifest.json`             | what the runs are, and the sha256 and the size of every other member      |
| `rows/KEY.jsonl`            | the rows of a run by game and position, one JSON object a line            |
| `images/SHA256.safetensors` | proposed images of consecutive rows: `images`, float32 (rows, C, H, W)    |
| `plugins/SHA256.py`         | the source of a plug-in file that a run was played with                   |
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.norms import Norm

#: the name and the number of this form; another number means that an older program cannot read it
FORMAT, VERSION = "adversarial-game-bench bundle", 1

Hex = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Short = Annotated[str, Field(max_length=200)]
Text = Annotated[str, Field(max_length=4000)]
Count = Annotated[int, Field(ge=0, lt=2**53)]
Small = Annotated[int, Field(ge=0, lt=2**31)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Answer = Annotated[int, Field(ge=-1, lt=2**31)]


class Form(BaseModel):
    """A part of a bundle: no other names, and no value of another type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class FileForm(Form):
    """A member of the zip."""

    sha256: Hex
    bytes: Count


class GameForm(Form):
    """A game that was played to its end.

    chain  the last link of a chain over its rows: each link is the sha256 of the one before and of the row without its
           seconds, so that the same game played again has the same one
    """

    game: Small
    rows: Small
    attack_s: Seconds
    defense_s: Seconds
    wall_s: Seconds
    background_answers: Count
    background_steps: Count
    background_s: Seconds
    background_delays: list[Seconds] | None
    flags: dict[Short, Text]
    chain: Hex


class ImagesForm(Form):
    """The member with the proposed images of `count` rows of a game, from position `start` on."""

    game: Small
    start: Small
    count: Annotated[int, Field(ge=1, lt=2**31)]
    file: Hex


class DataForm(Form):
    """The dataset: its name and the hash of its content after its parameters are applied."""

    name: Short
    sha256: Hex | Short


class WeightsForm(Form):
    """Hashes of networks.

    network  of the network's code and of its weights file, as it enters the key
    base     of the tensors of the trained base, as the environment of the run gives them; "" where they are not known
    fit      of the tensors of the fitted defense, likewise
    """

    network: Short
    base: Hex | Literal[""]
    fit: Hex | Literal[""]


class EstimateForm(Form):
    """A share with its 95 % interval."""

    value: Share
    low: Share
    high: Share
    method: Short


class MetricsForm(Form):
    """What the sender computed from the rows; it is computed again and compared."""

    examples: Small
    clean_accuracy: EstimateForm | None
    robust_accuracy: EstimateForm | None
    uncut_accuracy: EstimateForm | None
    median_distance: Number | None
    violations: Small
    flags: list[Short]


class MadeForm(Form):
    """Where and when the rows were made. host is a hash: it says which runs are of one machine, and no name."""

    environment: dict[Short, Short]
    host: Short
    cores: Small | None
    processor: Short
    python: Short
    versions: dict[Short, Short]
    commit: Short
    started: Short


class RunForm(Form):
    """A finished run.

    key    sha256 of the parameters; see `bench.planning.spec.RunSpec.key`
    spec   every parameter, as `bench show RUN --json` has it, with file names in place of paths
    threat the threat model and the game in words
    clean  key of the paired run of the attack `clean`, which stands in the bundle too; null where the rows of this run
           hold the clean answers
    """

    key: Hex
    spec: dict[str, Any]
    threat: Text
    clean: Hex | None
    created: Seconds
    finished: Seconds
    made: MadeForm
    data: DataForm
    weights: WeightsForm
    metrics: MetricsForm
    games: Annotated[list[GameForm], Field(min_length=1, max_length=10_000)]
    images: list[ImagesForm]


class PluginForm(Form):
    """A plug-in of a run that the program does not bring.

    origin  file, program (a script or a notebook registered it) or the name and the version of an installed package
    file    the sha256 of its source, which is the member plugins/SHA256.py; "" where there is no source
    """

    what: Literal["defense", "attack", "dataset", "model", "protocol"]
    name: Short
    origin: Short
    file: Hex | Literal[""]


class Manifest(Form):
    """What a bundle holds."""

    format: Literal["adversarial-game-bench bundle"]
    version: Literal[1]
    bench: Short
    runs: Annotated[list[RunForm], Field(min_length=1, max_length=1000)]
    plugins: Annotated[list[PluginForm], Field(max_length=1000)]
    files: dict[str, FileForm]


class RowForm(Form):
    """The facts of one example: the fields of `bench.rows.Row`. A distance that is not finite is null."""

    game: Small
    position: Small
    index: Small
    label: Small
    answer: Answer
    clean_answer: Answer | None
    distances: dict[Norm, Annotated[float, Field(ge=0, allow_inf_nan=False)] | None]
    violation: Text
    x_sha256: Hex
    adv_sha256: Hex
    forwards: Count
    backwards: Count
    queries: Count
    simulated: Count
    adaptation_steps: Count
    believed: bool | None
    fooled_inside: bool | None
    attack_s: Seconds
    defense_s: Seconds
    neighbours: dict[Short, Annotated[list[Count], Field(max_length=100_000)]] | None
    resent: dict[Literal["attacked", "clean"], Annotated[list[Answer], Field(max_length=10_000)]] | None
    poison: bool


def schema() -> dict[str, Any]:
    """The JSON schema of `manifest.json`; a line of rows is `$defs/RowForm`."""
    made = Manifest.model_json_schema()
    rows = RowForm.model_json_schema(ref_template="#/$defs/{model}")
    made["$defs"].update({**rows.pop("$defs", {}), "RowForm": rows})
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}


def schema_error(error: ValidationError) -> str:
    """The first thing that is wrong, on one line: where, what, and what was given."""
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part)[:40] for part in first["loc"]) or "the whole"
    given = repr(first.get("input"))
    more = f"; {error.error_count() - 1} more" if error.error_count() > 1 else ""
    return f"{place}: {first['msg'][:200]}, given {given if len(given) <= 60 else given[:57] + '...'}{more}"

"""Configuration: defaults.toml, then the bench.toml in use; unknown keys are refused with the nearest name."""

from __future__ import annotations

import json
import math
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from bench.deadline import parse_duration
from bench.errors import BadValue, UnknownName, one_line
from bench.threat import Tier

DEFAULTS = Path(__file__).with_name("defaults.toml")

#: the head of a user's copy of the defaults, instead of the head of defaults.toml
HEAD = """\
# A copy of the defaults of the harness, with what each means. Edit it: keys that stand here override the defaults,
# --set KEY=VALUE overrides both. Unknown keys are refused. Keys that you delete keep their default.
# It is read in its own folder, and elsewhere with --config FILE; defenses/*.py and attacks/*.py beside it are plug-ins.
"""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class RunDefaults(_Section):
    dataset: str
    base: str
    n: int
    seed: int


class StoreSection(_Section):
    """db: the database. shared: folder or URL of the artefacts that several machines share; "": each has its own."""

    db: str
    shared: str = ""


class RunnerSection(_Section):
    """How runs are executed; no key enters a run's key."""

    workers: int = Field(ge=0)
    chunk: int = Field(ge=1)
    checkpoint_s: float = Field(gt=0)
    limit: str = ""
    engine: Literal["local", "ray"] = "local"
    address: str = ""
    gpus_per_worker: float = Field(default=1.0, gt=0)
    retries: int = Field(default=-1, ge=-1)

    @property
    def silent_s(self) -> float:
        """The limit in seconds; without one infinity. `BadValue` where it is no time."""
        return parse_duration("runner.limit", self.limit) if self.limit else math.inf


def _https(address: str) -> str:
    """`address` if a page may link to it."""
    if address and not address.startswith("https://"):
        raise ValueError("give an address that starts with https://, or nothing")
    return address


class SiteSection(_Section):
    """What the pages of the leaderboard say of themselves, and which attacks their rankings are over.

    battery: by tier, the attacks that a defense must have met to be ranked
    """

    name: str = Field(min_length=1)
    documents: Annotated[str, AfterValidator(_https)]
    repository: Annotated[str, AfterValidator(_https)]
    battery: dict[Tier, Annotated[list[str], Field(min_length=1)]]


class SuiteOver(_Section):
    """Values laid over every cell of another suite: lists and numbers replace those of the cell, `set` is merged."""

    defense: list[str] = []
    attack: list[str] = []
    base: list[str] = []
    dataset: list[str] = []
    eps: list[float | str] = []
    norm: str = ""
    seed: list[int] = []
    n: int | None = None
    repeats: int | None = None
    set: dict[str, Any] = {}


class SuiteCell(SuiteOver):
    """One cross product of a suite. `cross` has lists of values by dotted key: every combination is a run."""

    defense: list[str]
    attack: list[str]
    cross: dict[str, list[Any]] = {}


#: names by which a table selects runs, besides dotted keys of the sections
RUN_NAMES = ("defense", "base", "attack", "dataset", "eps", "norm")
RUN_SECTIONS = ("defense", "base", "attack", "dataset", "game", "threat")


def _known_facts(where: dict[str, Any]) -> dict[str, Any]:
    """`where` if every key is the name of something that a run has."""
    for key in where:
        section, _, name = key.partition(".")
        if not (section in RUN_SECTIONS if name else key in RUN_NAMES):
            raise ValueError(f"a run has no {key!r}; it has {', '.join(RUN_NAMES)}, and keys such as threat.delay")
    return where


Where = Annotated[dict[str, Any], AfterValidator(_known_facts)]


class TableColumn(_Section):
    """A column of a suite's table: the runs in it (see `bench.analysis.report`).

    kind  run: one run. worst: the worst case over all attacked runs that fit, per example. gain: that worst case less
          the one of the base alone, over the suite's runs of it
    """

    title: str
    where: Where = {}
    kind: Literal["run", "worst", "gain"] = "run"


class TableRow(_Section):
    """A row of a suite's table, with the published figure for each column (accuracy in percent, or "-")."""

    title: str
    where: Where
    paper: list[float | Literal["-"]] = []


class SuiteTable(_Section):
    """The layout of a suite's runs beside published figures."""

    source: str = ""
    columns: list[TableColumn]
    rows: list[TableRow]

    @model_validator(mode="after")
    def _as_wide(self) -> SuiteTable:
        for row in self.rows:
            if row.paper and len(row.paper) != len(self.columns):
                raise ValueError(f"row {row.title!r} has {len(row.paper)} figures for {len(self.columns)} columns")
        return self


class Suite(_Section):
    """A named set of runs.

    cells_of, over  another suite, whose cells follow this suite's own, and what is laid over them
    table_of        another suite whose table this one's runs are laid out in
    where           what all runs in its report have; other runs may have been asked for under the suite's name
    """

    summary: str = ""
    cells: list[SuiteCell] = []
    cells_of: str = ""
    over: SuiteOver = SuiteOver()
    table: SuiteTable | None = None
    table_of: str = ""
    where: Where = {}


class Config(_Section):
    """The merged configuration. The open sections hold values by plug-in name and are checked when they are used."""

    run: RunDefaults
    store: StoreSection
    runner: RunnerSection
    site: SiteSection
    game: dict[str, Any]
    dataset: dict[str, dict[str, Any]]
    base: dict[str, dict[str, Any]]
    defense: dict[str, dict[str, Any]]
    attack: dict[str, dict[str, Any]]
    recipe: dict[str, dict[str, dict[str, Any]]]
    suite: dict[str, Suite]


def find(given: str | None) -> Path | None:
    """The bench.toml in use: `--config FILE`, else the one in the working directory, else None."""
    if given is not None:
        path = Path(given)
        if not path.is_file():
            raise BadValue(f"The configuration {given!r} does not exist; give --config the path of a bench.toml.")
        return path
    path = Path("bench.toml")
    return path if path.is_file() else None


def starter(db: str | None = None) -> str:
    """The text of a new bench.toml: all defaults and what each means, under `HEAD`. db: another database."""
    _, gap, rest = DEFAULTS.read_text(encoding="utf-8").partition("\n\n")
    if db is not None:
        rest = re.sub(r"^db = .*$", lambda _: f"db = {json.dumps(db, ensure_ascii=False)}", rest, count=1, flags=re.M)
    return HEAD + gap[1:] + rest


def load(path: Path | None) -> Config:
    """The defaults with the file's keys over them."""
    merged = read_toml(DEFAULTS)
    where = "defaults.toml"
    if path is not None:
        merge(merged, read_toml(path))
        where = str(path)
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        raise validation_error(error, Config, where) from None


def read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise BadValue(f"{path} is nested too deeply; no key of bench.toml is deeper than three tables.") from None
    except ValueError as error:  # no TOML, no UTF-8, a number of thousands of digits
        raise BadValue(f"{path} is no TOML file: {one_line(error)}") from None
    except OSError as error:
        raise BadValue(f"{path} cannot be read: {error.strerror}") from None


def merge(into: dict[str, Any], values: dict[str, Any]) -> None:
    """Merge `values` into `into`, table by table; values win."""
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = value


def validation_error(error: ValidationError, model: type[BaseModel], where: str) -> Exception:
    """pydantic's first complaint as one line: the key, what was given, what it takes."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return UnknownName(f"key of {where}", key, _siblings(model, first["loc"]))
    given = first.get("input")
    return BadValue(f"{key} in {where} is {given!r}: {first['msg']}.")


def _siblings(model: type[BaseModel], loc: tuple[Any, ...]) -> list[str]:
    """Full names of the keys that stand beside the one at `loc`."""
    prefix: list[str] = []
    for part in loc[:-1]:
        annotation = model.model_fields[str(part)].annotation if str(part) in model.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            break
        model = annotation
        prefix.append(str(part))
    return [".".join([*prefix, name]) for name in model.model_fields]

"""The tables, as SQLAlchemy mappings. A change here needs a migration; a test compares the two."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, Float, ForeignKey, Index, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Table(DeclarativeBase):
    type_annotation_map = {dict[str, Any]: JSON}  # noqa: RUF012  (SQLAlchemy's own form)


class RunRow(Table):
    """A run. While it is RUNNING, `host`, `pid`, `process_start` and `heartbeat` are its lease.

    origin: of a run that came in a bundle, see `bench.store.runs.RunRecord`; null: it was played with this database.
    """

    __tablename__ = "runs"

    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    status: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str] = mapped_column(Text, default="")
    detail: Mapped[str] = mapped_column(Text, default="")
    spec: Mapped[dict[str, Any]]
    defense: Mapped[str] = mapped_column(String(200))
    base: Mapped[str] = mapped_column(String(200))
    attack: Mapped[str] = mapped_column(String(200))
    dataset: Mapped[str] = mapped_column(String(200))
    clean_key: Mapped[str | None] = mapped_column(String(64))
    provenance: Mapped[dict[str, Any]]
    host: Mapped[str] = mapped_column(String(200), default="")
    pid: Mapped[int] = mapped_column(default=0)
    process_start: Mapped[float] = mapped_column(Float(53), default=0.0)
    heartbeat: Mapped[float] = mapped_column(Float(53), default=0.0)
    created: Mapped[float] = mapped_column(Float(53))
    finished: Mapped[float | None] = mapped_column(Float(53))
    origin: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))

    __table_args__ = (Index("runs_by_cell", "dataset", "defense", "attack"),)


class GameRow(Table):
    """How far a game has come: committed rows, points served, and the digest of the state after them."""

    __tablename__ = "games"

    run: Mapped[str] = mapped_column(ForeignKey("runs.key", ondelete="CASCADE"), primary_key=True)
    game: Mapped[int] = mapped_column(primary_key=True)
    rows: Mapped[int] = mapped_column(default=0)
    served: Mapped[int] = mapped_column(default=0)
    digest: Mapped[str] = mapped_column(String(64), default="")
    done: Mapped[bool] = mapped_column(default=False)
    attack_s: Mapped[float] = mapped_column(Float(53), default=0.0)
    defense_s: Mapped[float] = mapped_column(Float(53), default=0.0)
    wall_s: Mapped[float] = mapped_column(Float(53), default=0.0)
    background_answers: Mapped[int] = mapped_column(default=0)
    background_steps: Mapped[int] = mapped_column(default=0)
    background_s: Mapped[float] = mapped_column(Float(53), default=0.0)
    background_delays: Mapped[list[float] | None] = mapped_column(JSON(none_as_null=True))
    flags: Mapped[dict[str, Any]] = mapped_column(default=dict)


class ExampleRow(Table):
    """The facts of one example; the columns are those of `bench.rows.Row`."""

    __tablename__ = "examples"

    run: Mapped[str] = mapped_column(ForeignKey("runs.key", ondelete="CASCADE"), primary_key=True)
    game: Mapped[int] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    index: Mapped[int]
    label: Mapped[int]
    answer: Mapped[int]
    clean_answer: Mapped[int | None]
    distances: Mapped[dict[str, Any]]
    violation: Mapped[str] = mapped_column(Text)
    x_sha256: Mapped[str] = mapped_column(String(64))
    adv_sha256: Mapped[str] = mapped_column(String(64))
    forwards: Mapped[int]
    backwards: Mapped[int]
    queries: Mapped[int]
    simulated: Mapped[int]
    adaptation_steps: Mapped[int]
    believed: Mapped[bool | None]
    fooled_inside: Mapped[bool | None]
    attack_s: Mapped[float] = mapped_column(Float(53))
    defense_s: Mapped[float] = mapped_column(Float(53))
    neighbours: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    resent: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    poison: Mapped[bool] = mapped_column(default=False)


class SummaryRow(Table):
    """What readers want to know of a finished run, computed from its rows: see `bench.analysis.summaries`.

    stamp: what it was computed from and by; figures and outcomes: their forms stand in `bench.analysis.forms`.
    """

    __tablename__ = "summaries"

    run: Mapped[str] = mapped_column(ForeignKey("runs.key", ondelete="CASCADE"), primary_key=True)
    stamp: Mapped[str] = mapped_column(String(64))
    figures: Mapped[dict[str, Any]]
    outcomes: Mapped[dict[str, Any]]


class AuditRow(Table):
    """The verdict of an audit, as `bench audit --json` prints it, with the keys of its runs."""

    __tablename__ = "audits"

    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    defense: Mapped[str] = mapped_column(String(200))
    base: Mapped[str] = mapped_column(String(200))
    dataset: Mapped[str] = mapped_column(String(200))
    budget: Mapped[str] = mapped_column(String(16))
    result: Mapped[dict[str, Any]]
    provenance: Mapped[dict[str, Any]]
    created: Mapped[float] = mapped_column(Float(53))


class SuiteRow(Table):
    """A run of a suite. It is noted before the run begins, so there is no foreign key."""

    __tablename__ = "suite_runs"

    suite: Mapped[str] = mapped_column(String(200), primary_key=True)
    run: Mapped[str] = mapped_column(String(64), primary_key=True)


class ImageRow(Table):
    """The file with the proposed images of `count` rows of a game, from position `start` on."""

    __tablename__ = "images"

    run: Mapped[str] = mapped_column(ForeignKey("runs.key", ondelete="CASCADE"), primary_key=True)
    game: Mapped[int] = mapped_column(primary_key=True)
    start: Mapped[int] = mapped_column(primary_key=True)
    count: Mapped[int]
    file: Mapped[str] = mapped_column(String(64))


#: the bare tables, for what is written with every chunk: SQLAlchemy's mapping of objects takes most of the time there
RUNS, GAMES, EXAMPLES, IMAGES = (Table.metadata.tables[name] for name in ("runs", "games", "examples", "images"))

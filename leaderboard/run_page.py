"""The page of a run: its figures, its examples, its charts, and how it was made."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

from bench.analysis.compare import outcome_of
from bench.analysis.describe import clean_answers
from bench.analysis.gallery import gallery
from bench.analysis.harm import harm_of
from bench.game.resources import Resources
from bench.rows import Row
from bench.store import RunRecord, Store
from leaderboard.addresses import defense_address
from leaderboard.charts import RUN_CHARTS, spec_of
from leaderboard.charts.chart import RunData
from leaderboard.columns import columns_of
from leaderboard.content import Example, RunSummary
from leaderboard.images import gallery_data
from leaderboard.page import Site, render
from leaderboard.tables import table_data

#: examples in the gallery; rows in the table of examples; drawings of one chart
GALLERY, TABLE, DRAWINGS = 12, 5000, 2


@dataclass(frozen=True)
class RunDetails:
    """What the page of a run shows beside its summary.

    command   the command that repeats the run; command_note: what the reader must know about it
    gallery   examples with their images; gallery_note: what could not be shown
    drawings  each with chart (its name), title and rows (its records)
    facts     names and values, for the table at the end
    cut       how many examples the table has if it does not have all; 0: it has all
    """

    command: str = ""
    command_note: str = ""
    gallery: list[dict[str, Any]] = field(default_factory=list)
    gallery_note: str = ""
    drawings: list[dict[str, Any]] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)
    cut: int = 0


def details_of(store: Store, run: RunSummary, resources: Resources, command: tuple[str, str] = ("", "")) -> RunDetails:
    """Reads the details of one run. command: how to repeat it, and a note on that."""
    record = store.find(run.run)
    assert record is not None
    served = store.all_rows(run.run)
    rows = [row for row in served if not row.poison]
    clean = clean_answers(store, record)
    right = outcome_of(store, record, rows)
    own = [row for row in served if row.poison]  # the other users' inputs are as they were
    shown, note = gallery(store, record, own or rows, resources, GALLERY) if rows else ([], "")
    if own and not note:
        note = "The attacker's inputs; those of the other users, which are judged, are as they were."
    data = RunData(rows, right, [one.row for one in shown], harm_of(record, served, clean))
    return RunDetails(
        command=command[0],
        command_note=command[1],
        gallery=gallery_data(shown, data.outcome),
        gallery_note=note,
        drawings=_drawings(data),
        examples=[_example(row, run.norm, clean, data.outcome(row)) for row in rows[:TABLE]],
        facts=_facts(record, run),
        cut=TABLE if len(rows) > TABLE else 0,
    )


def render_run_page(run: RunSummary, details: RunDetails, site: Site) -> str:
    """The page as text."""
    drawings = [{"id": f"chart-{number}", **drawing} for number, drawing in enumerate(details.drawings, 1)]
    return render(
        "run.html",
        site,
        "../",
        run=run,
        defense_page=f"../{defense_address(run.entry.defense)}",
        details=details,
        charts=drawings,
        data={
            "root": "../",
            "tables": {
                "figures": table_data(columns_of("figures"), [run]),
                "examples": table_data(columns_of("examples"), details.examples),
            },
        },
        drawings={
            "specs": {one["chart"]: spec_of(RUN_CHARTS[one["chart"]]) for one in drawings},
            "drawings": drawings,
        },
    )


def _example(row: Row, norm: str, clean: dict[tuple[int, int], int], outcome: str) -> Example:
    distance = row.distances.get(norm, math.nan)
    return Example(
        index=row.index,
        game=row.game,
        position=row.position,
        label=row.label,
        clean=clean.get((row.game, row.index)) if row.clean_answer is None else row.clean_answer,
        answer=row.answer,
        outcome=outcome,
        distance=round(float(distance), 6) if math.isfinite(distance) else None,
        queries=row.queries,
        passes=row.forwards + row.backwards,
        violation=row.violation,
    )


def _drawings(data: RunData) -> list[dict[str, Any]]:
    """The charts of the run that have something to show."""
    return [
        {"chart": chart.name, "title": ": ".join(filter(None, (chart.title, one.title))), "rows": one.records}
        for chart in RUN_CHARTS.values()
        for one in chart.records(data)[:DRAWINGS]
    ]


def _facts(record: RunRecord, run: RunSummary) -> list[tuple[str, str]]:
    """Provenance and parameters, as text."""
    spec, made = record.spec, record.provenance
    facts = [
        ("run", record.key),
        ("came from", "" if record.origin is None else f"a bundle, {record.trust}: {json.dumps(record.origin)}"),
        ("commit", str(made.get("commit", ""))),
        ("made with", json.dumps(made.get("environment", {}))),
        ("host", str(made.get("host", ""))),
        *((name, json.dumps(spec[name]["params"])) for name in ("defense", "base", "attack", "dataset")),
        ("network", spec["network"]["name"]),
        ("game", json.dumps(spec["game"])),
        ("threat", json.dumps(spec["threat"])),
        ("spent per example", ", ".join(f"{name} {value:.4g}" for name, value in run.spent.items())),
        ("seconds", f"{run.seconds:.1f}"),
    ]
    return [(name, value) for name, value in facts if value not in ("", "{}")]

"""Defense by attack: the lowest robust accuracy of each cell; a cell without one says why."""

from __future__ import annotations

import re

import altair as alt

from leaderboard.charts.chart import (
    ROBUST_TOOLTIP,
    ROWS,
    SHADE,
    LeaderboardChart,
    Records,
    comparable,
    lowest,
    run_record,
)
from leaderboard.content import Leaderboard, RunSummary


def _spec() -> alt.TopLevelMixin:
    base = alt.Chart(ROWS).encode(  # sort: the order of the records
        x=alt.X("attack:N", title=None, sort=None, axis=alt.Axis(labelAngle=-40, orient="top", labelLimit=200)),
        y=alt.Y("defense:N", title=None, sort=None, axis=alt.Axis(labelLimit=420)),
        tooltip=[
            alt.Tooltip("defense:N"),
            alt.Tooltip("attack:N"),
            alt.Tooltip("why:N", title="no figure"),
            alt.Tooltip("threat:N"),
            *ROBUST_TOOLTIP,
            alt.Tooltip("n:Q"),
        ],
    )
    has_figure = "isValid(datum.robust)"
    color = alt.when(f"!{has_figure}").then(alt.value("#7d858e")).when("datum.robust > 60").then(alt.value("black"))
    size = alt.when(has_figure).then(alt.value(11)).otherwise(alt.value(9))
    text = base.mark_text().encode(text="text:N", color=color.otherwise(alt.value("white")), size=size)
    visible = alt.condition(has_figure, alt.value(1), alt.value(0))
    rect = base.mark_rect(invalid="show").encode(color=SHADE, opacity=visible)
    return (rect + text).properties(width=alt.Step(46), height=alt.Step(26))


def _records(part: Leaderboard) -> Records:
    """A record for every defense and attack. Where no run has a figure, `text` is a word for why, `why` a sentence."""
    figures = lowest((run_record(run, robust) for run, robust in comparable(part.runs)), "defense", "attack")
    if not figures:
        return []
    cells = {
        (one["defense"], one["attack"]): {**one, "text": f"{one['robust']:.0f}", "why": None}
        for one in figures
    }  # fmt: skip
    attacked = [run for run in part.runs if run.attacked]
    lacking = {(run.entry.label, run.attack): _why(run) for run in attacked}
    defenses = sorted({run.entry.label for run in attacked}, key=_natural)
    attacks = sorted({run.attack for run in attacked})
    for cell in ((defense, attack) for defense in defenses for attack in attacks):
        if cell not in cells:
            text, why = lacking.get(cell, ("not run", "not played"))
            cells[cell] = {"defense": cell[0], "attack": cell[1], "robust": None, "text": text, "why": why}
    return [cells[defense, attack] for defense in defenses for attack in attacks]


def _why(run: RunSummary) -> tuple[str, str]:
    """Why a run has no figure that may be compared, as a word and as a sentence."""
    if run.status != "DONE":
        return run.status.lower(), f"{run.status}: {run.reason}"
    return "flagged", "; ".join(f"{name}: {message}" for name, message in run.flags) or "it has no figure"


def _natural(name: str) -> list[tuple[bool, float, str]]:
    """The key by which `k 9` comes before `k 10`."""
    parts = re.findall(r"[0-9]+(?:\.[0-9]+)?|[^0-9]+", name)
    return [(False, float(part), "") if part[0] in "0123456789" else (True, 0.0, part) for part in parts]


HEATMAP = LeaderboardChart(
    name="heatmap",
    title="Robust accuracy by defense and attack",
    note="the lowest of each cell; all tiers; a cell without a figure says why",
    empty="It needs one attacked run whose figure may be compared.",
    spec=_spec,
    records=_records,
    wide=True,
    fewest=2,
)

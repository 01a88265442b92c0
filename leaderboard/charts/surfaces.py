"""Robust accuracy over p and a second coordinate (delay or known), one panel for each defense."""

from __future__ import annotations

from collections import defaultdict
from functools import partial

import altair as alt

from leaderboard.charts.chart import (
    ROBUST_TOOLTIP,
    ROWS,
    SHADE,
    TEXT_COLOR,
    LeaderboardChart,
    Records,
    comparable,
    lowest,
    run_record,
)
from leaderboard.content import Leaderboard

#: for each second coordinate: the attack that varies it, and what it means
SECOND = {
    "delay": ("pgd-skip-delayed", "inputs served after crafting"),
    "known": ("pgd-skip-partial", "share of the stream that the attacker saw"),
}


def _spec(name: str) -> alt.TopLevelMixin:
    base = alt.Chart(ROWS).encode(
        x=alt.X("x:O", title=name, axis=alt.Axis(labelAngle=0)),
        y=alt.Y("p:O", title="p", sort="descending"),
        tooltip=[
            alt.Tooltip("defense:N"),
            alt.Tooltip("p:Q"),
            alt.Tooltip("x:Q", title=name),
            *ROBUST_TOOLTIP,
            alt.Tooltip("n:Q"),
        ],
    )
    text = base.mark_text(fontSize=11).encode(text=alt.Text("robust:Q", format=".0f"), color=TEXT_COLOR)
    panel = (base.mark_rect().encode(color=SHADE) + text).properties(width=alt.Step(44), height=alt.Step(30))
    header = alt.Header(title=None, labelLimit=260)
    return panel.facet(facet=alt.Facet("defense:N", header=header), columns=2)


def _records(name: str, part: Leaderboard) -> Records:
    """The lowest figure of each cell, of defenses for which at least two values of the coordinate were run."""
    attack, _ = SECOND[name]
    cells = lowest(
        (
            {**run_record(run, robust), "x": run.coordinates[name], "p": run.coordinates["p"]}
            for run, robust in comparable(part.runs)
            if run.attack == attack and name in run.coordinates
        ),
        *("defense", "x", "p"),
    )
    values: dict[str, set[float]] = defaultdict(set)
    for record in cells:
        values[record["defense"]].add(record["x"])
    return [record for record in cells if len(values[record["defense"]]) > 1]


def _surface(name: str) -> LeaderboardChart:
    attack, meaning = SECOND[name]
    return LeaderboardChart(
        name=f"surface-{name}",
        title=f"Robust accuracy over p and {name}",
        note=f"p: inputs served before crafting; {name}: {meaning}",
        empty=f"It needs runs of {attack} with two values of {name} against one defense.",
        spec=partial(_spec, name),
        records=partial(_records, name),
        pages=("overview", "defense"),
    )


SURFACES = tuple(_surface(name) for name in SECOND)

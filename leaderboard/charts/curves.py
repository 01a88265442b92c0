"""Robust accuracy over one coordinate of the runs: radius, delay, known, p or delta."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any

import altair as alt

from leaderboard.charts.chart import (
    PERCENT,
    ROBUST_TOOLTIP,
    ROWS,
    LeaderboardChart,
    Records,
    comparable,
    run_record,
    series,
)
from leaderboard.content import Leaderboard, RunSummary, Share

#: the coordinates, each with the title of its axis
COORDINATES = {
    "eps": "radius of the attack",
    "delay": "inputs served between crafting and answering (delay)",
    "known": "share of the stream that the attacker sees (known)",
    "p": "inputs served before the attacker crafts (p)",
    "delta": "share of the neighbours that RMC+ replaces (delta)",
}


def _spec(name: str) -> alt.TopLevelMixin:
    """A line with its interval for each group of runs that differ in this coordinate only."""
    x = alt.X("x:Q", title=COORDINATES[name])
    base = alt.Chart(ROWS).encode(x=x)
    color = alt.Color("line:N", scale=alt.Scale(scheme="tableau20"), legend=None)  # the points have the legend
    y = alt.Y("robust:Q", scale=PERCENT, title="robust %")
    band = base.mark_area(opacity=0.18).encode(
        y=alt.Y("low:Q", scale=PERCENT, title="robust %"), y2="high:Q", color=color
    )
    point = base.mark_point(size=60, filled=True, opacity=1).encode(
        y=y,
        **series("line"),
        tooltip=[alt.Tooltip("line:N"), alt.Tooltip("x:Q", title=name), *ROBUST_TOOLTIP, alt.Tooltip("n:Q")],
    )
    layers = band + base.mark_line().encode(y=y, color=color) + point
    # each layer with scales of its own, else one legend of colours and one of symbols are drawn
    return layers.properties(width=540, height=260).resolve_scale(color="independent", shape="independent")


def _records(name: str, part: Leaderboard) -> Records:
    """Of runs that differ in this coordinate only, where it has at least two values."""
    lines: dict[tuple[Any, ...], dict[float, tuple[RunSummary, Share]]] = defaultdict(dict)
    for run, robust in comparable(part.runs):
        if name in run.coordinates:
            others = tuple(sorted((key, value) for key, value in run.coordinates.items() if key != name))
            line, x = lines[run.family, others], run.coordinates[name]
            if x not in line or run.n > line[x][0].n:  # runs of one family can differ in n: take the largest
                line[x] = run, robust
    drawn = [line for line in lines.values() if len(line) > 1]
    titles = _line_titles([next(iter(line.values()))[0] for line in drawn], name)
    return [
        {**run_record(run, robust), "x": x, "line": title}
        for title, line in zip(titles, drawn, strict=True)
        for x, (run, robust) in sorted(line.items())
    ]


def _line_titles(runs: Sequence[RunSummary], name: str) -> list[str]:
    """What tells the lines apart: entry, attack, and the other coordinates that are not the same for all lines."""
    differing = [
        key
        for key in COORDINATES
        if key not in (name, "delta")  # delta stands in the label of the entry
        and len({run.coordinates[key] for run in runs if key in run.coordinates}) > 1
    ]
    titles = []
    for run in runs:
        words = [f"{key} {run.coordinates[key]:g}" for key in differing if key in run.coordinates]
        label = run.entry.label if name != "delta" else f"{run.entry.defense} on {run.entry.base}"
        titles.append(", ".join([f"{label} / {run.attack}", *words]))
    return [
        f"{title} ({titles[:number].count(title) + 1})" if titles.count(title) > 1 else title
        for number, title in enumerate(titles)
    ]


def _curve(name: str) -> LeaderboardChart:
    return LeaderboardChart(
        name=f"curve-{name}",
        title=f"Robust accuracy over {name}",
        empty=f"It needs two runs that differ in {name} only.",
        spec=partial(_spec, name),
        records=partial(_records, name),
        scope="norm" if name == "eps" else "board",
        pages=("defense",),
    )


CURVES = tuple(_curve(name) for name in COORDINATES)

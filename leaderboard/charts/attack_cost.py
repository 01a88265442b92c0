"""What attacks spent on one example (passes, queries, seconds) against the robust accuracy that was left."""

from __future__ import annotations

import altair as alt

from leaderboard.charts.chart import (
    LOGARITHMIC,
    PERCENT,
    ROWS,
    LeaderboardChart,
    Records,
    comparable,
    run_record,
    series,
)
from leaderboard.content import Leaderboard


def _spec() -> alt.TopLevelMixin:
    point = alt.Chart(ROWS).mark_point(size=60, filled=True, opacity=0.8)
    return point.encode(
        x=alt.X(
            "work:Q",
            scale=alt.Scale(type="symlog"),
            title="passes and queries per example (logarithmic)",
            axis=alt.Axis(values=[0, *(value for value in LOGARITHMIC if value >= 1)], labelOverlap=True, format=","),
        ),
        y=alt.Y("robust:Q", scale=PERCENT, title="robust %"),
        **series("attack"),
        tooltip=[
            alt.Tooltip("attack:N"),
            alt.Tooltip("defense:N"),
            alt.Tooltip("robust:Q", format=".1f", title="robust %"),
            alt.Tooltip("forwards:Q", format=",.0f"),
            alt.Tooltip("backwards:Q", format=",.0f"),
            alt.Tooltip("queries:Q", format=",.0f"),
            alt.Tooltip("seconds:Q", format=".3g"),
        ],
    ).properties(width=540, height=260)


def _records(part: Leaderboard) -> Records:
    records = []
    for run, robust in comparable(part.runs):
        spent = {name: float(f"{run.spent[name]:.4g}") for name in ("forwards", "backwards", "queries", "seconds")}
        work = spent["forwards"] + spent["backwards"] + spent["queries"]
        records.append({**run_record(run, robust), **spent, "work": work})
    return records if len(records) > 1 else []


ATTACK_COST = LeaderboardChart(
    name="attack-cost",
    title="What attacks spend",
    empty="It needs two attacked runs whose figures may be compared.",
    spec=_spec,
    records=_records,
    pages=("overview", "defense"),
)

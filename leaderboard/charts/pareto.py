"""Robust accuracy in the worst case of a tier against the time of an answer, with the Pareto front.

Times are divided by that of the base on the same machine: seconds of different machines do not fit on one axis.
"""

from __future__ import annotations

import altair as alt

from leaderboard.charts.chart import (
    LOGARITHMIC,
    PERCENT,
    ROBUST_TOOLTIP,
    ROWS,
    LeaderboardChart,
    Records,
    series,
    standing_record,
)
from leaderboard.content import Leaderboard


def _spec() -> alt.TopLevelMixin:
    axis = alt.Axis(labelOverlap=True, format="~s", values=LOGARITHMIC)
    x = alt.X(
        "times:Q",
        scale=alt.Scale(type="log", padding=12),
        axis=axis,
        title="time of an answer, in answers of the base alone",
    )
    y = alt.Y("robust:Q", scale=PERCENT, title="robust %, worst case")
    base = alt.Chart(ROWS).encode(x=x)
    line = base.transform_filter("datum.front").mark_line(strokeDash=[4, 3], color="#888", interpolate="step-after")
    interval = base.mark_rule(opacity=0.5, color="#888").encode(
        y=alt.Y("low:Q", title="robust %, worst case"), y2="high:Q"
    )
    point = base.mark_point(size=70, filled=True).encode(
        y=y,
        **series("defense"),
        tooltip=[
            alt.Tooltip("defense:N"),
            *ROBUST_TOOLTIP,
            alt.Tooltip("times:Q", format=".3g", title="times the base"),
            alt.Tooltip("clean:Q", format=".1f", title="clean %"),
        ],
    )
    return (line.encode(y=y) + interval + point).properties(width=540, height=260)


def _records(part: Leaderboard) -> Records:
    records = [
        {
            **standing_record(standing, standing.robust),
            "times": standing.times_base,
            "clean": None if standing.clean is None else round(standing.clean.value, 2),
            "front": standing.front,
        }
        for standing in part.standings
        if standing.rank is not None and standing.robust is not None and standing.times_base
    ]
    return records if len(records) > 1 else []


PARETO = LeaderboardChart(
    name="pareto",
    title="Robust accuracy against the time of an answer",
    note="worst case in this tier; dashed: the Pareto front",
    empty="It needs two ranked defenses and runs of their bases on the same machine.",
    spec=_spec,
    records=_records,
    scope="tier",
)

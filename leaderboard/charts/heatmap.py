"""Defense by attack: the lowest robust accuracy of each cell."""

from __future__ import annotations

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


def _spec() -> alt.TopLevelMixin:
    base = alt.Chart(ROWS).encode(
        x=alt.X("attack:N", title=None, axis=alt.Axis(labelAngle=-40)),
        y=alt.Y("defense:N", title=None, axis=alt.Axis(labelLimit=260)),
        tooltip=[
            alt.Tooltip("defense:N"),
            alt.Tooltip("attack:N"),
            alt.Tooltip("threat:N"),
            *ROBUST_TOOLTIP,
            alt.Tooltip("n:Q"),
        ],
    )
    text = base.mark_text(fontSize=11).encode(text=alt.Text("robust:Q", format=".0f"), color=TEXT_COLOR)
    return (base.mark_rect().encode(color=SHADE) + text).properties(width=alt.Step(44), height=alt.Step(26))


def _records(part: Leaderboard) -> Records:
    return lowest((run_record(run, robust) for run, robust in comparable(part.runs)), "defense", "attack")


HEATMAP = LeaderboardChart(
    name="heatmap",
    title="Robust accuracy by defense and attack",
    note="the lowest of each cell; all tiers",
    empty="It needs one attacked run whose figure may be compared.",
    spec=_spec,
    records=_records,
    wide=True,
)

"""What other users lose over the attacker's inputs among theirs: in each part of the stream, and up to there."""

from __future__ import annotations

import altair as alt

from leaderboard.charts.chart import ROWS, RunChart, RunData, TitledRecords


def _spec() -> alt.TopLevelMixin:
    lines = alt.Chart(ROWS).mark_line(point=True)
    return lines.encode(
        x=alt.X("served:Q", title="inputs served"),
        y=alt.Y("lost:Q", title="points that others lose"),
        color=alt.Color("what:N", legend=alt.Legend(title="")),
        strokeDash=alt.StrokeDash("what:N", legend=None),
        tooltip=[
            alt.Tooltip("what:N"),
            alt.Tooltip("served:Q"),
            alt.Tooltip("sent:Q", title="the attacker's"),
            alt.Tooltip("lost:Q", format=".1f"),
        ],
    ).properties(width=420, height=200)


def _records(run: RunData) -> list[TitledRecords]:
    if run.harm is None or len(run.harm.moments) < 2:
        return []
    records = [
        {"served": moment.served, "sent": moment.sent, "what": what, "lost": round(100 * value, 2)}
        for moment in run.harm.moments
        for what, value in (("in this part", moment.instant), ("up to here", moment.cumulative))
    ]
    return [TitledRecords("", records)]


HARM = RunChart(
    name="harm",
    title="What other users lose",
    empty="It needs a run whose attacker sends inputs in two parts of the stream of other users, and its clean run.",
    spec=_spec,
    records=_records,
)

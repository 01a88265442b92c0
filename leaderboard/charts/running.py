"""Robust accuracy so far over the stream, one line for each game."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from bench.analysis.metrics import by_game
from leaderboard.charts.chart import PERCENT, ROWS, Records, RunChart, RunData, TitledRecords

#: points of a line, about: a longer stream is thinned out
POINTS = 200


def _spec() -> alt.TopLevelMixin:
    lines = alt.Chart(ROWS).mark_line()
    return lines.encode(
        x=alt.X("position:Q", title="attacked examples answered", axis=alt.Axis(tickMinStep=1, format="d")),
        y=alt.Y("accuracy:Q", scale=PERCENT, title="robust % so far"),
        color=alt.Color("game:N", scale=alt.Scale(scheme="tableau20"), legend=alt.Legend(title="game")),
        tooltip=[alt.Tooltip("game:N"), alt.Tooltip("position:Q"), alt.Tooltip("accuracy:Q", format=".1f")],
    ).properties(width=500, height=200)


def accuracy_records(games: Sequence[Sequence[bool]]) -> Records:
    """games: for each game whether its examples were answered right, in the order of answering."""
    records = []
    for game, right in enumerate(games):
        total, step = 0, max(len(right) // POINTS, 1)
        for number, ok in enumerate(right, 1):
            total += ok
            if number % step == 0 or number == len(right):
                records.append({"game": str(game), "position": number, "accuracy": round(100 * total / number, 2)})
    return records


def _records(run: RunData) -> list[TitledRecords]:
    games = by_game(run.rows, run.right)
    many = any(len(right) > 1 for right in games)
    return [TitledRecords("", accuracy_records(games))] if many else []


RUNNING = RunChart(
    name="running",
    title="Robust accuracy over the stream",
    empty="It needs a game with two answered examples.",
    spec=_spec,
    records=_records,
)

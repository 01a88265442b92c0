"""The charts of the leaderboard, as Altair charts over plain records. A new chart is a module here and a line below."""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar

import altair as alt

from leaderboard.charts.attack_cost import ATTACK_COST
from leaderboard.charts.chart import LeaderboardChart, Records, RunChart
from leaderboard.charts.curves import CURVES
from leaderboard.charts.harm import HARM
from leaderboard.charts.heatmap import HEATMAP
from leaderboard.charts.neighbours import NEIGHBOURS
from leaderboard.charts.pareto import PARETO
from leaderboard.charts.running import RUNNING
from leaderboard.charts.surfaces import SURFACES

ChartT = TypeVar("ChartT", LeaderboardChart, RunChart)


def by_name(*charts: ChartT) -> dict[str, ChartT]:
    """The charts by their names, which must differ."""
    named = {chart.name: chart for chart in charts}
    if len(named) < len(charts):
        raise ValueError(f"Two charts have the same name: {sorted(chart.name for chart in charts)}")
    return named


#: charts of many runs, in the order of the pages
LEADERBOARD_CHARTS: dict[str, LeaderboardChart] = by_name(HEATMAP, PARETO, *CURVES, *SURFACES, ATTACK_COST)
#: charts of one run, in the order of its page
RUN_CHARTS: dict[str, RunChart] = by_name(RUNNING, HARM, NEIGHBOURS)


def spec_of(chart: LeaderboardChart | RunChart) -> dict[str, Any]:
    """The Vega-Lite specification of a chart, without data. It is made once: thousands of pages share it."""
    return _spec(chart.spec)


@cache
def _spec(make: Any) -> dict[str, Any]:
    chart: alt.TopLevelMixin = make()
    spec: dict[str, Any] = chart.to_dict(validate=False)
    return spec


def drawing(chart: LeaderboardChart | RunChart, records: Records, title: str = "") -> dict[str, Any]:
    """The specification of a chart with its records."""
    spec = {**spec_of(chart), "datasets": {"rows": records}}
    return {**spec, "title": title} if title else spec


__all__ = ["LEADERBOARD_CHARTS", "RUN_CHARTS", "LeaderboardChart", "RunChart", "by_name", "drawing", "spec_of"]

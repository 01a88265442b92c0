"""Charts as files, for `bench plot`: which part of the leaderboard is drawn, and the file itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import vl_convert

from leaderboard.charts.chart import LeaderboardChart, Records, Scope, figures, parts_of
from leaderboard.content import Leaderboard
from leaderboard.page import VEGA_LITE

#: endings of the files that `chart_file` can make
ENDINGS = (".png", ".svg", ".html")


def fullest_part(
    chart: LeaderboardChart, whole: Leaderboard, wanted: Callable[[Scope], bool]
) -> tuple[Scope, Records] | None:
    """Of the parts that are wanted, the one with most figures; None if none has any."""
    drawn = {scope: chart.records(part) for scope, part in parts_of(chart, whole).items() if wanted(scope)}
    scope = max(drawn, key=lambda one: (figures(drawn[one]), one), default=None)
    return None if scope is None or not drawn[scope] else (scope, drawn[scope])


def chart_file(spec: dict[str, Any], ending: str, scale: float) -> bytes:
    """A Vega-Lite specification with its records as a file with this ending. scale: pixels of a PNG."""
    if ending == ".png":
        return bytes(vl_convert.vegalite_to_png(spec, vl_version=VEGA_LITE, scale=scale))
    if ending == ".svg":
        return vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE).encode()
    return vl_convert.vegalite_to_html(spec, vl_version=VEGA_LITE, bundle=True).encode()

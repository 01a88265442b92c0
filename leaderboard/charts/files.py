"""Charts as files, for `bench plot`: which part of the leaderboard is drawn, and the file itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import vl_convert

from leaderboard.charts.chart import LeaderboardChart, Records, Scope, parts_of
from leaderboard.content import Leaderboard
from leaderboard.page import VEGA_LITE

#: endings of the files that `write_chart` can write
ENDINGS = (".png", ".svg", ".html")


def fullest_part(
    chart: LeaderboardChart, whole: Leaderboard, wanted: Callable[[Scope], bool]
) -> tuple[Scope, Records] | None:
    """Of the parts that are wanted, the one with most records; None if none has any."""
    drawn = {scope: chart.records(part) for scope, part in parts_of(chart, whole).items() if wanted(scope)}
    scope = max(drawn, key=lambda one: (len(drawn[one]), one), default=None)
    return None if scope is None or not drawn[scope] else (scope, drawn[scope])


def write_chart(spec: dict[str, Any], path: Path, scale: float) -> None:
    """Write a Vega-Lite specification with its records as the ending of the file says. scale: pixels of a PNG."""
    ending = path.suffix.lower()
    if ending == ".png":
        data = vl_convert.vegalite_to_png(spec, vl_version=VEGA_LITE, scale=scale)
    elif ending == ".svg":
        data = vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE).encode()
    else:
        data = vl_convert.vegalite_to_html(spec, vl_version=VEGA_LITE, bundle=True).encode()
    path.write_bytes(data)

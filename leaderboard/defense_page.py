"""The page of a defense, over all boards."""

from __future__ import annotations

from typing import Any

from leaderboard.addresses import paper_address, registered
from leaderboard.charts import LEADERBOARD_CHARTS, spec_of
from leaderboard.charts.chart import figures, parts_of
from leaderboard.columns import columns_of
from leaderboard.content import TIERS, Leaderboard, RunSummary, Standing
from leaderboard.page import Site, render
from leaderboard.ranking import rank_order
from leaderboard.tables import table_data


def render_defense_page(name: str, whole: Leaderboard, site: Site) -> str:
    """The page as text."""
    own = Leaderboard(
        [run for run in whole.runs if run.entry.defense == name],
        [standing for standing in whole.standings if standing.entry.defense == name],
    )
    attacked, clean = ([run for run in own.runs if run.attacked == of] for of in (True, False))
    known = registered(name)
    drawings = _drawings(own)
    return render(
        "defense.html",
        site,
        "../",
        name=name,
        summary="" if known is None else known.summary,
        paper=paper_address(name),
        clean=bool(clean),
        charts=drawings,
        data={
            "root": "../",
            "tables": {
                "standings": table_data(columns_of("standings"), _played(own), where=_muted_standing),
                "runs": table_data(columns_of("runs"), attacked, ("board", "asc"), _muted_run),
                **({"clean": table_data(columns_of("clean"), clean, ("dataset", "asc"), _muted_run)} if clean else {}),
            },
        },
        drawings={
            "specs": {one["chart"]: spec_of(LEADERBOARD_CHARTS[one["chart"]]) for one in drawings},
            "drawings": drawings,
        },
    )


def _muted_standing(standing: Standing) -> dict[str, Any]:
    return {"muted": standing.rank is None}


def _muted_run(run: RunSummary) -> dict[str, Any]:
    return {"muted": not run.ranked}


def _played(own: Leaderboard) -> list[Standing]:
    """Standings with a rank or with a run in their own tier, by board and tier."""
    tried = {(run.entry, run.board, run.tier) for run in own.runs if run.attacked}
    played = [one for one in own.standings if one.rank is not None or (one.entry, one.board, one.tier) in tried]
    return sorted(played, key=lambda one: (one.board, TIERS.index(one.tier), rank_order(one)))


def _drawings(own: Leaderboard) -> list[dict[str, Any]]:
    """The charts that have something to show, each with its records."""
    drawings: list[dict[str, Any]] = []
    for chart in (one for one in LEADERBOARD_CHARTS.values() if "defense" in one.pages):
        for scope, part in parts_of(chart, own).items():
            if figures(records := chart.records(part)) >= chart.fewest:
                number = len(drawings) + 1
                title = f"{chart.title}, {scope.name}"
                drawings.append({"id": f"chart-{number}", "chart": chart.name, "title": title, "rows": records})
    return drawings

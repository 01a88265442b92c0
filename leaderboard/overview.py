"""The overview: the ranking, the charts, the audits and the runs, with menus to choose the board."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from leaderboard.charts import LEADERBOARD_CHARTS, LeaderboardChart, spec_of
from leaderboard.charts.chart import Records, figures, on_base, parts_of
from leaderboard.columns import columns_of
from leaderboard.content import LEVELS, TIERS, AttackStanding, Board, Leaderboard, RunSummary, Standing
from leaderboard.page import Site, render
from leaderboard.ranking import rank_order
from leaderboard.tables import table_data


def render_overview(whole: Leaderboard, site: Site) -> str:
    """The overview as text."""
    boards = boards_of(whole)
    charts = [chart for chart in LEADERBOARD_CHARTS.values() if "overview" in chart.pages]
    return render(
        "index.html",
        site,
        "",
        levels=LEVELS,
        empty=not whole.runs,
        audited=bool(whole.audits),
        attacked=bool(whole.attacks),
        clean=any(not run.attacked for run in whole.runs),
        charts=charts,
        data={
            "root": "",
            "menus": _menus(whole, boards),
            "tables": _tables(whole, boards),
        },
        drawings={
            "specs": {chart.name: spec_of(chart) for chart in charts},
            "drawings": [
                {"id": f"chart-{chart.name}", "chart": chart.name, **chart_states(chart, whole, boards)}
                for chart in charts
            ],
        },
    )


def boards_of(whole: Leaderboard) -> list[Board]:
    """All boards, the one with most attacked runs first."""
    count = Counter(run.board for run in whole.runs if run.attacked)
    return sorted(count, key=lambda board: (-count[board], board))


def _menus(whole: Leaderboard, boards: list[Board]) -> list[dict[str, Any]]:
    """What the menus offer on each board: the bases, and [tier, what it lacks, what is said above its ranking]; the
    fullest tier first, of equals the one with most knowledge."""
    bases: dict[str, set[str]] = defaultdict(set)
    here: dict[tuple[Board, str], list[Standing]] = defaultdict(list)
    for standing in whole.standings:
        bases[standing.board.dataset].add(standing.entry.base)
        here[standing.board, standing.tier].append(standing)
    menus = []
    for board in boards:
        lacks = {tier: _lacks(here[board, tier]) for tier in TIERS}
        tiers = sorted(TIERS, key=lambda tier: (STATES.index(lacks[tier]), -TIERS.index(tier)))
        states = [[tier, lacks[tier], _ranked_over(whole.battery.get(tier, ()))] for tier in tiers]
        menus.append(
            {"dataset": board.dataset, "radius": board.radius, "tiers": states, "bases": sorted(bases[board.dataset])}
        )
    return menus


#: what a tier of a board may lack, the fullest state first
STATES = ("", "one entry, no ranks", "nothing ranked", "nothing played")


def _lacks(standings: list[Standing]) -> str:
    if any(one.rank is not None for one in standings):
        return STATES[0]
    if any(not one.why for one in standings):
        return STATES[1]
    return STATES[2] if any(one.robust is not None for one in standings) else STATES[3]


def _ranked_over(battery: Sequence[str]) -> str:
    return f"By the worst case over the attacks that all of these met: {', '.join(battery)}." if battery else ""


def _tables(whole: Leaderboard, boards: list[Board]) -> dict[str, Any]:
    numbers = {board: number for number, board in enumerate(boards)}
    of_dataset: dict[str, list[int]] = defaultdict(list)
    for board, number in numbers.items():
        of_dataset[board.dataset].append(number)

    def where_standing(standing: Standing) -> dict[str, Any]:
        return {
            "boards": [numbers[standing.board]],
            "tier": standing.tier,
            "base": standing.entry.base,
            "muted": False,
        }

    def where_run(run: RunSummary) -> dict[str, Any]:
        """A run without an attack stands beside all boards of its dataset."""
        shown = [numbers[run.board]] if run.attacked else of_dataset[run.entry.dataset]
        return {"boards": shown, "tier": None, "base": run.entry.base, "muted": not run.ranked}

    def where_attack(attack: AttackStanding) -> dict[str, Any]:
        """Over all bases: the menu of bases does not change it."""
        return {"boards": [numbers[attack.board]], "tier": None, "base": None, "muted": False}

    standings = sorted(whole.standings, key=rank_order)
    on_one_board = [replace(one, shown=one.shown and one.name != "board") for one in columns_of("runs")]
    compared, others = [one for one in standings if not one.why], [one for one in standings if one.why]
    tables = {
        "ranking": table_data(columns_of("ranking"), compared, ("rank", "asc"), where_standing),
        "unranked": table_data(columns_of("unranked"), others, None, where_standing),
        "runs": table_data(on_one_board, [run for run in whole.runs if run.attacked], ("robust", "desc"), where_run),
    }
    if clean := [run for run in whole.runs if not run.attacked]:
        tables["clean"] = table_data(columns_of("clean"), clean, ("clean", "desc"), where_run)
    if whole.attacks:
        tables["attacks"] = table_data(columns_of("attacks"), whole.attacks, ("rank", "asc"), where_attack)
    if whole.audits:
        tables["audits"] = table_data(columns_of("audits"), whole.audits)
    return tables


def chart_states(chart: LeaderboardChart, whole: Leaderboard, boards: list[Board]) -> dict[str, Any]:
    """The records of a chart for every state of the menus in which it shows something.

    pool     all records, each once
    states   boards, tier (null: any) and base (null: all bases) of the menus, and the records by their number in the
             pool
    """
    pool: dict[str, int] = {}
    states = []
    bases = sorted({run.entry.base for run in whole.runs})
    for scope, part in parts_of(chart, whole).items():
        for base in [None, *bases]:
            records: Records = chart.records(on_base(part, base))
            if figures(records) >= chart.fewest:
                states.append(
                    {
                        "boards": [number for number, board in enumerate(boards) if scope.has(board)],
                        "tier": scope.tier or None,
                        "base": base,
                        "rows": [pool.setdefault(json.dumps(record), len(pool)) for record in records],
                    }
                )
    return {"pool": [json.loads(text) for text in pool], "states": states}

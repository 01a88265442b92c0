"""What a chart is, and which part of the leaderboard it shows.

A chart is one entry: its Vega-Lite specification without data (the data source is called `rows`) and its records, both
made here. A page, a file and a notebook draw the same records; the browser only picks those of the chosen board.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import altair as alt

from bench.analysis.harm import Harm
from bench.analysis.metrics import Outcomes
from bench.rows import Row, is_fooled
from leaderboard.content import TIERS, Board, Leaderboard, RunSummary, Share, Standing, outcome_of_example

Records = list[dict[str, Any]]

ROWS = alt.Data(name="rows")
#: robust accuracy from 0 to 100 %; readable without red and green
SHADE = alt.Color("robust:Q", scale=alt.Scale(scheme="viridis", domain=[0, 100]), title="robust %")
#: text on that shade
TEXT_COLOR = alt.condition("datum.robust > 60", alt.value("black"), alt.value("white"))
PERCENT = alt.Scale(domain=[0, 100])
#: symbols beside the twenty colours, so that colours are not needed to tell a few series apart. Seven and twenty have
#: no common factor: 140 series differ in one of the two
SYMBOLS = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-left")
#: values of a logarithmic axis
LOGARITHMIC = [step * 10**power for power in range(-3, 7) for step in (1, 3)]


def series(field: str) -> dict[str, Any]:
    """Colour and symbol of a series, with one legend for both, below the chart in two columns."""
    legend = alt.Legend(title=None, labelLimit=270, columns=2, symbolLimit=100, orient="bottom")
    color = alt.Color(f"{field}:N", scale=alt.Scale(scheme="tableau20"), legend=legend)
    return {"color": color, "shape": alt.Shape(f"{field}:N", scale=alt.Scale(range=list(SYMBOLS)), legend=legend)}


#: the tooltip rows of every chart that shows a robust accuracy
ROBUST_TOOLTIP = (
    alt.Tooltip("robust:Q", format=".1f", title="robust %"),
    alt.Tooltip("interval:N", title="95 % interval"),
)


@dataclass(frozen=True)
class LeaderboardChart:
    """A chart of many runs.

    name      the KIND of `bench plot`
    note      a line below the title
    empty     what it takes for the chart to have records; said if there are none
    spec      makes the Vega-Lite chart without data
    records   makes the records, from the part of the leaderboard that the chart is of
    scope     which part that is. board: one dataset, norm and radius; tier: also one tier; norm: all radii of a norm
    pages     the pages that show it, if it has at least `fewest` figures
    wide      its card has a row of the page to itself
    """

    name: str
    title: str
    empty: str
    spec: Callable[[], alt.TopLevelMixin]
    records: Callable[[Leaderboard], Records]
    note: str = ""
    scope: Literal["board", "tier", "norm"] = "board"
    pages: tuple[Literal["overview", "defense"], ...] = ("overview",)
    wide: bool = False
    fewest: int = 1


@dataclass(frozen=True)
class RunData:
    """What a chart of one run is made from. right: whether each example was answered right; shown: examples to show;
    harm: what other users lost; None where the attacker sent nothing among theirs."""

    rows: Sequence[Row]
    right: Outcomes
    shown: Sequence[Row]
    harm: Harm | None = None

    def outcome(self, row: Row) -> str:
        """broken, survived or violation. For attacks of minimal norm this is the outcome at the radius of the run."""
        return outcome_of_example(self.right.get((row.game, row.index), not is_fooled(row)), row.violation)


@dataclass(frozen=True)
class TitledRecords:
    """The records of one drawing, and its title."""

    title: str
    records: Records


@dataclass(frozen=True)
class RunChart:
    """A chart of one run; `records` gives any number of drawings. Other fields: as for `LeaderboardChart`."""

    name: str
    title: str
    empty: str
    spec: Callable[[], alt.TopLevelMixin]
    records: Callable[[RunData], list[TitledRecords]]
    note: str = ""


class Scope(NamedTuple):
    """The part of the leaderboard that a chart is of. eps: None for all radii; tier: "" for all tiers."""

    dataset: str
    norm: str
    eps: float | None
    tier: str

    @property
    def name(self) -> str:
        """The scope in words."""
        radius = self.norm if self.eps is None else Board(self.dataset, self.norm, self.eps).radius
        return ", ".join(part for part in (self.dataset, radius, self.tier) if part)

    def has(self, board: Board) -> bool:
        """Whether the scope includes this board."""
        return (self.dataset, self.norm) == board[:2] and self.eps in (None, board.eps)


def parts_of(chart: LeaderboardChart, whole: Leaderboard) -> dict[Scope, Leaderboard]:
    """The leaderboard divided into the parts that the chart can be drawn of. Runs without an attack are left out.

    The tier of a run is the tier of its attack.
    """

    def scope(board: Board, tier: str) -> Scope:
        eps = None if chart.scope == "norm" else board.eps
        return Scope(board.dataset, board.norm, eps, tier if chart.scope == "tier" else "")

    parts: dict[Scope, Leaderboard] = defaultdict(Leaderboard)
    for run in whole.runs:
        if run.attacked:
            parts[scope(run.board, run.tier)].runs.append(run)
    for standing in whole.standings:
        parts[scope(standing.board, standing.tier)].standings.append(standing)
    return dict(sorted(parts.items(), key=lambda item: (*item[0][:2], item[0].eps or 0.0, _tier_number(item[0].tier))))


def _tier_number(tier: str) -> int:
    return TIERS.index(tier) if tier in TIERS else -1


def on_base(whole: Leaderboard, base: str | None) -> Leaderboard:
    """The leaderboard with runs and standings on one base; None: on any."""
    if base is None:
        return whole
    return Leaderboard(
        [run for run in whole.runs if run.entry.base == base],
        [standing for standing in whole.standings if standing.entry.base == base],
    )


# -- what the records of several charts have in common ----------------------------------------------------------------


def comparable(runs: Iterable[RunSummary]) -> list[tuple[RunSummary, Share]]:
    """Attacked runs whose robust accuracy may be compared, each with that figure."""
    return [(run, run.robust) for run in runs if run.attacked and run.ranked and run.robust is not None]


def run_record(run: RunSummary, robust: Share) -> dict[str, Any]:
    """A run as the charts read it."""
    return {
        "defense": run.entry.label,
        "attack": run.attack,
        "threat": run.threat_tag,
        "n": run.n,
        **robust_record(robust),
    }


def standing_record(standing: Standing, robust: Share) -> dict[str, Any]:
    """A standing as the charts read it."""
    return {"defense": standing.entry.label, "n": standing.n, **robust_record(robust)}


def robust_record(robust: Share) -> dict[str, Any]:
    """Robust accuracy with its interval, as numbers and in words."""
    return {
        "robust": round(robust.value, 2),
        "low": round(robust.low, 2),
        "high": round(robust.high, 2),
        "interval": f"{robust.low:.1f} to {robust.high:.1f}",
    }


def lowest(records: Iterable[Mapping[str, Any]], *cell: str) -> Records:
    """One record for each cell, the one with the lowest robust accuracy. cell: the fields that make a cell."""
    lowest: dict[tuple[Any, ...], dict[str, Any]] = {}
    for record in records:
        key = tuple(record[name] for name in cell)
        if key not in lowest or record["robust"] < lowest[key]["robust"]:
            lowest[key] = dict(record)
    return list(lowest.values())


def figures(records: Records) -> int:
    """How many records have a figure: those of empty cells have none."""
    return sum(one.get("robust", 0) is not None for one in records)

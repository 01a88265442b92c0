"""The pictures, as Altair charts over plain records. The same chart serves a page, a file and a notebook.

A chart is made once, without data (its source is called `rows`), and the records are put beside it: so that thousands
of pages do not build it again, and a page may filter the records that it hands over.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import altair as alt

from leaderboard.rows import Book, RunLine, Standing

Records = list[dict[str, Any]]

ROWS = alt.Data(name="rows")
#: robust accuracy from none to all; readable without red and green
SHADE = alt.Color("robust:Q", scale=alt.Scale(scheme="viridis", domain=[0, 100]), title="robust %")
INK = alt.condition("datum.robust > 60", alt.value("black"), alt.value("white"))
PERCENT = alt.Scale(domain=[0, 100])
#: what curves run over: its name, its title, and whether its axis is better read in logarithms
COORDINATES = {
    "eps": "radius of the attack",
    "delay": "inputs served between crafting and answering (delay)",
    "known": "share of the stream that the attacker sees (known)",
    "p": "inputs served before the attacker crafts (p)",
    "delta": "share of the neighbours that RMC+ replaces (delta)",
}


@dataclass(frozen=True)
class Kind:
    """One kind of picture. build: the chart without data; records: what it shows of a book."""

    title: str
    build: Callable[[], alt.TopLevelMixin]
    records: Callable[[Book], Records]


def heatmap() -> alt.TopLevelMixin:
    """Defense x attack: the lowest robust accuracy of each cell, its interval on hover."""
    base = alt.Chart(ROWS).encode(
        x=alt.X("attack:N", title=None, axis=alt.Axis(labelAngle=-40)),
        y=alt.Y("defense:N", title=None, axis=alt.Axis(labelLimit=260)),
        tooltip=[
            alt.Tooltip("defense:N"),
            alt.Tooltip("attack:N"),
            alt.Tooltip("threat:N"),
            alt.Tooltip("robust:Q", format=".1f", title="robust %"),
            alt.Tooltip("interval:N", title="95 % interval"),
            alt.Tooltip("n:Q"),
        ],
    )
    chart = base.mark_rect().encode(color=SHADE) + base.mark_text(fontSize=11).encode(
        text=alt.Text("robust:Q", format=".0f"), color=INK
    )
    return chart.properties(width=alt.Step(44), height=alt.Step(26))


def pareto() -> alt.TopLevelMixin:
    """Robust accuracy in the worst case of a tier against the time of an answer, with the front of what is best.

    Time in answers of the base alone on the same machine: seconds of several machines cannot stand on one axis.
    """
    x = alt.X("times:Q", scale=alt.Scale(type="log"), title="time of an answer, times that of the base alone")
    y = alt.Y("robust:Q", scale=PERCENT, title="robust %, worst case")
    base = alt.Chart(ROWS).encode(x=x)
    line = base.transform_filter("datum.front").mark_line(strokeDash=[4, 3], color="#888", interpolate="step-after")
    whisker = base.mark_rule(opacity=0.5).encode(
        y=alt.Y("low:Q", title="robust %, worst case"), y2="high:Q", color="defense:N"
    )
    point = base.mark_point(size=70, filled=True).encode(
        y=y,
        color=alt.Color("defense:N", legend=alt.Legend(title=None, labelLimit=260)),
        tooltip=[
            alt.Tooltip("defense:N"),
            alt.Tooltip("robust:Q", format=".1f", title="robust %"),
            alt.Tooltip("interval:N", title="95 % interval"),
            alt.Tooltip("times:Q", format=".3g", title="times the base"),
            alt.Tooltip("clean:Q", format=".1f", title="clean %"),
        ],
    )
    return (line.encode(y=y) + whisker + point).properties(width=420, height=260)


def curve(name: str) -> alt.TopLevelMixin:
    """Robust accuracy over one coordinate, with interval bands; a line for what is equal otherwise."""
    x = alt.X("x:Q", title=COORDINATES[name])
    base = alt.Chart(ROWS).encode(x=x, color=alt.Color("line:N", legend=alt.Legend(title=None, labelLimit=320)))
    band = base.mark_area(opacity=0.18).encode(y=alt.Y("low:Q", scale=PERCENT, title="robust %"), y2="high:Q")
    line = base.mark_line(point=True).encode(
        y=alt.Y("robust:Q", scale=PERCENT, title="robust %"),
        tooltip=[
            alt.Tooltip("line:N"),
            alt.Tooltip("x:Q", title=name),
            alt.Tooltip("robust:Q", format=".1f", title="robust %"),
            alt.Tooltip("interval:N", title="95 % interval"),
            alt.Tooltip("n:Q"),
        ],
    )
    return (band + line).properties(width=420, height=240)


def surface(name: str) -> alt.TopLevelMixin:
    """Robust accuracy over p and another coordinate, a panel for each defense: RMC beside RMC+."""
    base = alt.Chart(ROWS).encode(
        x=alt.X("x:O", title=name),
        y=alt.Y("p:O", title="p", sort="descending"),
        tooltip=[
            alt.Tooltip("defense:N"),
            alt.Tooltip("p:Q"),
            alt.Tooltip("x:Q", title=name),
            alt.Tooltip("robust:Q", format=".1f", title="robust %"),
            alt.Tooltip("interval:N", title="95 % interval"),
            alt.Tooltip("n:Q"),
        ],
    )
    text = base.mark_text(fontSize=11).encode(text=alt.Text("robust:Q", format=".0f"), color=INK)
    panel = (base.mark_rect().encode(color=SHADE) + text).properties(width=alt.Step(44), height=alt.Step(30))
    header = alt.Header(title=None, labelLimit=260)
    return panel.facet(facet=alt.Facet("defense:N", header=header), columns=2)


def attack_cost() -> alt.TopLevelMixin:
    """What attacks spent on an example: passes backwards, queries and seconds, against what they left standing."""
    point = (
        alt.Chart(ROWS)
        .mark_point(size=60, filled=True, opacity=0.8)
        .encode(
            x=alt.X("work:Q", scale=alt.Scale(type="symlog"), title="passes and queries an example (logarithmic)"),
            y=alt.Y("robust:Q", scale=PERCENT, title="robust %"),
            color=alt.Color("attack:N", legend=alt.Legend(title=None)),
            tooltip=[
                alt.Tooltip("attack:N"),
                alt.Tooltip("defense:N"),
                alt.Tooltip("robust:Q", format=".1f", title="robust %"),
                alt.Tooltip("forwards:Q", format=",.0f"),
                alt.Tooltip("backwards:Q", format=",.0f"),
                alt.Tooltip("queries:Q", format=",.0f"),
                alt.Tooltip("seconds:Q", format=".3g"),
            ],
        )
    )
    return point.properties(width=420, height=240)


def neighbours() -> alt.TopLevelMixin:
    """Labels of the neighbours of what was served, in each set that was searched (figures b and c of the slides)."""
    return (
        alt.Chart(ROWS)
        .mark_bar()
        .encode(
            x=alt.X("label:O", title="label", axis=alt.Axis(labelAngle=0)),
            y=alt.Y("count:Q", title="neighbours"),
            color=alt.Color("true:N", legend=alt.Legend(title=None), scale=alt.Scale(range=["#3b6ea8", "#c9743a"])),
            column=alt.Column("set:N", title=None),
            tooltip=[alt.Tooltip("set:N"), alt.Tooltip("label:O"), alt.Tooltip("count:Q")],
        )
        .properties(width=220, height=150)
    )


def running() -> alt.TopLevelMixin:
    """Accuracy so far over the stream, game by game."""
    return (
        alt.Chart(ROWS)
        .mark_line()
        .encode(
            x=alt.X("position:Q", title="attacked examples answered"),
            y=alt.Y("accuracy:Q", scale=PERCENT, title="robust % so far"),
            color=alt.Color("game:N", legend=alt.Legend(title="game")),
            tooltip=[alt.Tooltip("game:N"), alt.Tooltip("position:Q"), alt.Tooltip("accuracy:Q", format=".1f")],
        )
        .properties(width=420, height=200)
    )


# -- records ----------------------------------------------------------------------------------------------------------


def facts(line: RunLine) -> dict[str, Any]:
    """A run as the pictures read it; it has a robust accuracy."""
    assert line.robust is not None
    return {
        "run": line.run,
        "defense": line.entry.label,
        "attack": line.attack,
        "threat": line.threat_tag,
        "n": line.n,
        **_figures(line.robust.value, line.robust.low, line.robust.high),
    }


def _figures(value: float, low: float, high: float) -> dict[str, Any]:
    return {
        "robust": round(value, 2),
        "low": round(low, 2),
        "high": round(high, 2),
        "interval": f"{low:.1f} to {high:.1f}",
    }


def numbered(lines: Iterable[RunLine]) -> list[RunLine]:
    """Runs that may be compared, with a number."""
    return [line for line in lines if line.ranked and line.robust is not None]


def heatmap_records(book: Book) -> Records:
    """The lowest number of each cell."""
    lowest: dict[tuple[str, str], dict[str, Any]] = {}
    for line in numbered(book.runs):
        found = facts(line)
        cell = (found["defense"], found["attack"])
        if cell not in lowest or found["robust"] < lowest[cell]["robust"]:
            lowest[cell] = found
    return list(lowest.values())


def pareto_records(book: Book) -> Records:
    return [standing_facts(one) for one in book.standings if one.rank is not None and one.times_base]


def standing_facts(standing: Standing) -> dict[str, Any]:
    assert standing.robust is not None and standing.times_base is not None
    return {
        "defense": standing.entry.label,
        "times": standing.times_base,
        "clean": None if standing.clean is None else round(standing.clean.value, 2),
        "front": standing.front,
        **_figures(standing.robust.value, standing.robust.low, standing.robust.high),
    }


def curve_records(name: str) -> Callable[[Book], Records]:
    """Lines of runs that differ in this coordinate alone, of at least two values."""

    def records(book: Book) -> Records:
        lines: dict[tuple[Any, ...], dict[float, RunLine]] = defaultdict(dict)
        for line in numbered(book.runs):
            if name in line.coordinates and line.attack != "clean":
                others = tuple(sorted((k, v) for k, v in line.coordinates.items() if k != name))
                group, at = lines[line.family, others], line.coordinates[name]
                if at not in group or line.n > group[at].n:  # runs of one family differ in n besides
                    group[at] = line
        drawn = [group for group in lines.values() if len(group) > 1]
        titles = _titles([next(iter(group.values())) for group in drawn], name)
        return [
            {**facts(line), "x": x, "line": title}
            for title, group in zip(titles, drawn, strict=True)
            for x, line in sorted(group.items())
        ]

    return records


def _titles(lines: Sequence[RunLine], name: str) -> list[str]:
    """What tells lines apart: the entry, the attack, and those of the other coordinates that differ between them."""
    told = [
        key
        for key in COORDINATES
        if key not in (name, "delta")  # delta stands in the label of the entry
        and len({line.coordinates.get(key) for line in lines if key in line.coordinates}) > 1
    ]
    found = []
    for line in lines:
        parts = [f"{key} {line.coordinates[key]:g}" for key in told if key in line.coordinates]
        label = line.entry.label if name != "delta" else f"{line.entry.defense} on {line.entry.base}"
        found.append(", ".join([f"{label} / {line.attack}", *parts]))
    return [
        f"{title} ({found[:place].count(title) + 1})" if found.count(title) > 1 else title
        for place, title in enumerate(found)
    ]


def surface_records(name: str) -> Callable[[Book], Records]:
    """Games by p and another coordinate, where at least two values of it were played."""
    weights = {"delay": "pgd-skip-delayed", "known": "pgd-skip-partial"}

    def records(book: Book) -> Records:
        lines = [line for line in numbered(book.runs) if line.attack == weights[name] and name in line.coordinates]
        lowest: dict[tuple[str, float, float], dict[str, Any]] = {}
        for line in lines:
            row = {**facts(line), "x": line.coordinates[name], "p": line.coordinates["p"]}
            cell = row["defense"], row["x"], row["p"]
            if cell not in lowest or row["robust"] < lowest[cell]["robust"]:
                lowest[cell] = row
        values: dict[str, set[float]] = defaultdict(set)
        for row in lowest.values():
            values[row["defense"]].add(row["x"])
        return [row for row in lowest.values() if len(values[row["defense"]]) > 1]

    return records


def cost_records(book: Book) -> Records:
    return [
        {**facts(line), **line.spent, "work": sum(line.spent[k] for k in ("forwards", "backwards", "queries"))}
        for line in numbered(book.runs)
        if line.attack != "clean"
    ]


def neighbour_records(counts: Mapping[str, Sequence[int]], label: int) -> Records:
    """From the label counts of one example, by the set that was searched."""
    return [
        {"set": f"in {name}", "label": number, "count": count, "true": "true label" if number == label else "other"}
        for name, found in counts.items()
        for number, count in enumerate(found)
        if count or number == label or len(found) <= 20
    ]


def running_records(games: Mapping[int, Sequence[bool]]) -> Records:
    """From what was right, in the order of each game; thinned out where a stream is long."""
    found = []
    for game, right in games.items():
        total, step = 0, max(len(right) // 200, 1)
        for number, ok in enumerate(right, 1):
            total += ok
            if number % step == 0 or number == len(right):
                found.append({"game": str(game), "position": number, "accuracy": round(100 * total / number, 2)})
    return found


KINDS: dict[str, Kind] = {
    "heatmap": Kind("Robust accuracy by defense and attack", heatmap, heatmap_records),
    "pareto": Kind("Robust accuracy against the time of an answer", pareto, pareto_records),
    "attack-cost": Kind("What attacks spend", attack_cost, cost_records),
    **{
        f"curve-{name}": Kind(f"Robust accuracy over {name}", partial(curve, name), curve_records(name))
        for name in COORDINATES
    },
    **{
        f"surface-{name}": Kind(f"Robust accuracy over p and {name}", partial(surface, name), surface_records(name))
        for name in ("delay", "known")
    },
}


#: pictures of one run
OF_A_RUN: dict[str, Callable[[], alt.TopLevelMixin]] = {"neighbours": neighbours, "running": running}


@cache
def template(kind: str) -> dict[str, Any]:
    """The Vega-Lite specification of a kind, without data."""
    build = OF_A_RUN.get(kind) or KINDS[kind].build
    found: dict[str, Any] = build().to_dict(validate=False)
    return found


def spec(kind: str, records: Records, title: str = "") -> dict[str, Any]:
    """The specification of a kind with its records."""
    made = {**template(kind), "datasets": {"rows": records}}
    return {**made, "title": title} if title else made

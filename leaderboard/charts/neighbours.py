"""Labels of the neighbours of a served image, in each set that was searched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import altair as alt

from leaderboard.charts.chart import ROWS, Records, RunChart, RunData, TitledRecords

#: the sets that neighbours are searched in, as rows name them
SETS_IN_WORDS = "D: the training images; D': the augmented set, training images and adversarial copies of them"


def _spec() -> alt.TopLevelMixin:
    bars = alt.Chart(ROWS).mark_bar()
    return bars.encode(
        x=alt.X("label:O", title="label", axis=alt.Axis(labelAngle=0, labelOverlap=True)),
        y=alt.Y("count:Q", title="neighbours"),
        color=alt.Color("true:N", legend=alt.Legend(title=None), scale=alt.Scale(range=["#3b6ea8", "#c9743a"])),
        column=alt.Column("set:N", title=None),
        tooltip=[alt.Tooltip("set:N"), alt.Tooltip("label:O"), alt.Tooltip("count:Q")],
    ).properties(width=220, height=150)


def label_records(counts: Mapping[str, Sequence[int]], label: int) -> Records:
    """The label counts of one example. counts: by the set that was searched; label: the true label."""
    return [
        {"set": f"in {name}", "label": number, "count": count, "true": "true label" if number == label else "other"}
        for name, labels in counts.items()
        for number, count in enumerate(labels)
        if count or number == label or len(labels) <= 20
    ]


def _records(run: RunData) -> list[TitledRecords]:
    drawings = []
    for row in run.shown:
        if row.neighbours:
            title = f"example {row.index} (label {row.label}, {run.outcome(row)})"
            drawings.append(TitledRecords(title, label_records(row.neighbours, row.label)))
    return drawings


NEIGHBOURS = RunChart(
    name="neighbours",
    title="Labels of the neighbours",
    empty="It needs an example for which the defense searched neighbours.",
    spec=_spec,
    records=_records,
    note=SETS_IN_WORDS,
)

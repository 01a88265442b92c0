"""The page of a run: its figures, its examples, its charts, and how it was made."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from bench.analysis.compare import outcome_of
from bench.analysis.describe import clean_answers
from bench.analysis.gallery import gallery
from bench.analysis.harm import harm_of
from bench.errors import DamagedRun, one_line
from bench.game.resources import Resources
from bench.rows import Row
from bench.store import RunRecord, Store
from leaderboard.addresses import defense_address
from leaderboard.charts import RUN_CHARTS, spec_of
from leaderboard.charts.chart import RunData
from leaderboard.charts.neighbours import SETS_IN_WORDS
from leaderboard.columns import columns_of
from leaderboard.content import SMALL, Example, RunSummary, Share, level_name
from leaderboard.doubts import doubts_of_run
from leaderboard.images import gallery_data
from leaderboard.page import Site, render
from leaderboard.tables import share_cell, table_data

#: examples in the gallery; rows in the table of examples; drawings of one chart
GALLERY, TABLE, DRAWINGS = 12, 5000, 2


@dataclass(frozen=True)
class RunDetails:
    """What the page of a run shows beside its summary.

    command   the command that repeats the run; command_note: what the reader must know about it
    gallery   examples with their images; gallery_note: what could not be shown
    drawings  each with chart (its name), title and rows (its records)
    facts     names and values, for the table at the end
    cut       how many examples the table has if it does not have all; 0: it has all
    ended     when the run ended, in words. The page does not say when it was drawn: it stays while nothing changes
    """

    command: str = ""
    command_note: str = ""
    gallery: list[dict[str, Any]] = field(default_factory=list)
    gallery_note: str = ""
    drawings: list[dict[str, Any]] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)
    cut: int = 0
    ended: str = ""


def details_of(
    store: Store, record: RunRecord, run: RunSummary, resources: Resources, command: tuple[str, str] = ("", "")
) -> RunDetails:
    """Reads the details of one run. command: how to repeat it, and a note on that."""
    ended = "" if record.finished is None else f"The run ended {_utc(record.finished)}."
    try:
        served = store.all_rows(run.run)
    except DamagedRun as error:  # its figures, which do not need what is damaged, stand
        warnings.warn(f"{one_line(error)} Its page shows no examples.", stacklevel=2)
        return RunDetails(*command, gallery_note=one_line(error), facts=_facts(record, run), ended=ended)
    rows = [row for row in served if not row.poison]
    clean = clean_answers(store, record)
    right = outcome_of(store, record, rows)
    own = [row for row in served if row.poison]  # the other users' inputs are as they were
    shown, note = gallery(store, record, own or rows, resources, GALLERY) if rows else ([], "")
    if own and not note:
        note = "The attacker's inputs; those of the other users, which are judged, are as they were."
    data = RunData(rows, right, [one.row for one in shown], harm_of(record, served, clean))
    return RunDetails(
        command=command[0],
        command_note=command[1],
        gallery=gallery_data(shown, data.outcome),
        gallery_note=note,
        drawings=_drawings(data),
        examples=[_example(row, run.norm, clean, data.outcome(row)) for row in rows[:TABLE]],
        facts=_facts(record, run),
        cut=TABLE if len(rows) > TABLE else 0,
        ended=ended,
    )


def render_run_page(run: RunSummary, details: RunDetails, site: Site) -> str:
    """The page as text."""
    drawings = [{"id": f"chart-{number}", **drawing} for number, drawing in enumerate(details.drawings, 1)]
    return render(
        "run.html",
        site,
        "../",
        run=run,
        verdict=verdict_of(run),
        neighbours=any(len(one["images"]) > 3 for one in details.gallery),
        sets_in_words=SETS_IN_WORDS,
        defense_page=f"../{defense_address(run.entry.defense)}",
        details=details,
        charts=[{**one, "note": RUN_CHARTS[one["chart"]].note} for one in drawings],
        data={
            "root": "../",
            "tables": {
                "figures": table_data(columns_of("figures"), [run]),
                "examples": table_data(columns_of("examples"), details.examples, common=_common(run)),
            },
        },
        drawings={
            "specs": {one["chart"]: spec_of(RUN_CHARTS[one["chart"]]) for one in drawings},
            "drawings": drawings,
        },
    )


def _utc(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M UTC")


@dataclass(frozen=True)
class Verdict:
    """What a run says, for the first lines of its page.

    figure   robust accuracy; of a run without an attack, clean accuracy; None where there is none
    words    what the figure means
    trust    whether it is to be believed, in a few words; state: doubt, checked or unchecked; reasons: in sentences
    """

    figure: Share | None
    words: str
    trust: str
    state: str
    reasons: str


def verdict_of(run: RunSummary) -> Verdict:
    """The verdict of a run, by its own rows."""
    if run.status != "DONE" or run.robust is None:
        why = f"{run.status}: {run.reason}" if run.status != "DONE" else "it has no rows that count"
        return Verdict(None, f"There is no figure: {why}.", "", "", "")
    doubts = doubts_of_run(run)
    if doubts:
        trust, state = "not to be believed", "doubt"
    elif not run.ranked:
        trust, state = "not to be compared", "unchecked"
    else:
        trust, state = "no doubt found in this run", "checked"
    reasons = doubts or list(run.flags)
    words = "\n".join(f"{name}: {message}" for name, message in reasons)
    return Verdict(
        run.robust, _meaning(run, run.robust), trust, state, words or f"It has no flag and at least {SMALL} examples."
    )


def _meaning(run: RunSummary, robust: Share) -> str:
    """What the figure means, in one sentence."""
    images, likely = f"Of {run.n} images of {run.entry.dataset}", f"from {robust.low:.1f} to {robust.high:.1f} %"
    if not run.attacked:
        return f"{images} it answers {robust.value:.1f} % right without an attack; with 95 % confidence it is {likely}."
    if run.lost is not None:
        return (
            f"{images} that other users sent, unperturbed, it answers {robust.value:.1f} % right; the inputs of the "
            f"attacker among them cost {run.lost.value:.1f} points ({run.lost.low:.1f} to {run.lost.high:.1f})."
        )
    clean = "" if run.clean is None else f"{run.clean.value:.1f} % right without an attack and "
    under = f"{robust.value:.1f} % {'' if clean else 'right '}under {run.attack}"
    return f"{images} it answers {clean}{under}; with 95 % confidence {'the latter' if clean else 'it'} is {likely}."


def _example(row: Row, norm: str, clean: dict[tuple[int, int], int], outcome: str) -> Example:
    distance = row.distances.get(norm, math.nan)
    return Example(
        index=row.index,
        game=row.game,
        position=row.position,
        label=row.label,
        clean=clean.get((row.game, row.index)) if row.clean_answer is None else row.clean_answer,
        answer=row.answer,
        outcome=outcome,
        distance=round(float(distance), 6) if math.isfinite(distance) else None,
        queries=row.queries,
        passes=row.forwards + row.backwards,
        violation=row.violation,
        resent=tuple((row.resent or {}).get("attacked", ())),
        resent_clean=tuple((row.resent or {}).get("clean", ())),
    )


def _common(run: RunSummary) -> list[tuple[str, Any]]:
    """What the CSV of the examples says of their run in each row, so that it can be read alone."""
    common: list[tuple[str, Any]] = [
        ("Run", run.run), ("Defense", run.entry.defense), ("Base", run.entry.base), ("Parameters", run.entry.variant),
        ("Attack", run.attack), ("Dataset", run.entry.dataset), ("Norm", run.norm), ("Radius", run.eps),
        ("The attacker knows", level_name(run.tier)),
    ]  # fmt: skip
    for name, share in (("Clean %", run.clean), ("Robust %", run.robust)):
        value, low, high = (share_cell(share) or [None] * 4)[:3]
        common += [(name, value), (f"{name} low", low), (f"{name} high", high)]
    return common


def _drawings(data: RunData) -> list[dict[str, Any]]:
    """The charts of the run that have something to show."""
    return [
        {"chart": chart.name, "title": ": ".join(filter(None, (chart.title, one.title))), "rows": one.records}
        for chart in RUN_CHARTS.values()
        for one in chart.records(data)[:DRAWINGS]
    ]


def _facts(record: RunRecord, run: RunSummary) -> list[tuple[str, str]]:
    """Provenance and parameters, as text."""
    spec, made = record.spec, record.provenance
    facts = [
        ("run", record.key),
        ("came from", "" if record.origin is None else f"a bundle, {record.verification}: {json.dumps(record.origin)}"),
        ("commit", str(made.get("commit", ""))),
        ("made with", json.dumps(made.get("environment", {}))),
        ("host", str(made.get("host", ""))),
        *((name, json.dumps(spec[name]["params"])) for name in ("defense", "base", "attack", "dataset")),
        ("network", spec["network"]["name"]),
        ("game", json.dumps(spec["game"])),
        ("threat", json.dumps(spec["threat"])),
        ("spent per example", ", ".join(f"{name} {value:.4g}" for name, value in run.spent.items())),
        ("seconds", f"{run.seconds:.1f}"),
    ]
    return [(name, value) for name, value in facts if value not in ("", "{}")]

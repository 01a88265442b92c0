"""Writes the site: the overview, a page for every defense, and a page for every run that is asked for."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from bench.config import SiteSection
from bench.errors import BadValue
from leaderboard.about_page import ABOUT_ADDRESS, render_about_page
from leaderboard.addresses import defense_address, run_address
from leaderboard.content import Leaderboard, RunSummary
from leaderboard.defense_page import render_defense_page
from leaderboard.drawing import Painter
from leaderboard.flags_page import FLAGS_ADDRESS, render_flags_page
from leaderboard.kept import Kept
from leaderboard.overview import render_overview
from leaderboard.page import Site, script, style
from leaderboard.run_page import RunDetails
from leaderboard.stored_runs import StoredRuns, drawn_by


class Written(NamedTuple):
    """The pages of a site, the overview first, and how many pages of runs were drawn anew; the others stayed."""

    pages: list[Path]
    drawn: int


def runs_with_page(whole: Leaderboard, runs: str) -> list[RunSummary]:
    """The runs that get a page: `all`, `ranked` (their figure may be compared), or the first N of the ranked ones."""
    ranked = [run for run in whole.runs if run.ranked]
    if runs == "all":
        return whole.runs
    if runs == "ranked":
        return ranked
    if not re.fullmatch(r"[0-9]{1,9}", runs):
        raise BadValue(f"--runs is {runs!r}; give all, ranked or a number.")
    return ranked[: int(runs)]


def write_site(
    whole: Leaderboard,
    folder: Path,
    details: Callable[[RunSummary], RunDetails],
    about: SiteSection,
    runs: str = "ranked",
    report: Callable[[str], None] = lambda line: None,
    now: datetime | None = None,
    workers: int = 1,
) -> Written:
    """Write the site into a folder. Pages of earlier calls that do not belong to it any more are removed.

    details   reads what the page of a run needs. Of `StoredRuns` it is known what a page depends on: a page that
              would be drawn as it lies in the folder stays
    about     what the site says of itself; runs: see `runs_with_page`; report: is told what is being written
    workers   processes that draw pages of runs, at most
    """
    site = Site(about, (now or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M UTC"))
    chosen = {run.run for run in runs_with_page(whole, runs)}
    summaries = [replace(run, page=run_address(run.run)) if run.run in chosen else run for run in whole.runs]
    whole = replace(whole, runs=summaries)
    kept = Kept(folder)
    try:
        written = _write_own(kept, whole, site, report)
        with_page = [run for run in whole.runs if run.page]
        drawn = _draw_runs(kept, with_page, Painter(details, site, folder), report, workers)
        kept.remove_others()
    except BaseException:
        with suppress(OSError):  # the first error is told; pages that are not noted are drawn again
            kept.save(whole=False)
        raise
    kept.save()
    return Written([folder / address for address in (*written, *(run.page for run in with_page))], drawn)


def _write_own(kept: Kept, whole: Leaderboard, site: Site, report: Callable[[str], None]) -> list[str]:
    """Write all but the pages of runs; the addresses of the pages, the overview first."""
    if not kept.stays("assets/site.js", drawn_by()):
        kept.write("assets/site.js", script(), drawn_by())
    kept.write("assets/site.css", style())
    pages: dict[str, Callable[[], str]] = {
        "index.html": lambda: render_overview(whole, site),
        FLAGS_ADDRESS: lambda: render_flags_page(site),
        ABOUT_ADDRESS: lambda: render_about_page(site),
    }
    for address, draw in pages.items():
        kept.write(address, draw())
    names = sorted({run.entry.defense for run in whole.runs})
    for name in names:
        report(f"page of {name}")
        kept.write(defense_address(name), render_defense_page(name, whole, site))
    return [*pages, *map(defense_address, names)]


def _draw_runs(
    kept: Kept, runs: list[RunSummary], painter: Painter, report: Callable[[str], None], workers: int
) -> int:
    """Write the pages of runs that would not be drawn as they lie there; how many."""
    stored = painter.details if isinstance(painter.details, StoredRuns) else None
    inputs = {} if stored is None else stored.inputs(runs, painter.site.about)
    tasks = [
        (run, inputs.get(run.run, ""))
        for run in runs
        if stored is None or not kept.stays(run.page, inputs[run.run], stored.stamp)
    ]
    for number, (run, page) in enumerate(painter.draw_all(tasks, workers), 1):
        kept.note(run.page, page)
        report(f"page of run {run.run[:8]}, {number} of {len(tasks)}")
    return len(tasks)

"""Writes the site: the overview, a page for every defense, and a page for every run that is asked for."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from bench.cache import write_atomic
from bench.config import SiteSection
from bench.errors import BadValue
from leaderboard.about_page import ABOUT_ADDRESS, render_about_page
from leaderboard.addresses import defense_address, run_address
from leaderboard.content import Leaderboard, RunSummary
from leaderboard.defense_page import render_defense_page
from leaderboard.flags_page import FLAGS_ADDRESS, render_flags_page
from leaderboard.overview import render_overview
from leaderboard.page import Site, script, style
from leaderboard.run_page import RunDetails, render_run_page


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
) -> list[Path]:
    """Write the site into a folder. The pages that were written, the overview first.

    details: reads what the page of a run needs; about: what the site says of itself; runs: see `runs_with_page`;
    report: is told what is being written.
    """
    site = Site(about, (now or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M UTC"))
    chosen = {run.run for run in runs_with_page(whole, runs)}
    summaries = [replace(run, page=run_address(run.run)) if run.run in chosen else run for run in whole.runs]
    whole = replace(whole, runs=summaries)
    written = [folder / "index.html"]
    _write(folder / "assets" / "site.js", script())
    _write(folder / "assets" / "site.css", style())
    _write(written[0], render_overview(whole, site))
    for address, text in ((FLAGS_ADDRESS, render_flags_page(site)), (ABOUT_ADDRESS, render_about_page(site))):
        written.append(folder / address)
        _write(written[-1], text)
    for name in sorted({run.entry.defense for run in whole.runs}):
        report(f"page of {name}")
        written.append(folder / defense_address(name))
        _write(written[-1], render_defense_page(name, whole, site))
    with_page = [run for run in whole.runs if run.page]
    for number, run in enumerate(with_page, 1):
        report(f"page of run {run.run[:8]}, {number} of {len(with_page)}")
        written.append(folder / run.page)
        _write(written[-1], render_run_page(run, details(run), site))
    return written


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text.encode())

"""The site: an overview, a page for every defense, and a page for every run that is asked for."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import registry
from bench.cache import write_atomic
from bench.errors import BadValue
from leaderboard import charts
from leaderboard.page import render, script, style
from leaderboard.ranking import place
from leaderboard.rows import TIERS, Book, RunLine, Share, Standing, budget

#: what an attacker of a tier knows, for the line under the menus
TIER_WORDS = {
    "gray-black-box": "Answers alone, or a network of the attacker's own. Ranked over attacks of this kind only.",
    "train-time": "The network as it was trained, and not what the defense has become since. Ranked over attacks of "
    "this kind only.",
    "aware-realistic": "The defense as it was some inputs ago, or a copy that saw a part of the stream; and whatever "
    "needs less.",
    "aware-full": "The defense as it serves now, or a copy that sees all that the attacker sends; and whatever needs "
    "less.",
}
#: pictures of the overview, whose records its script filters
OVERVIEW = ("heatmap", "pareto", "attack-cost", "surface-delay", "surface-known")
#: pictures of a defense's page
DEFENSE = (*(f"curve-{name}" for name in charts.COORDINATES), "surface-delay", "surface-known", "attack-cost")


@dataclass(frozen=True)
class RunPage:
    """What a run's page shows beside its line: see `leaderboard.details`."""

    command: str = ""
    command_note: str = ""
    gallery: list[dict[str, Any]] = field(default_factory=list)
    gallery_note: str = ""
    charts: list[dict[str, Any]] = field(default_factory=list)
    examples: list[dict[str, Any]] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)
    cut: int = 0


def pages_of(book: Book, runs: str) -> list[RunLine]:
    """The runs that get a page: `all`, `ranked` (those whose number may be compared), or so many of these."""
    may_be = [line for line in book.runs if line.ranked]
    if runs == "all":
        return book.runs
    if runs == "ranked":
        return may_be
    if not re.fullmatch(r"[0-9]{1,9}", runs):
        raise BadValue(f"--runs is {runs!r}; give all, ranked, or how many.")
    return may_be[: int(runs)]


def write(
    book: Book,
    folder: Path,
    details: Callable[[RunLine], RunPage],
    runs: str = "ranked",
    report: Callable[[str], None] = lambda line: None,
    now: datetime | None = None,
) -> list[Path]:
    """Write the whole site into a folder; the pages that were written, the overview first."""
    made = (now or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M UTC")
    chosen = pages_of(book, runs)
    linked = {line.run for line in chosen}
    written = [folder / "index.html"]
    _write(folder / "assets" / "site.js", script())
    _write(folder / "assets" / "site.css", style())
    _write(written[0], overview(book, linked, made))
    for name in sorted({line.entry.defense for line in book.runs}):
        report(f"page of {name}")
        written.append(folder / "defenses" / f"{slug(name)}.html")
        _write(written[-1], defense_page(name, book, linked, made))
    for number, line in enumerate(chosen, 1):
        report(f"page of run {line.run[:8]}, {number} of {len(chosen)}")
        written.append(folder / "runs" / f"{line.run[:16]}.html")
        _write(written[-1], run_page(line, details(line), made))
    return written


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text.encode())


def slug(name: str) -> str:
    """A file name for any name: itself where it is harmless, else what is left of it and a digest."""
    if re.fullmatch(r"[a-z0-9][a-z0-9-]{0,60}", name):
        return name
    left = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40]
    return f"{left}-{hashlib.sha256(name.encode()).hexdigest()[:10]}".lstrip("-")


# -- the overview -----------------------------------------------------------------------------------------------------


def overview(book: Book, linked: Iterable[str], made: str) -> str:
    """The overview as text. linked: runs that have a page."""
    pages = set(linked)
    data = {
        "boards": _boards(book),
        "tiers": [*reversed(TIERS)],
        "tier_words": TIER_WORDS,
        "standings": [_standing(one) for one in sorted(book.standings, key=place)],
        "runs": [_run(line, pages, "") for line in book.runs],
    }
    return render(
        "index.html",
        root="",
        made=made,
        budget=budget,
        empty=not book.runs,
        audits=book.audits,
        tiers=TIERS,
        data=data,
        charts={name: charts.template(name) for name in OVERVIEW},
    )


def _boards(book: Book) -> list[dict[str, Any]]:
    """Every board by dataset and radius, the one with most runs first."""
    count: dict[tuple[str, str], int] = {}
    for line in book.runs:
        if line.attack != "clean":
            name = (line.entry.dataset, budget(*line.board[1:]))
            count[name] = count.get(name, 0) + 1
    ordered = sorted(count.items(), key=lambda item: (-item[1], item[0]))
    return [{"dataset": dataset, "budget": text, "runs": runs} for (dataset, text), runs in ordered]


def _share(value: Share | None) -> list[Any] | None:
    return None if value is None else [round(value.value, 3), round(value.low, 3), round(value.high, 3), value.method]


def _standing(one: Standing) -> dict[str, Any]:
    known = _known(one.entry.defense)
    return {
        "rank": one.rank,
        "defense": one.entry.defense,
        "defense_page": f"defenses/{slug(one.entry.defense)}.html",
        "variant": one.entry.variant,
        "label": one.entry.label,
        "base": one.entry.base,
        "dataset": one.entry.dataset,
        "budget": budget(*one.board[1:]),
        "tier": one.tier,
        "robust": _share(one.robust),
        "clean": _share(one.clean),
        "n": one.n or None,
        "attacks": one.attacks,
        "breakers": one.breakers,
        "ms": _ms(one.answer_s),
        "times": _rounded(one.times_base),
        "flags": one.flags,
        "paper": "" if known is None else web_address(known.paper),
        "why": one.why,
        "front": one.front,
    }


def _known(defense: str) -> registry.Entry | None:
    """What is registered under this name; None where a plug-in is no longer there."""
    return registry.defenses[defense] if defense in registry.defenses else None  # noqa: SIM401  not a dictionary


def _run(line: RunLine, linked: set[str], root: str) -> dict[str, Any]:
    return {
        "run": line.run,
        "page": f"{root}runs/{line.run[:16]}.html" if line.run in linked else "",
        "defense": line.entry.defense,
        "defense_page": f"{root}defenses/{slug(line.entry.defense)}.html",
        "variant": line.entry.variant,
        "label": line.entry.label,
        "base": line.entry.base,
        "attack": line.attack,
        "dataset": line.entry.dataset,
        "budget": budget(*line.board[1:]),
        "board": f"{line.entry.dataset}, {budget(*line.board[1:])}",
        "threat": line.threat_tag,
        "words": line.threat,
        "tier": line.tier,
        "n": line.n,
        "clean": _share(line.clean),
        "robust": _share(line.robust),
        "ms": _ms(line.answer_s),
        "flags": line.flags,
        "reason": f"{line.status}: {line.reason}" if line.status != "DONE" else "",
        "ranked": line.ranked,
        "coordinates": line.coordinates,
        "spent": {name: _rounded(value) for name, value in line.spent.items()},
    }


def _ms(seconds: float | None) -> float | None:
    return _rounded(None if seconds is None else 1000 * seconds)


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def web_address(text: str) -> str:
    """An address that a page may link to: a plug-in may give any text."""
    return text if text.startswith("https://") else ""


# -- a defense, a run -------------------------------------------------------------------------------------------------


def defense_page(name: str, book: Book, linked: Iterable[str], made: str) -> str:
    """The page of a defense, over all boards."""
    known = _known(name)
    pages = set(linked)
    own = Book(
        [line for line in book.runs if line.entry.defense == name],
        [one for one in book.standings if one.entry.defense == name],
    )
    drawn = []
    boards = sorted({line.board for line in own.runs if line.attack != "clean"})
    for kind in DEFENSE:
        whole = kind == "curve-eps"
        parts = {board[: 2 if whole else 3]: board[1] if whole else budget(*board[1:]) for board in boards}
        for board, radius in parts.items():
            part = Book([line for line in own.runs if line.board[: len(board)] == board])
            rows = charts.KINDS[kind].records(part)
            if rows:
                title = f"{charts.KINDS[kind].title}, {board[0]} {radius}"
                drawn.append({"kind": kind, "title": title, "rows": rows})
    tried = {(line.entry, line.board, line.tier) for line in own.runs if line.attack != "clean"}
    played = [one for one in own.standings if one.rank is not None or (one.entry, one.board, one.tier) in tried]
    return render(
        "defense.html",
        root="../",
        budget=budget,
        made=made,
        name=name,
        summary="" if known is None else known.summary,
        paper="" if known is None else web_address(known.paper),
        standings=sorted(played, key=lambda one: (one.board, TIERS.index(one.tier), place(one))),
        charts=drawn,
        specs={chart["kind"]: charts.template(chart["kind"]) for chart in drawn},
        data={"runs": [_run(line, pages, "../") for line in own.runs]},
    )


def run_page(line: RunLine, page: RunPage, made: str) -> str:
    """The page of a run."""
    return render(
        "run.html",
        root="../",
        made=made,
        line=line,
        defense_page=f"../defenses/{slug(line.entry.defense)}.html",
        specs={chart["kind"]: charts.template(chart["kind"]) for chart in page.charts},
        data={"examples": page.examples},
        command=page.command,
        command_note=page.command_note,
        gallery=page.gallery,
        gallery_note=page.gallery_note,
        charts=page.charts,
        facts=page.facts,
        cut=page.cut,
    )

"""A suite's runs beside published figures: the run of each cell, and whether it agrees with the figure.

A figure of a paper comes from other networks and mostly without its n, so it is compared with a margin: it agrees where
our whole interval lies within the margin of it, disagrees where our whole interval lies outside, and is undecided
otherwise (two one-sided tests; Schuirmann 1987). More examples decide more.

A column may also hold the worst case over all attacks of a row, per example, with what broke it, or what that worst
case gains over the base alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bench.analysis.answered import Answered
from bench.analysis.figures import UNRANKED
from bench.analysis.worst_case import AttackRun, breakers_in_words, gain_over_base, over_runs, shared_games
from bench.config import Suite, SuiteTable, TableColumn
from bench.errors import BadValue, UnknownName
from bench.planning.spec import placeless
from bench.threat import ThreatModel, parse_number, tier_of

#: points of accuracy within which a published figure counts as reproduced. No source gives one; in the paper's own
#: table 2 the clean accuracy of one defense (RMC) varies by 4.3 points with the base alone, so less would ask for the
#: same network.
MARGIN = 5.0

Verdict = Literal["agrees", "disagrees", "undecided", ""]


@dataclass(frozen=True)
class Cell:
    """One run in the table, in percent. `at_budget` is for attacks of minimal norm, whose `value` is uncut.

    violations: images that broke the threat model and were judged as the clean ones. No figure is held against such a
    value.
    kind: see `bench.config.TableColumn`; a worst case and a gain are of several runs, and `run` is empty
    breakers: of a worst case, which attack broke which share of the broken examples
    """

    row: str
    column: str
    run: str
    n: int
    value: float
    low: float
    high: float
    paper: float | None
    at_budget: float | None = None
    violations: int = 0
    kind: Literal["run", "worst", "gain"] = "run"
    breakers: str = ""

    @property
    def difference(self) -> float | None:
        return None if self.paper is None else self.value - self.paper

    @property
    def verdict(self) -> Verdict:
        return "" if self.violations else verdict(self.low, self.high, self.paper)


@dataclass(frozen=True)
class Report:
    """Cells by row and column (None: not run), in the order of the suite's table. declined: how many were not run since
    the attack declined."""

    suite: str
    source: str
    about: str
    columns: list[str]
    rows: list[tuple[str, list[Cell | None]]]
    declined: int = 0

    @property
    def cells(self) -> list[Cell]:
        return [cell for _, cells in self.rows for cell in cells if cell is not None]

    @property
    def missing(self) -> int:
        """The number of cells without a run, in rows that have at least one run."""
        return sum(cell is None for _, cells in self.rows for cell in cells)

    def count(self, which: Verdict) -> int:
        return sum(cell.verdict == which for cell in self.cells if cell.paper is not None)


def verdict(low: float, high: float, paper: float | None, margin: float = MARGIN) -> Verdict:
    """Whether an interval [low, high] agrees with a figure (all in percent): see the module."""
    if paper is None:
        return ""
    if paper - margin <= low and high <= paper + margin:
        return "agrees"
    if high < paper - margin or low > paper + margin:
        return "disagrees"
    return "undecided"


def table_of(name: str, suites: Mapping[str, Suite], before: tuple[str, ...] = ()) -> SuiteTable:
    """The table that a suite's runs are laid out in: its own, or another suite's."""
    if name in before:
        raise BadValue(f"The suites {', '.join(before)} name each other in table_of; give one of them a table.")
    if name not in suites:
        raise UnknownName("suite", name, suites, "bench list suites")
    suite = suites[name]
    if suite.table is not None:
        return suite.table
    if not suite.table_of:
        with_tables = sorted(n for n, s in suites.items() if s.table is not None or s.table_of)
        raise BadValue(f"The suite {name!r} has no table to report in; these have one: {', '.join(with_tables)}.")
    return table_of(suite.table_of, suites, (*before, name))


def lay_out(
    suite: str,
    table: SuiteTable,
    results: Sequence[dict[str, Any]],
    specs: Mapping[str, Any],
    common: Mapping[str, Any] | None = None,
    answers: Callable[[str], Answered] | None = None,
) -> Report:
    """The table filled with described runs (see `bench.analysis.describe`) and their specs by key, oldest first.

    common: what every run in the table has. answers: the outcomes of a run by its key, for columns of worst cases.
    If several runs fit a cell, the run with most examples is taken, of these the newest. Rows without any run are
    left out.
    """
    rows, declined = [], 0
    for row in table.rows:
        cells: list[Cell | None] = []
        refused = 0
        for number, column in enumerate(table.columns):
            paper = row.paper[number] if row.paper else "-"
            where = {**(common or {}), **row.where, **column.where}
            meant = [r for r in results if r["status"] in ("DONE", "SKIPPED") and matches(where, specs[r["run"]])]
            fitting = [r for r in meant if r["status"] == "DONE"]
            if column.kind != "run" and answers is not None:
                own = _comparable(fitting)
                base = _comparable([r for r in results if _is_base_of(specs[r["run"]], own, specs)])
                figure = None if isinstance(paper, str) else float(paper)
                cells.append(_over_runs(row.title, column, own, base, specs, answers, figure))
                continue
            best = max(enumerate(fitting), key=lambda item: (item[1]["n"], item[0]), default=(0, None))[1]
            figure = None if isinstance(paper, str) else float(paper)
            cells.append(None if best is None else _cell(row.title, column.title, best, figure))
            refused += best is None and bool(meant)
        if any(cell is not None for cell in cells):
            rows.append((row.title, cells))
            declined += refused
    shown = [specs[cell.run] for _, cells in rows for cell in cells if cell is not None and cell.run]
    return Report(suite, table.source, conditions(shown), [column.title for column in table.columns], rows, declined)


def published_figure(spec: Mapping[str, Any], suites: Mapping[str, Suite]) -> tuple[float, str] | None:
    """The figure that a suite's own table publishes for a run, in percent, and its source; None if none does.

    Suites may set published figures beside runs on other data or at another radius. Such a figure is not one of this
    run, so the source must name its dataset, and the table its radius.
    """
    for suite in suites.values():
        table = suite.table
        if table is None or not matches(suite.where, spec):
            continue
        if spec["dataset"]["name"] not in table.source.lower().replace("-", ""):
            continue
        for row in (row for row in table.rows if row.paper and matches(row.where, spec)):
            for column, paper in zip(table.columns, row.paper, strict=True):
                if "eps" not in {**suite.where, **row.where, **column.where}:
                    continue
                if column.kind == "run" and not isinstance(paper, str) and matches(column.where, spec):
                    return float(paper), table.source
    return None


def _comparable(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Attacked runs whose figures may be compared."""
    return [
        r
        for r in results
        if r["status"] == "DONE" and r["attack"] != "clean" and not any(f["id"] in UNRANKED for f in r["flags"])
    ]


def _cost(result: Mapping[str, Any]) -> float:
    """Passes and queries that the attack spent on an example."""
    return float(sum(result["ledger"][name] for name in ("forwards", "backwards", "queries")) / result["n"])


def _is_base_of(spec: Mapping[str, Any], runs: Sequence[dict[str, Any]], specs: Mapping[str, Any]) -> bool:
    """Whether a run is of the base alone that these runs are on, over the same data at the same radius."""
    if spec["defense"]["name"] != spec["base"]["name"] or not runs:
        return False
    ours = specs[runs[0]["run"]]
    same = all(spec[name] == ours[name] for name in ("base", "dataset", "seed"))
    return same and all(spec["threat"][name] == ours["threat"][name] for name in ("norm", "eps"))


def _over_runs(
    row: str, column: TableColumn, own: list[dict[str, Any]], base: list[dict[str, Any]], specs: Mapping[str, Any],
    answers: Callable[[str], Answered], paper: float | None,
) -> Cell | None:  # fmt: skip
    """The worst case over runs, or what it gains over that of the base; None where it cannot be told.

    Only examples count that every attack saw, so that no attack's choice of them enters.
    """
    played = []
    for result in own:
        found, threat = answers(result["run"]), ThreatModel(**specs[result["run"]]["threat"])
        if found.right:
            name = specs[result["run"]]["attack"]["name"]
            played.append(
                AttackRun(result["run"], name, tier_of(threat), _cost(result), found.right, found.game, found.shared)
            )
    if not played:
        return None
    examples = set.intersection(*(set(run.right) for run in played))
    if column.kind == "worst":
        verdict = over_runs(played, examples, "aware-full")
        if verdict is None:
            return None
        value, low, high = (100 * verdict["robust_accuracy"][name] for name in ("value", "low", "high"))
        words = breakers_in_words(verdict["breakers"])
        return Cell(row, column.title, "", verdict["n"], value, low, high, paper, kind="worst", breakers=words)
    shared = max(run.shared for run in played)
    games = shared_games([run.game for run in played], examples) if shared else None
    theirs = [answers(r["run"]).right for r in base]
    ours = [{index: run.right[index] for index in examples} for run in played]
    compared = gain_over_base(ours, [one for one in theirs if one], games)
    if compared is None:
        return None
    gained = compared[2]
    count = sum(any(index in one for one in theirs) for index in examples)
    return Cell(
        row, column.title, "", count, 100 * gained.value, 100 * gained.low, 100 * gained.high, paper, kind="gain"
    )


def conditions(specs: Sequence[Mapping[str, Any]]) -> str:
    """The conditions of a report's runs: data, networks, radii, n and seeds; several values if they differ."""
    facts: dict[str, dict[str, None]] = {"": {}, "network": {}, "radius": {}, "n": {}, "seed": {}}
    for spec in specs:
        size = spec["dataset"]["params"].get("train_size", 0)
        facts[""][spec["dataset"]["name"] + (f" ({size} training images)" if size else "")] = None
        facts["network"][placeless(spec["network"])["name"]] = None
        if spec["threat"]["eps"]:
            facts["radius"][f"{spec['threat']['norm']} {spec['threat']['eps']:.3g}"] = None
        facts["n"][str(spec["n"])] = None
        facts["seed"][str(spec["seed"])] = None
    return "; ".join(f"{name} {', '.join(values)}".strip() for name, values in facts.items() if values)


def _cell(row: str, column: str, result: dict[str, Any], paper: float | None) -> Cell | None:
    uncut, robust = result.get("uncut_accuracy"), result["robust_accuracy"]
    shown = uncut or robust
    if shown is None:
        return None
    at_budget = 100 * robust["value"] if uncut and robust else None
    value, low, high = (100 * shown[name] for name in ("value", "low", "high"))
    return Cell(row, column, result["run"], result["n"], value, low, high, paper, at_budget, result["violations"])


def matches(where: Mapping[str, Any], spec: Mapping[str, Any]) -> bool:
    """Whether a run's spec has all these values: names (defense, base, attack, dataset), eps, norm, or dotted keys."""
    return all(_same(wanted, value_at(key, spec)) for key, wanted in where.items())


def value_at(key: str, spec: Mapping[str, Any]) -> Any:
    """The value of `defense`, `eps` or a dotted key such as `defense.delta` in a run's spec; None where it has none."""
    section, _, name = key.partition(".")
    if not name:
        return spec["threat"][section] if section in ("eps", "norm") else spec[section]["name"]
    part = spec[section]
    if section == "threat" or (section, name) == ("game", "protocol"):
        return part.get(name)
    return part["params"].get(name)


def _same(wanted: Any, value: Any) -> bool:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return math.isclose(parse_number("", wanted), value, rel_tol=1e-9, abs_tol=1e-12)
        except BadValue:
            return False
    return bool(wanted == value)


def agreement(report: Report) -> str:
    """One line: how many figures there are, and how they compare."""
    figures = [cell for cell in report.cells if cell.paper is not None]
    cheats = sum(cell.violations > 0 for cell in report.cells)
    end = f"{report.missing} cells not run" + (f" ({report.declined} declined)" if report.declined else "")
    end += f"; {cheats} broke the threat model (V1)" if cheats else ""
    if not figures:
        return f"{len(report.cells)} runs, no published figure; {end}"
    counts = ", ".join(f"{report.count(which)} {name}" for which, name in _WORDS)
    return f"{len(figures)} published figures: {counts} (margin {MARGIN:g} points); {end}"


_WORDS: tuple[tuple[Verdict, str], ...] = (("agrees", "agree"), ("disagrees", "disagree"), ("undecided", "undecided"))


def short(cell: Cell) -> str:
    """`0.0 (0-1)`: the value with the ends of its interval rounded outwards, in percent; marked where it is not to be
    used."""
    low, high = math.floor(cell.low + 1e-7), math.ceil(cell.high - 1e-7)
    if cell.kind == "gain":
        return f"{cell.value:+.1f} ({low:+d} to {high:+d})"
    return f"{cell.value:.1f} ({low}-{high}){' V1' if cell.violations else ''}"


def to_markdown(report: Report) -> str:
    """The table as Markdown; a cell is ours, the published figure and the verdict."""
    lines = [f"| {' | '.join(['', *report.columns])} |", f"|{'---|' * (len(report.columns) + 1)}"]
    for title, cells in report.rows:
        lines.append(f"| {' | '.join([_escaped(title), *(_in_markdown(cell) for cell in cells)])} |")
    source = f" Published: {_escaped(report.source)}." if report.source else ""
    about = f"{_escaped(report.about)}. Accuracy in % (95 % interval) / published.{source} {agreement(report)}."
    return "\n".join([*lines, "", about, ""])


def _in_markdown(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    parts = [short(cell)]
    if cell.at_budget is not None:
        parts.append(f"[{cell.at_budget:.1f} at budget]")
    if cell.paper is not None:
        parts.append(f"/ {cell.paper:g} {cell.verdict}".strip())
    if cell.breakers:
        parts.append(f"by {_escaped(cell.breakers)}")
    return " ".join(parts)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")

"""A suite beside published figures: the verdict, which run stands where, and the three forms of the page."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from bench import config
from bench.analysis.answered import Answered
from bench.analysis.report import (
    MARGIN,
    Cell,
    agreement,
    lay_out,
    matches,
    published_figure,
    short,
    table_of,
    to_markdown,
    verdict,
)
from bench.config import SuiteTable
from bench.errors import BadValue, UnknownName
from leaderboard.report import render
from tests.conftest import Bench


@pytest.mark.parametrize(
    ("low", "high", "paper", "expected"),
    [
        (48, 52, 50, "agrees"),
        (45, 55, 50, "agrees"),
        (44.9, 55, 50, "undecided"),
        (40, 60, 50, "undecided"),
        (55.1, 60, 50, "disagrees"),
        (30, 44.9, 50, "disagrees"),
        (30, 45, 50, "undecided"),
        (0, 100, None, ""),
    ],
)
def test_the_verdict_is_of_the_whole_interval(low: float, high: float, paper: float | None, expected: str) -> None:
    assert MARGIN == 5 and verdict(low, high, paper) == expected


def spec(**values: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "defense": {"name": "rmc-plus", "params": {"delta": 0.5, "recipe": "fast"}},
        "base": {"name": "regular", "params": {}},
        "attack": {"name": "pgd", "params": {"steps": 10}},
        "dataset": {"name": "mnist", "params": {}},
        "threat": {"norm": "linf", "eps": 8 / 255, "delay": 50, "known": 0.3},
        "game": {"params": {"p": 100}},
        "network": {"name": "mnist-cnn"}, "n": 10, "seed": 0,
    }  # fmt: skip
    for key, value in values.items():
        section, _, name = key.partition("__")
        (found[section] if section in ("threat",) else found[section]["params"])[name] = value
    return found


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"defense": "rmc-plus", "base": "regular", "attack": "pgd", "dataset": "mnist"}, True),
        ({"defense": "rmc"}, False),
        ({"eps": "8/255", "norm": "linf"}, True),
        ({"eps": 0.03}, False),
        ({"defense.delta": "0.5", "game.p": 100, "threat.delay": 50, "attack.steps": 10}, True),
        ({"defense.delta": 1}, False),
        ({"defense.recipe": "fast"}, True),
        ({"defense.nothing": 1}, False),
        ({"threat.known": "three"}, False),
    ],
)
def test_a_cell_is_known_by_names_and_dotted_keys(where: dict[str, Any], expected: bool) -> None:
    assert matches(where, spec()) is expected


def result(run: str, n: int, value: float, status: str = "DONE", **more: Any) -> dict[str, Any]:
    estimate = {"value": value, "low": value - 0.01, "high": value + 0.01}
    return {"run": run, "status": status, "n": n, "robust_accuracy": estimate, "violations": 0, **more}


TABLE = SuiteTable.model_validate(
    {
        "source": "A | paper",
        "columns": [{"title": "p 50", "where": {"game.p": 50}}, {"title": "p 100", "where": {"game.p": 100}}],
        "rows": [
            {"title": "half", "where": {"defense.delta": 0.5}, "paper": [50, "-"]},
            {"title": "whole", "where": {"defense.delta": 1}, "paper": [10, 20]},
            {"title": "never", "where": {"defense.delta": 9}},
        ],
    }
)


def test_the_run_of_most_examples_stands_in_a_cell_and_of_these_the_newest() -> None:
    specs = {
        "a": spec(game__p=50), "b": spec(game__p=50), "c": spec(game__p=50), "d": spec(game__p=50),
        "e": spec(defense__delta=1.0),
    }  # fmt: skip
    results = [
        result("a", 1000, 0.52), result("b", 1000, 0.5), result("c", 20, 0.1), result("d", 5000, 0.1, "FAILED"),
        result("e", 100, 0.9, uncut_accuracy={"value": 0.2, "low": 0.15, "high": 0.3}),
    ]  # fmt: skip
    made = lay_out("mine", TABLE, results, specs)
    assert [title for title, _ in made.rows] == ["half", "whole"] and made.missing == 2
    (first, nothing), (empty, minimal) = (cells for _, cells in made.rows)
    assert nothing is None and empty is None
    assert first is not None and (first.run, first.verdict, first.difference) == ("b", "agrees", 0.0)
    # of an attack of minimal norm the uncut figure is set beside the paper's, the one at the budget is shown
    assert minimal is not None and (minimal.value, minimal.at_budget, minimal.paper) == (20.0, 90.0, 20.0)
    assert minimal.verdict == "undecided"
    assert agreement(made) == "2 published figures: 1 agree, 0 disagree, 1 undecided (margin 5 points); 2 cells not run"
    declined = [*results, result("f", 0, 0.0, "SKIPPED"), result("g", 0, 0.0, "FAILED")]
    one_more = lay_out(
        "mine", TABLE, declined, {**specs, "f": spec(game__p=100), "g": spec(game__p=100, defense__delta=1.0)}
    )
    assert one_more.rows == made.rows and agreement(one_more).endswith("; 2 cells not run (1 declined)")
    text = to_markdown(made)
    assert "| half | 50.0 (49-51) / 50 agrees | - |" in text and "A \\| paper" in text
    assert "mnist; network mnist-cnn; radius linf 0.0314; n 10; seed 0" in text


def test_what_a_suite_is_about_keeps_other_runs_out() -> None:
    """A run with another radius or dataset may have been asked for under the suite's name."""
    specs = {"a": spec(game__p=50), "b": spec(game__p=50, threat__eps=0.01)}
    results = [result("a", 10, 0.5), result("b", 9999, 0.9)]
    first = lay_out("mine", TABLE, results, specs, {"dataset": "mnist", "eps": "8/255"}).rows[0][1][0]
    assert first is not None and first.run == "a"
    assert lay_out("mine", TABLE, results, specs, {"dataset": "cifar10"}).cells == []
    assert "radius linf 0.01" in lay_out("mine", TABLE, results, specs).about


def test_a_cell_without_a_published_figure_has_no_verdict() -> None:
    cell = Cell("", "", "x", 10, 50.0, 49.999999999, 50.0000000001, None)
    assert cell.verdict == "" and cell.difference is None and short(cell) == "50.0 (50-50)"


def test_a_network_of_a_file_is_named_without_its_folder() -> None:
    own = {**spec(game__p=50), "network": {"name": "/home/me/nets/mine.py:build", "params": {}}}
    made = lay_out("mine", TABLE, [result("a", 10, 0.5)], {"a": own})
    assert "network mine.py:build;" in made.about and "/home" not in to_markdown(made)


def test_an_attack_that_broke_the_rules_is_held_against_no_figure() -> None:
    results = [result("a", 1000, 0.5, violations=40)]
    made = lay_out("mine", TABLE, results, {"a": spec(game__p=50)})
    (cell,) = made.cells
    assert cell.verdict == "" and made.count("agrees") == 0 and "1 broke the threat model" in agreement(made)
    assert "| half | 50.0 (49-51) V1 / 50 | - |" in to_markdown(made)


def test_the_page_escapes_what_it_is_given_and_fetches_nothing() -> None:
    evil = "<script>alert(1)</script>"
    table = SuiteTable.model_validate(
        {
            "source": evil,
            "columns": [{"title": evil, "where": {}}],
            "rows": [{"title": evil, "where": {}, "paper": [50]}],
        }
    )
    page = render(lay_out(evil, table, [result(evil, 10, 0.5)], {evil: spec()}))
    assert "<script" not in page and "default-src &#39;none&#39;" in page and 'class="agrees"' in page

    class Links(HTMLParser):
        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            assert not {name for name, _ in attributes} & {"src", "href", "onclick"}

    Links().feed(page)


SUITE = """
[suite.tiny]
summary = "two radii"
cells = [{ defense = ["regular"], attack = ["clean", "fgsm", "jsma"], n = 10, set = { "base.epochs" = 3 } }]
[suite.tiny.table]
source = "somebody 2026"
columns = [
    { title = "clean", where = { attack = "clean" } },
    { title = "FGSM", where = { attack = "fgsm" } },
    { title = "JSMA", where = { attack = "jsma" } },
]
rows = [{ title = "none", where = { defense = "regular" }, paper = [99, "-", 0] }]
[suite.other]
cells = []
[suite.other.table]
columns = [{ title = "all", where = { attack = "clean" } }]
rows = [{ title = "none", where = { defense = "regular" }, paper = [50] }]
[suite.smaller]
table_of = "tiny"
cells = [{ defense = ["regular"], attack = ["clean"], n = 5, set = { "base.epochs" = 3 } }]
[suite.loose]
cells = [{ defense = ["regular"], attack = ["clean"], n = 5 }]
"""


def test_from_a_suite_to_its_report(bench: Bench, tmp_path: Path) -> None:
    Path("bench.toml").write_text(SUITE)
    none = bench("report", "tiny")
    assert none.code == 2 and none.err.count("\n") == 1
    assert bench("run", "--suite", "tiny", "--workers", "1").code == 0
    assert bench("run", "--suite", "tiny", "-n", "4", "--attack", "fgsm", "--workers", "1").code == 0
    told = bench("report", "tiny")
    assert told.code == 0 and "2 published figures" in told.out and "FGSM" in told.out
    cells = [json.loads(line) for line in bench("report", "tiny", "--json").out.splitlines()]
    assert [(cell["column"], cell["n"], cell["paper"]) for cell in cells] == [
        ("clean", 10, 99.0), ("FGSM", 10, None), ("JSMA", 10, 0.0),
    ]  # fmt: skip
    assert cells[2]["at_budget"] is not None and cells[0]["verdict"] in ("undecided", "disagrees")
    four = [json.loads(line) for line in bench("report", "tiny", "--json", "-n", "4").out.splitlines()]
    assert [cell["column"] for cell in four] == ["FGSM"]
    assert bench("report", "tiny", "--format", "markdown").out.startswith("|  | clean | FGSM | JSMA |")
    assert [
        json.loads(line)["paper"] for line in bench("report", "tiny", "--table", "other", "--json").out.splitlines()
    ] == [50]
    assert bench("run", "--suite", "other").code == 2
    assert bench("report", "tiny", "--format", "html", "--out", "page.html").code == 0
    assert Path("page.html").read_text().startswith("<!doctype html>")
    # a run belongs to every suite that asked for it, also where another made it
    assert bench("run", "--suite", "smaller", "--workers", "1").code == 0
    assert "99" in bench("report", "smaller").out


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("tinny",), "No suite is called 'tinny'. Did you mean 'tiny'?"),
        (("loose",), "The suite 'loose' has no table to report in"),
        (("tiny", "--format", "pdf"), "--format is 'pdf'; give text, markdown or html"),
        (("tiny", "--json", "--format", "html"), "were both given"),
        (("tiny", "--table", "othr"), "No suite is called 'othr'. Did you mean 'other'?"),
        (("tiny", "-n", "77"), "no finished run of the suite 'tiny' with n 77"),
    ],
)
def test_a_wrong_report_is_one_line(bench: Bench, args: tuple[str, ...], words: str) -> None:
    Path("bench.toml").write_text(SUITE)
    assert bench("run", "--suite", "smaller", "--workers", "1").code == 0
    done = bench("report", *args)
    assert done.code == 2 and done.err.count("\n") == 1 and words in done.err


@pytest.mark.parametrize("key", ["attak", "seed", "oracle.x"])
def test_a_table_that_asks_for_what_no_run_has_is_refused(bench: Bench, key: str) -> None:
    Path("bench.toml").write_text(SUITE.replace('{ attack = "fgsm" }', f'{{ "{key}" = "fgsm" }}'))
    done = bench("report", "tiny")
    assert done.code == 2 and done.err.count("\n") == 1 and f"a run has no '{key}'" in done.err


def test_suites_that_name_each_other_are_refused(bench: Bench) -> None:
    Path("bench.toml").write_text(
        SUITE + '[suite.a]\ntable_of = "b"\ncells = []\n[suite.b]\ntable_of = "a"\ncells = []\n'
    )
    done = bench("report", "a")
    assert done.code == 2 and "name each other in table_of" in done.err


def test_a_row_of_the_wrong_width_is_refused() -> None:
    Path("bench.toml").write_text(SUITE.replace("[99,", "[99, 98,"))
    with pytest.raises(BadValue, match="'none' has 4 figures for 3 columns"):
        config.load(Path("bench.toml"))


def test_the_papers_tables_are_complete() -> None:
    """As many figures as the tables have, and every row that a suite runs is one of its table's."""
    suites = config.load(None).suite
    counts = {
        name: sum(isinstance(figure, float) for row in table_of(name, suites).rows for figure in row.paper)
        for name in ("table1", "table2", "table3", "table5a", "table5b")
    }
    assert counts == {"table1": 120, "table2": 120, "table3": 22, "table5a": 21, "table5b": 27}
    assert table_of("table2-small", suites) is table_of("table2", suites)
    with pytest.raises(UnknownName):
        table_of("table9", suites)
    for name in ("table1", "table2"):
        figures = {row.title: row.paper for row in table_of(name, suites).rows}
        assert all(row[2] == row[3] for row in figures.values())  # BIM and PGD against the one figure
    mnist = {row.title: row.paper for row in table_of("table1", suites).rows}
    assert mnist["jacobian, webnn"] == [94.2, 55.5, 55.6, 55.6, 58.3, 79]
    for name in ("table1", "table2"):  # the other reading holds the same five figures, each once
        for row, other in zip(table_of(name, suites).rows, table_of(f"{name}-cw-lost", suites).rows, strict=True):
            assert (row.title, row.where) == (other.title, other.where) and other.paper[4] == "-"
            assert [*other.paper[:4], other.paper[5]] == [*row.paper[:3], *row.paper[4:]]


@pytest.mark.parametrize(
    ("suite", "cells", "rows"),
    [("table1", 120, 20), ("table5a-mnist", 21, 7), ("table5b-mnist", 27, 9), ("webnn-bank", 16, 4)],
)
def test_a_suite_plans_one_run_for_every_cell(bench: Bench, mnist_dir: Path, suite: str, cells: int, rows: int) -> None:
    plans = bench("run", "--suite", suite, "--dry-run", "--json", "--data-dir", mnist_dir).runs
    results = [{**result(plan["run"], plan["n"], 0.5)} for plan in plans]
    made = lay_out(suite, table_of(suite, config.load(None).suite), results, {p["run"]: p["spec"] for p in plans})
    assert len(plans) == cells == len(made.cells) and len(made.rows) == rows and made.missing == 0
    assert len({cell.run for cell in made.cells}) == cells


@pytest.mark.parametrize(
    ("suite", "cells"), [("table2", 120), ("table2-small", 48), ("table5a-small", 21), ("table5b", 27)]
)
def test_the_cifar10_suites_too(bench: Bench, cifar10_dir: Path, suite: str, cells: int) -> None:
    plans = bench("run", "--suite", suite, "--dry-run", "--json", "--data-dir", cifar10_dir).runs
    results = [{**result(plan["run"], plan["n"], 0.5)} for plan in plans]
    made = lay_out(suite, table_of(suite, config.load(None).suite), results, {p["run"]: p["spec"] for p in plans})
    assert len(made.cells) == cells == len({cell.run for cell in made.cells}) and made.missing == 0


# -- worst cases over the runs of a row --------------------------------------------------------------------------------

WORST = SuiteTable.model_validate(
    {
        "columns": [
            {"title": "direct", "where": {"attack": "pgd-skip"}},
            {"title": "worst", "kind": "worst"},
            {"title": "gain", "kind": "gain"},
        ],
        "rows": [{"title": "mine", "where": {"defense": "mine"}, "paper": [80, 55, "-"]}],
    }
)


def attacked(
    run: str, attack: str, cost: int, defense: str = "mine", flags: tuple[str, ...] = ()
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A described run and its spec."""
    made = spec()
    made |= {"defense": {"name": defense, "params": {}}, "attack": {"name": attack, "params": {}}, "seed": 0}
    made["threat"] = {"norm": "linf", "eps": 0.1, "weights": "adapted"}
    ledger = {"forwards": cost, "backwards": cost, "queries": 0}
    described = result(run, 10, 0.5, attack=attack, flags=[{"id": flag} for flag in flags], ledger=ledger)
    return described, made


def test_the_published_figure_of_a_run_is_that_of_its_suite() -> None:
    suites = config.load(None).suite

    def known(attack: str, defense: str = "rmc", dataset: str = "mnist", eps: float = 0.3) -> tuple[float, str] | None:
        run = spec(threat__eps=eps)
        run |= {name: {**run[name], "name": value} for name, value in
                (("attack", attack), ("defense", defense), ("dataset", dataset))}  # fmt: skip
        return published_figure(run, suites)

    source = "Wu, Yuan, Wu 2020, table 1 (MNIST, eps 0.3)"
    assert known("fgsm") == (99.3, source) and known("fgsm", "webnn") == (70.4, source)
    assert known("jsma") is None, "the table names no radius for it"
    assert known("fgsm", eps=0.2) is None and known("fgsm", dataset="digits") is None and known("fgsm", "mine") is None


def test_a_worst_case_is_per_example_and_says_what_broke_it_and_what_it_gains() -> None:
    """Ten examples; the cheaper attack breaks 0 to 3, the dearer 2 to 5, a cheat all, and the base falls in 0 to 6."""
    right = {
        "cheap": {i: i > 3 for i in range(10)}, "dear": {i: not 2 <= i <= 5 for i in range(10)},
        "cheat": dict.fromkeys(range(10), False), "others": dict.fromkeys(range(10), False),
        "base": {i: i > 6 for i in range(10)}, "empty": {},
    }  # fmt: skip
    runs = [
        attacked("dear", "apgd-unrolled", 1000), attacked("cheap", "pgd-skip", 10),
        attacked("cheat", "cheater", 1, flags=("V1",)), attacked("others", "dia", 1, flags=("poison",)),
        attacked("base", "pgd-skip", 10, "regular"), attacked("empty", "cw-l2", 5),
    ]  # fmt: skip
    specs = {described["run"]: made for described, made in runs}
    answers = {run: Answered(found, dict.fromkeys(found, 0), "") for run, found in right.items()}
    made = lay_out("mine", WORST, [described for described, _ in runs], specs, answers=answers.__getitem__)
    ((_, (direct, worst, gained)),) = made.rows
    assert direct is not None and (direct.run, direct.paper) == ("cheap", 80.0)
    assert worst is not None and (worst.value, worst.n, worst.paper, worst.run) == (40.0, 10, 55.0, "")
    assert worst.breakers == "pgd-skip 67%, apgd-unrolled 33%"
    assert gained is not None and gained.value == pytest.approx(10) and gained.low < 0 < gained.high
    assert short(gained).startswith("+10.0 (-") and " to +" in short(gained)
    assert "by pgd-skip 67%" in to_markdown(made) and "pgd-skip 67%" in render(made)
    alone = lay_out("mine", WORST, [runs[1][0]], specs, answers=answers.__getitem__)
    assert alone.rows[0][1][2] is None, "no run of the base, so no gain can be told"


def test_the_fallen_defenses_fall_on_digits_as_the_suite_says(bench: Bench) -> None:
    small = ["--set", "base.epochs=8", "--set", "attack.steps=10", "--set", "attack.square_queries=20",
             "--set", "threat.queries=60", "--set", "attack.restarts=1", "--set", "attack.samples=2"]  # fmt: skip
    done = bench("run", "--suite", "fallen-digits", "-n", "10", "--workers", "1", "--json", *small)
    assert done.code == 0, done.err
    assert all(run["violations"] == 0 for run in done.runs)
    cells = [json.loads(line) for line in bench("report", "fallen-digits", "--json").out.splitlines()]
    found = {(cell["row"], cell["column"]): cell for cell in cells}
    for defense in ("anti-adversary", "hedge", "dent"):
        assert found[defense, "gain over the base"]["low"] <= 0, "nothing is gained over the base for sure"
        worst = found[defense, "worst case"]
        assert worst["value"] <= found[defense, "direct"]["value"] and worst["run"] == ""
    assert "worst case: broken by" in bench("report", "fallen-digits").out


def test_fallen_names_every_defense_with_the_figures_that_are_known(bench: Bench, cifar10_dir: Path) -> None:
    plans = bench("run", "--suite", "fallen", "--dry-run", "--json", "--data-dir", cifar10_dir).runs
    rows = {row.title: row.paper for row in table_of("fallen", config.load(None).suite).rows}
    assert {plan["spec"]["defense"]["name"] for plan in plans} - {"given"} == set(rows) - {"the base alone"}
    assert rows["anti-adversary"][1:3] == [81, 62] and rows["hedge"][2:4] == [65.5, 59.2]

"""The suites for a GPU: their plans, and their forms on digits, which are the same cells and are played here."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bench import config
from bench.analysis.report import matches, table_of
from bench.config import Config, Suite
from bench.data.task import TaskFacts
from bench.errors import BadValue, UnknownName
from bench.planning.plan import plan
from bench.planning.requests import Request, suite_requests
from tests.conftest import Bench

ALL = ["table2", "table3", "table5a", "table5b", "slides", "recipe"]
NOTHING = Request((), ())
#: what a plan needs to know of CIFAR-10, whose images may not be here
CIFAR10 = TaskFacts("cifar10", 10, (3, 32, 32), 50_000, 10_000, "0")


def specs_of(name: str, over: Request = NOTHING) -> list[dict[str, Any]]:
    defaults = config.load(None)
    planned = plan(suite_requests(name, defaults.suite, over), defaults, lambda name, params: CIFAR10)
    return [item.spec.to_dict() for item in planned]


@pytest.mark.parametrize("name", ["table2", "table5a", "table5b"])
def test_every_cell_of_the_table_has_one_run_and_every_row_has_one_early(name: str) -> None:
    suite, table = config.load(None).suite[f"{name}-gpu"], table_of(f"{name}-gpu", config.load(None).suite)
    specs = specs_of(f"{name}-gpu")
    first = {}
    for row in table.rows:
        for column in table.columns:
            where = {**suite.where, **row.where, **column.where}
            fitting = [number for number, spec in enumerate(specs) if matches(where, spec)]
            assert len(fitting) == 1, (row.title, column.title)
            first[row.title] = min(first.get(row.title, len(specs)), fitting[0])
    assert len(specs) == len(table.rows) * len(table.columns)
    assert max(first.values()) < len(specs) / 2.5
    assert {spec["n"] for spec in specs} == {50}
    assert all(spec["base"]["params"]["precision"] == "bfloat16" for spec in specs)


@pytest.mark.parametrize("name", ALL)
def test_the_form_on_digits_has_the_same_cells_and_is_played(bench: Bench, name: str) -> None:
    told = bench("run", "--suite", f"{name}-digits", "--workers", 2, "--json")
    assert told.code == 0, told.err
    runs = [json.loads(line) for line in told.out.splitlines()]
    assert {run["status"] for run in runs} == {"DONE"}
    assert all(run["n"] == 4 and not run["violations"] for run in runs)
    if name != "table3":  # its plan needs the images
        cells = [
            (spec["defense"]["name"], spec["base"]["name"], spec["attack"]["name"]) for spec in specs_of(f"{name}-gpu")
        ]
        assert [(run["defense"], run["base"], run["attack"]) for run in runs] == cells


def test_cells_of_another_suite_with_changes() -> None:
    given = {
        "below": {"cells": [{"defense": ["rmc"], "attack": ["pgd"], "n": 5, "set": {"defense.k": 9, "game.p": 3},
                             "cross": {"threat.delay": [0, 1]}}]},
        "over": {"cells_of": "below", "over": {"dataset": ["digits"], "set": {"defense.k": 4}}},
        "twice": {"cells": [{"defense": ["none"], "attack": ["pgd"]}], "cells_of": "over", "over": {"n": 7}},
        "a": {"cells_of": "b"}, "b": {"cells_of": "a"}, "lost": {"cells_of": "belo"}, "empty": {},
    }  # fmt: skip
    suites = {name: Suite.model_validate(values) for name, values in given.items()}
    requests = suite_requests("twice", suites, Request((), (), seeds=(3,)))
    assert [(r.defenses, r.datasets, r.n, r.seeds) for r in requests] == [
        (("none",), (), None, (3,)), *[(("rmc",), ("digits",), 7, (3,))] * 2
    ]  # fmt: skip
    assert [r.sets for r in requests[1:]] == [{"defense.k": 4, "game.p": 3, "threat.delay": d} for d in (0, 1)]
    with pytest.raises(BadValue, match="a, b name each other in cells_of"):
        suite_requests("a", suites, NOTHING)
    with pytest.raises(UnknownName, match="Did you mean 'below'"):
        suite_requests("lost", suites, NOTHING)
    with pytest.raises(BadValue, match="has no runs"):
        suite_requests("empty", suites, NOTHING)


def test_a_suite_that_lays_unknown_keys_over_another_is_refused(bench: Bench, tmp_path: Any) -> None:
    path = tmp_path / "bench.toml"
    path.write_text('[suite.mine]\ncells_of = "smoke"\nover = { dataste = ["digits"] }\n')
    told = bench("run", "--suite", "mine", "--config", path)
    assert told.code == 2 and "dataste" in told.err and told.err.count("\n") == 1
    assert isinstance(config.load(None), Config)

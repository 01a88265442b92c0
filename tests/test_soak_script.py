"""The script of kills: with programs of a moment instead of commands of minutes, and with rows that differ."""

from __future__ import annotations

import copy
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import soak
from tests.conftest import Bench

#: writes a line, works for a moment, and says that it is done; the first argument is its number
PROGRAM = """
import sys, time
number, work_s, code = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
open(number, "a").write("begun\\n")
time.sleep(work_s)
open(number, "a").write("done\\n")
print("why it ended", file=sys.stderr)
sys.exit(code)
"""


def played(folder: Path, plays: list[tuple[str, ...]], kills: int, at_once: int = 4) -> soak.Round:
    place, told = soak.Place(folder, (sys.executable, "-c", PROGRAM)), soak.Round()
    soak.disturbed(place, plays, random.Random(0), kills, 0.1, at_once, None, told)
    return told


def test_killed_commands_begin_again_until_all_are_done(tmp_path: Path) -> None:
    told = played(tmp_path, [(number, "0.3", "0") for number in "123"], kills=4, at_once=2)
    assert (told.kills, told.starts, told.faults) == (4, 7, [])
    lines = [(tmp_path / number).read_text().split() for number in "123"]
    assert all(line[-1] == "done" and line.count("done") == 1 for line in lines)


def test_a_command_that_ends_by_itself_with_a_code_is_a_fault(tmp_path: Path) -> None:
    told = played(tmp_path, [("1", "0", "0"), ("2", "0", "3")], kills=0)
    assert told.faults == ["command 2 ended with 3: why it ended"]


def test_commands_that_are_never_done_are_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "PATIENCE_S", 0.2)
    start = time.monotonic()
    assert played(tmp_path, [("1", "60", "0")], kills=0).faults == ["commands [1] are not done after 0.2 s"]
    assert time.monotonic() - start < 30


@pytest.fixture
def exported() -> list[dict[str, Any]]:
    """What `bench export` says of two runs, in short."""
    row = {
        "trial": 0,
        "label": 3,
        "attacked_answer": 3,
        "resent": None,
        "distances": {"l2": 0.5},
        "seconds": {"attack": 1.5},
    }
    facts = {"status": "DONE", "robust_accuracy": {"value": 0.5}, "flags": [], "answer_s": 0.1, "seconds": {"total": 2}}
    rows = [{**row, "position": position} for position in range(3)]
    return [copy.deepcopy({"run": key * 64, **facts, "examples": rows}) for key in ("a", "b")]


def test_every_field_but_seconds_is_compared(exported: list[dict[str, Any]]) -> None:
    expected = soak.by_key(exported)
    assert list(soak.differences(expected, copy.deepcopy(expected), whole=True)) == []
    for name in exported[1].keys() - {"run", "examples"}:
        changed = copy.deepcopy(exported)
        changed[1][name] = "x"
        told = list(soak.differences(expected, soak.by_key(changed), whole=True))
        assert len(told) == (name not in ("seconds", "answer_s")), name
    for name in exported[1]["examples"][2].keys() - {"trial", "position"}:
        changed = copy.deepcopy(exported)
        changed[1]["examples"][2][name] = "x"
        for whole in (True, False):
            told = list(soak.differences(expected, soak.by_key(changed), whole))
            assert len(told) == (name != "seconds"), name


def test_what_is_missing_or_too_much_differs(exported: list[dict[str, Any]]) -> None:
    expected = soak.by_key(exported)
    one, other = expected
    less = {one: expected[one]}
    assert list(soak.differences(expected, less, whole=True)) == ["bbbbbbbbbbbb is missing"]
    assert list(soak.differences(expected, less, whole=False)) == []  # it has not begun
    assert list(soak.differences(less, expected, whole=False)) == ["bbbbbbbbbbbb is no run of the undisturbed play"]
    part = copy.deepcopy(expected)
    del part[other]["examples"][0, 2]
    assert list(soak.differences(expected, part, whole=False)) == []
    assert list(soak.differences(expected, part, whole=True)) == ["bbbbbbbbbbbb (0, 2): the row is missing"]
    told = list(soak.differences(part, expected, whole=False))
    assert told == ["bbbbbbbbbbbb (0, 2): the row is none of the undisturbed play"]


def test_a_reader_judges_what_it_is_told(tmp_path: Path, exported: list[dict[str, Any]]) -> None:
    """A reading command that ends with an error, and one that shows a row that nobody played."""
    wrong = copy.deepcopy(exported)
    wrong[0]["examples"][0]["label"] = 11
    (tmp_path / "wrong.json").write_text(json.dumps(wrong))
    program = (
        "import sys; sys.argv[1] == 'export' and print(open('wrong.json').read()); sys.exit(sys.argv[1] == 'list')"
    )
    told = soak.Round()
    reader = soak.Reader(soak.Place(tmp_path, (sys.executable, "-c", program)), soak.by_key(exported), told)
    for _ in range(3):
        reader.turn()
        reader.end()
    assert told.reads == 3 and len(told.faults) == 2
    assert told.faults[0].startswith("a reader: bench list ended with 1") and "label is 11" in told.faults[1]


def test_the_commands_are_whole(bench: Bench) -> None:
    """Each plans; two share a run, for which one waits while the other plays it."""
    planned = []
    for command in soak.commands():
        told = bench(*command, "--dry-run")
        planned.append({json.loads(line)["run"] for line in told.out.splitlines()})
    assert [len(runs) for runs in planned] == [1, 2, 1, 2] and planned[0] < planned[1]

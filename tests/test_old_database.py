"""A database that the version before this layout wrote: it is read, shown and exported with the figures of then."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from bench.planning.spec import RunSpec
from bench.store import Store
from tests.conftest import Bench

#: by the first letters of the key: what the old version printed of the run
PRINTED = {
    "a968f308": ("probe", 1.0, 1.0, "linf 0.2, p 3, delay 2"),
    "a110f591": ("stream", 1.0, 0.0, "l2 1"),
    "60e723fd": ("replay", 1.0, 1 / 3, "linf 0.2, replay"),
}


@pytest.fixture
def old(tmp_path: Path) -> str:
    path = tmp_path / "old.db"
    connection = sqlite3.connect(path)
    connection.executescript(Path(__file__).with_name("database_0003.sql").read_text(encoding="utf-8"))
    connection.close()
    return f"sqlite:///{path}"


@pytest.mark.parametrize("run", PRINTED)
def test_a_run_of_the_version_before_is_shown_as_it_was(bench: Bench, old: str, run: str) -> None:
    protocol, clean, robust, tag = PRINTED[run]
    shown = json.loads(bench("show", run, "--json", "--db", old).out)
    assert shown["protocol"] == protocol and shown["threat_in_short"] == tag
    assert shown["clean_accuracy"]["value"] == clean and shown["robust_accuracy"]["value"] == robust
    store = Store.open(old)
    assert store is not None
    record = store.find(shown["run"])
    assert record is not None and RunSpec.from_dict(record.spec).game.games == (2 if protocol == "probe" else 1)


def test_all_rows_of_the_version_before_are_exported(bench: Bench, old: str) -> None:
    exported = json.loads(bench("export", "--format", "json", "--db", old).out)
    assert {run["run"][:8]: len(run["examples"]) for run in exported if run["run"][:8] in PRINTED} == {
        "a968f308": 4, "a110f591": 3, "60e723fd": 3,
    }  # fmt: skip

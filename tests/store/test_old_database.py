"""A database that the version before this layout wrote: it is read, shown and exported with the figures of then."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from pathlib import Path

import pytest

from bench.norms import NORMS
from bench.planning.spec import RunSpec
from bench.store import Store
from tests.conftest import Bench, migrate

#: the norms that had a column each
OLD_NORMS = ("linf", "l2", "l0")
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


def test_distances_of_the_version_before_are_exported_as_they_were(bench: Bench, old: str) -> None:
    """Each bit of them, in JSON and in CSV; a norm that came later is missing."""
    with sqlite3.connect(old.removeprefix("sqlite:///")) as connection:
        columns = 'select run, game, "index", linf, l2, l0 from examples'
        before = {tuple(row[:3]): dict(zip(OLD_NORMS, row[3:], strict=True)) for row in connection.execute(columns)}
    exported = json.loads(bench("export", "--format", "json", "--db", old).out)
    examples = [(run["run"], example) for run in exported for example in run["examples"]]
    assert len(examples) == len(before)
    for run, example in examples:
        was = before[run, example["trial"], example["index"]]
        assert example["distances"] == {**was, "l1": None} and list(example["distances"]) == list(NORMS)
    lines = list(csv.DictReader(io.StringIO(bench("export", "--format", "csv", "--db", old).out)))
    assert len(lines) == len(before)
    for line in lines:
        was = before[line["run"], int(line["trial"]), int(line["index"])]
        assert {norm: float(line[f"distances_{norm}"]) for norm in OLD_NORMS} == was and line["distances_l1"] == ""


def distances_of(connection: sqlite3.Connection) -> list[tuple[str, int, int, dict[str, float | None]]]:
    rows = connection.execute("select run, game, position, distances from examples order by 1, 2, 3").fetchall()
    return [(run, game, position, json.loads(text)) for run, game, position, text in rows]


def test_distances_become_one_column_and_columns_again(old: str) -> None:
    """Upwards and downwards, in several blocks: no bit of a distance changes, and NULL stays."""
    path = old.removeprefix("sqlite:///")
    columns = "select run, game, position, linf, l2, l0 from examples order by 1, 2, 3"
    with sqlite3.connect(path) as connection:
        connection.execute("update examples set l2 = 0.1 + 0.2, l0 = NULL where position = 1")
        names = [name for _, name, *_ in connection.execute("pragma table_info(examples)")]
        changed = {"game": "9", "position": "number", "linf": "number / 7.0"}
        values = ", ".join(changed.get(name, f'"{name}"') for name in names)
        connection.execute(  # more rows than the migration holds at once
            "with recursive numbers(number) as (select 0 union all select number + 1 from numbers limit 12000) "
            f"insert into examples select {values} from (select * from examples limit 1), numbers"
        )
        before = connection.execute(columns).fetchall()
    migrate(old, "head")
    with sqlite3.connect(path) as connection:
        stored = distances_of(connection)
    assert stored == [(*row[:3], dict(zip(OLD_NORMS, row[3:], strict=True))) for row in before]
    assert any(value["l2"] == 0.1 + 0.2 and value["l0"] is None for *_, value in stored) and len(stored) > 12_000
    migrate(old, "0004", upwards=False)
    with sqlite3.connect(path) as connection:
        assert connection.execute(columns).fetchall() == before

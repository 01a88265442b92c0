"""A bundle goes from one database and folder to another, and says there what it said here."""

from __future__ import annotations

import json
import shutil
import sqlite3
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from bench.bundles.manifest import RowForm, schema
from bench.rows import Row
from tests.bundles.conftest import ASKED, attacked_key
from tests.bundles.forging import forged
from tests.conftest import ROOT, Bench


def exported(bench: Bench, db: Path) -> list[dict[str, Any]]:
    """What `bench export` says of all runs, without what is said of where they come from."""
    done = bench("export", "--db", db)
    assert done.code == 0, done.err
    runs = json.loads(done.out)
    for run in runs:
        del run["verification"]
        run["flags"] = [flag for flag in run["flags"] if flag["id"] not in ("claimed", "replayed")]
    return sorted(runs, key=lambda run: str(run["run"]))


def merged(bench: Bench, *args: object) -> dict[str, Any]:
    done = bench("merge", *args, "--json")
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


def test_a_run_arrives_with_every_fact_and_is_verified(bench: Bench, sent: Path) -> None:
    key = attacked_key(sent / "bench.db")
    told = merged(bench, sent / "bundle.zip", "--db", "mine/own.db")
    assert {run["verification"] for run in told["runs"]} == {"claimed"} and len(told["runs"]) == 2 and not told["notes"]
    assert exported(bench, Path("mine/own.db")) == exported(bench, sent / "bench.db")
    listed = bench("list", "runs", "--db", "mine/own.db").out
    assert "claimed: It came in the bundle bundle.zip, and none of its games was replayed" in " ".join(listed.split())
    part = merged(bench, sent / "bundle.zip", "--db", "mine/own.db", "--replay", 3, "--seed", 1)
    verifications = sorted(run["verification"] for run in part["runs"])
    assert verifications == ["replayed 1 of 2", "verified"] and all(run["known"] for run in part["runs"])
    shown = json.loads(bench("show", key, "--db", "mine/own.db", "--json").out)
    assert shown["verification"] in verifications and shown["origin"]["bundle"] == part["bundle"]
    assert bench("verify", key, "--db", "mine/own.db").code == 0
    shown = json.loads(bench("show", key, "--db", "mine/own.db", "--json").out)
    assert shown["verification"] == "verified" and not shown["flags"] and shown["origin"]["replayed"] == [0, 1]
    assert "verified" in bench("show", key, "--db", "mine/own.db").out
    csv = bench("export", key, "--format", "csv", "--db", "mine/own.db").out
    assert csv.splitlines()[0].split(",")[12] == "verification" and ",verified," in csv.splitlines()[1]


def test_the_same_run_gives_the_same_bytes_and_nothing_else_is_written(bench: Bench, sent: Path) -> None:
    key, first = attacked_key(sent / "bench.db"), (sent / "bundle.zip").read_bytes()
    assert bench("bundle", key, "--db", sent / "bench.db", "--out", "again.zip").code == 0
    assert Path("again.zip").read_bytes() == first and [path.name for path in Path().iterdir()] == ["again.zip"]


def test_a_bundle_tells_no_path_and_no_name_of_a_machine(bench: Bench, sent: Path) -> None:
    import socket

    from tests.bundles.forging import members_of

    text = b"".join(members_of(sent / "bundle.zip").values())
    assert str(sent).encode() not in text and f'"host":"{socket.gethostname()}"'.encode() not in text.replace(b" ", b"")


def test_the_draw_of_games_follows_from_the_seed(sent: Path) -> None:
    from bench.bundles.archive import Archive
    from bench.bundles.check import checked_run, read_manifest
    from bench.bundles.replay import drawn

    with Archive(sent / "bundle.zip") as archive:
        manifest = read_manifest(archive)
        runs = [checked_run(archive, manifest, form) for form in manifest.runs]
    assert drawn(runs, 2, 5) == drawn(runs, 2, 5) and sum(map(len, drawn(runs, 3, 0).values())) == 3
    assert len({str(drawn(runs, 2, seed)) for seed in range(10)}) > 2
    assert drawn(runs, None, 0) == {run.form.key: [0, 1] for run in runs} and drawn(runs, 0, 0) == {}


def test_a_merged_run_that_is_played_here_again_is_no_claim_any_more(bench: Bench, sent: Path) -> None:
    shutil.copytree(sent / "bench-files", "own-files")  # the trained base
    merged(bench, sent / "bundle.zip", "--db", "own.db")
    with sqlite3.connect("own.db") as connection:
        assert connection.execute("select count(*) from summaries").fetchone() == (2,)
    done = bench("run", *ASKED, "--db", "own.db", "--json", "--rerun", "all")
    assert done.code == 0 and {run["verification"] for run in done.runs} == {"played here"}


def test_a_run_that_is_here_with_other_rows_is_not_replaced(bench: Bench, sent: Path) -> None:
    def edit(manifest: dict[str, Any], rows: dict[str, list[dict[str, Any]]]) -> None:
        for lines in rows.values():
            lines[0]["forwards"] += 1

    merged(bench, sent / "bundle.zip", "--db", "own.db")
    other = forged(sent / "bundle.zip", Path("other.zip"), edit)
    told = bench("merge", other, "--db", "own.db")
    assert told.code == 2 and "is here already, with other rows in game 0; give another --db" in told.err


def test_a_run_that_is_unfinished_here_stays_as_it_is(bench: Bench, sent: Path) -> None:
    merged(bench, sent / "bundle.zip", "--db", "own.db")
    with sqlite3.connect("own.db") as connection:
        connection.execute("update runs set status = 'FAILED'")
    told = bench("merge", sent / "bundle.zip", "--db", "own.db")
    assert told.code == 2 and "is here already, and FAILED; finish it, or give another --db" in told.err
    told = bench("bundle", attacked_key(Path("own.db")), "--db", "own.db", "--out", "x.zip")
    assert told.code == 2 and "is FAILED; a bundle holds finished runs" in told.err and not Path("x.zip").exists()


def copy_database(sent: Path) -> None:
    """The sender's database as own.db, with what SQLite keeps beside it."""
    for path in sent.glob("bench.db*"):
        shutil.copy(path, path.name.replace("bench", "own"))


@pytest.mark.parametrize("value", ['"text"', "{", "{}"])
def test_a_run_whose_origin_is_damaged_is_left_out_by_name(bench: Bench, sent: Path, value: str) -> None:
    copy_database(sent)
    with sqlite3.connect("own.db") as connection:
        connection.execute("update runs set origin = ? where attack = 'pgd'", (value,))
    listed = bench("list", "runs", "--db", "own.db", "--json")
    assert len(json.loads(listed.out)) == 1 and "its provenance cannot be read" in listed.err


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        (
            "provenance",
            "json_set(provenance, '$.processor', hex(zeroblob(300)))",
            "processor: String should have at most",
        ),
        ("spec", "json_set(spec, '$.n', 2)", "was made by another version of the harness"),
    ],
)
def test_a_run_that_no_bundle_can_hold_is_not_sent(
    bench: Bench, sent: Path, column: str, value: str, said: str
) -> None:
    copy_database(sent)
    shutil.copytree(sent / "bench-files", "own-files")
    with sqlite3.connect("own.db") as connection:
        connection.execute(f"update runs set {column} = {value}")
    told = bench("bundle", "--db", "own.db", "--out", "x.zip")
    assert told.code == 2 and said in told.err and len(told.err.splitlines()) == 1 and not Path("x.zip").exists()


def test_runs_that_are_too_large_together_are_not_sent(
    bench: Bench, sent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.bundles.pack.MOST_BYTES", 1000)
    told = bench("bundle", "--db", sent / "bench.db", "--out", "x.zip")
    assert told.code == 2 and "and a bundle has 1000 at most; send fewer" in told.err and not Path("x.zip").exists()


def test_a_run_without_its_images_is_not_sent(bench: Bench, sent: Path) -> None:
    merged(bench, sent / "bundle.zip", "--db", "own.db")
    for path in Path("own-files/images").iterdir():
        path.unlink()
    told = bench("bundle", attacked_key(Path("own.db")), "--db", "own.db", "--out", "x.zip")
    assert told.code == 2 and "lacks images" in told.err and not Path("x.zip").exists()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--out", "x.tar"], "give a file that ends in .zip"),
        (["--out", "own.txt/x.zip"], "cannot be written"),
    ],
)
def test_a_wrong_file_to_write_is_one_line(bench: Bench, sent: Path, args: list[str], said: str) -> None:
    Path("own.txt").touch()
    told = bench("bundle", attacked_key(sent / "bench.db"), "--db", sent / "bench.db", *args)
    assert told.code == 2 and said in told.err and len(told.err.splitlines()) == 1


@pytest.mark.parametrize("replay", ["-1", "some", "1.5", "9999999999"])
def test_a_wrong_number_of_games_is_one_line(bench: Bench, sent: Path, replay: str) -> None:
    told = bench("merge", sent / "bundle.zip", "--db", "own.db", f"--replay={replay}")
    assert told.code == 2 and "give a number of games, or all" in told.err and not Path("own.db").exists()


def test_the_form_of_a_row_is_that_of_rows_and_the_schema_is_that_of_the_forms() -> None:
    assert set(RowForm.model_fields) == {field.name for field in fields(Row)}
    assert json.loads((ROOT / "docs" / "bundle.schema.json").read_text()) == schema()

"""Folders that cannot be written, and disks that are full: what can be read is read, nothing is left half written."""

from __future__ import annotations

import errno
import json
import shutil
import sqlite3
from pathlib import Path

import pytest

from bench.cache import Cache
from bench.errors import DiskError
from bench.store import Store
from tests.conftest import Bench, sets
from tests.hostile.places import fill, not_writable, small_disk

PLAY = ("run", "--defense", "regular", "--attack", "pgd", "-n", 4, "--workers", 1, *sets(base__epochs=2))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("made") / "theirs"


@pytest.fixture
def theirs(bench: Bench, made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a database of two runs and its files."""
    monkeypatch.delenv("BENCH_CACHE")
    if not made.exists():
        assert bench(*PLAY, "--db", made / "bench.db").code == 0
    shutil.copytree(made / "bench-files", "theirs/bench-files")
    with sqlite3.connect(made / "bench.db") as connection:  # its log stays behind: the command's process goes on
        connection.execute("VACUUM INTO 'theirs/bench.db'")
    with sqlite3.connect("theirs/bench.db") as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
    assert sorted(path.name for path in Path("theirs").iterdir()) == ["bench-files", "bench.db"]
    return Path("theirs")


def key_of(folder: Path, attack: str) -> str:
    with sqlite3.connect(folder / "bench.db") as connection:
        return str(connection.execute("SELECT key FROM runs WHERE attack = ?", [attack]).fetchone()[0])


def test_another_users_database_is_read(bench: Bench, theirs: Path) -> None:
    pgd, clean = key_of(theirs, "pgd"), key_of(theirs, "clean")
    db = ("--db", theirs / "bench.db")
    before = sorted(theirs.rglob("*"))
    readings = [
        ("list", "runs"), ("show", pgd), ("export",), ("compare", pgd, clean), ("verify", pgd), ("cache",),
        ("leaderboard", "--out", "site"), ("plot", "heatmap", "--out", "x.svg"), (*PLAY, "--dry-run"),
    ]  # fmt: skip
    with not_writable(theirs):
        for command in readings:
            told = bench(*command, *db)
            assert told.code == 0 and not told.err and told.out, (command, told)
    assert sorted(theirs.rglob("*")) == before
    assert Path("site/index.html").exists() and Path("x.svg").exists()


def test_another_users_damaged_images_are_named_and_left_where_they_are(bench: Bench, theirs: Path) -> None:
    key = key_of(theirs, "pgd")
    for image in (theirs / "bench-files" / "images").iterdir():
        image.write_bytes(image.read_bytes()[:-1] + b"\1")
    with not_writable(theirs):
        told = bench("verify", key, "--db", theirs / "bench.db")
    assert told.code == 1 and not told.err and told.out.count("its image is not there, or its file cannot be read") == 4
    assert not list(theirs.rglob("*.damaged"))


def test_a_disk_without_room_for_the_images_of_a_store_is_told(
    bench: Bench, theirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Cache, kind: str, key: str) -> object:
        raise DiskError(errno.ENOSPC, "No space left on device", key)

    monkeypatch.setattr(Cache, "find_tensors", full)
    told = bench("verify", key_of(theirs, "pgd"), "--db", theirs / "bench.db")
    assert told.code == 1 and "No space left on device" in told.err and "its image is not there" not in told.out


def test_what_has_to_write_there_says_so_in_one_line(bench: Bench, theirs: Path) -> None:
    db = ("--db", theirs / "bench.db")
    wanting = [
        (2, "cannot be written here", (*PLAY, *db)),
        (2, "cannot be written", ("leaderboard", "--out", theirs / "site", *db)),
        (2, "cannot be written", ("plot", "heatmap", "--out", theirs / "x.svg", *db)),
        (2, "cannot be written", ("export", "--out", theirs / "x.json", *db)),
        (2, "cannot be written here", ("run", "--defense", "regular", "--attack", "pgd", "--db", theirs / "new.db")),
        (1, "Permission denied", ("train", "regular", *sets(base__epochs=1), *db)),
    ]
    before = sorted(theirs.rglob("*"))
    with not_writable(theirs):
        for code, words, command in wanting:
            told = bench(*command)
            lines = [line for line in told.err.splitlines() if line.startswith("bench: ")]
            assert told.code == code and len(lines) == 1 and words in lines[0], (command, told)
    assert sorted(theirs.rglob("*")) == before


def test_an_old_schema_that_cannot_be_upgraded_there_is_one_line(bench: Bench, theirs: Path) -> None:
    with sqlite3.connect(theirs / "bench.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0001'")
    connection.close()
    with not_writable(theirs):
        told = bench("list", "runs", "--db", theirs / "bench.db")
    assert told.code == 2 and "has the schema 0001 of an older version" in told.err and told.err.count("\n") == 1


def test_a_log_that_is_not_in_the_file_yet_is_not_passed_over(bench: Bench, theirs: Path) -> None:
    """Rows of it would be missing without a word."""
    writer = sqlite3.connect(theirs / "bench.db")
    writer.execute("UPDATE runs SET reason = 'late'")
    writer.commit()
    for name in ("bench.db", "bench.db-wal"):  # as a killed process leaves them
        shutil.copy(theirs / name, Path(name))
    writer.close()
    Path("killed").mkdir()
    for name in ("bench.db", "bench.db-wal"):
        shutil.move(name, Path("killed") / name)
    with not_writable(Path("killed")):
        told = bench("list", "runs", "--db", "killed/bench.db")
        assert told.code == 2 and "copy bench.db and bench.db-wal" in told.err and told.err.count("\n") == 1
    told = bench("list", "runs", "--json", "--db", "killed/bench.db")
    assert {run["reason"] for run in json.loads(told.out)} == {"late"}


def test_a_file_that_is_written_while_it_is_read_as_it_is(theirs: Path) -> None:
    """Without SQLite's locks a reader cannot know which pages belong together: it believes none."""
    from bench.errors import StoreError

    with not_writable(theirs):
        store = Store.open(str(theirs / "bench.db"), create=False)
        assert store is not None and len(store.runs()) == 2
    with sqlite3.connect(theirs / "bench.db") as connection:
        connection.execute("DELETE FROM runs WHERE attack = 'pgd'")
    connection.close()
    with pytest.raises(StoreError, match="written by another process while it was read"):
        store.runs()


def test_files_that_cannot_be_written_fail_no_run(bench: Bench, theirs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(theirs / "bench-files")
    monkeypatch.setenv("BENCH_CACHE", "theirs/bench-files")
    with not_writable(theirs):
        told = bench(*PLAY, "--db", "own.db")
    assert told.code == 1 and "Permission denied" in told.err and "the same command goes on" in told.err
    assert [run["status"] for run in json.loads(bench("list", "runs", "--json", "--db", "own.db").out)] == ["RUNNING"]
    told = bench(*PLAY, "--db", "own.db", "--json")
    assert told.code == 0 and [run["status"] for run in told.runs] == ["DONE"]


@pytest.mark.parametrize("leaving", [0, 160, 350])
def test_a_full_disk_fails_no_run_and_the_command_goes_on(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leaving: int
) -> None:
    """It runs full as the database is made, as the base is trained, or as rows are committed."""
    monkeypatch.delenv("BENCH_CACHE")
    with small_disk(tmp_path / "disk", 2048) as disk:
        filler = fill(disk, leaving)
        told = bench(*PLAY, "--db", disk / "bench.db")
        assert told.code == 1 and "the same command goes on" in told.err.splitlines()[-1], told
        assert not [path for path in disk.rglob("*") if ".part" in path.name]
        filler.unlink()
        told = bench(*PLAY, "--db", disk / "bench.db", "--json")
        assert told.code == 0 and [run["status"] for run in told.runs] == ["DONE"]


def test_a_disk_that_is_full_before_a_bank_is_whole_ends_nothing_by_a_signal(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it would where the bank were written through a map of its file: this process would be gone."""
    play = ("run", "--defense", "rmc", "--attack", "clean", "-n", 2, "--workers", 1, "--db", "own.db",
            *sets(base__epochs=1, defense__k=16, defense__epochs=1, defense__bank_steps=1))  # fmt: skip
    with small_disk(tmp_path / "disk", 2048) as disk:
        monkeypatch.setenv("BENCH_CACHE", str(disk / "files"))
        assert bench("train", "regular", *sets(base__epochs=1), "--db", "own.db").code == 0
        filler = fill(disk, 200)  # room for the pieces of the bank, not for the bank
        told = bench(*play)
        assert told.code == 1 and "images.npy: No space left on device" in told.err.splitlines()[-1], told
        assert any((disk / "files" / "pieces").iterdir()) and not any((disk / "files" / "banks").glob("*.part"))
        filler.unlink()
        told = bench(*play, "--json")
        assert told.code == 0 and [run["status"] for run in told.runs] == ["DONE"]


def test_a_full_disk_leaves_no_short_file(bench: Bench, theirs: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 512) as disk:
        (disk / "old.json").write_text("old")
        fill(disk, 4)
        for command in (
            ("export", "--out", disk / "old.json"),
            ("plot", "heatmap", "--out", disk / "x.html"),
            ("leaderboard", "--out", disk / "site"),
        ):
            told = bench(*command, "--db", theirs / "bench.db")
            assert told.code == 2 and "No space left on device" in told.err and told.err.count("\n") == 1, told
        assert sorted(path.name for path in disk.rglob("*") if path.is_file()) == ["filler", "old.json"]
        assert (disk / "old.json").read_text() == "old"


def test_out_may_be_a_device_or_a_link(bench: Bench, theirs: Path) -> None:
    db = ("--db", theirs / "bench.db")
    told = bench("export", "--out", "/dev/full", *db)
    assert told.code == 2 and "No space left on device" in told.err
    assert bench("export", "--out", "/dev/null", *db).code == 0 and Path("/dev/null").is_char_device()
    Path("link.json").symlink_to("real.json")
    assert bench("export", "--out", "link.json", *db).code == 0
    assert Path("link.json").is_symlink() and len(json.loads(Path("real.json").read_text())) == 2

"""`bench doctor`: it finds what is planted, says what to do, and leaves everything as it was."""

from __future__ import annotations

import json
import re
import shlex
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.requirements import Requirement
from packaging.version import Version

from bench import plugins, registry
from bench.doctor import examine as doctor
from bench.doctor import packages as installation
from bench.rows import Meter, Resume
from bench.store import Store, glance_at
from tests.conftest import Bench, spec_of
from tests.store.test_store import PROVENANCE, pretend, rows


@dataclass
class Told:
    """The findings of a call, by what was looked at, and its exit code."""

    code: int
    findings: dict[str, list[dict[str, str]]]

    def level(self, what: str) -> str:
        return self.findings[what][0]["level"]

    def text(self, what: str) -> str:
        return " ".join(f"{one['message']} {one['todo']}" for one in self.findings[what])


def look(bench: Bench, *args: object) -> Told:
    done = bench("doctor", "--json", *args)
    assert done.err == "", done.err
    found: dict[str, list[dict[str, str]]] = {}
    told = json.loads(done.out)
    for finding in told["findings"]:
        found.setdefault(finding["what"], []).append(finding)
    assert told["ok"] is (done.code == 0)
    return Told(done.code, found)


def test_a_sound_place_is_sound_and_is_left_as_it_was(bench: Bench, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.delenv("BENCH_CACHE")
    told = look(bench)
    assert told.code == 0 and list(tmp_path.iterdir()) == []
    assert {told.level(what) for what in ("python", "device", "configuration", "database", "files")} == {"ok"}
    assert "first run makes it" in told.text("database") and torch.__version__ in told.text("device")
    assert "bench init" in told.text("configuration") and told.text("dataset digits").strip() == "embedded"
    assert "can be planned" in told.text("a run on digits") and f"{len(list(registry.defenses))} defenses" in told.text(
        "plug-ins"
    )


def test_every_line_says_how_bad_it_is_and_fits_a_terminal(bench: Bench, monkeypatch: Any) -> None:
    plain = bench("doctor").out.splitlines()
    assert all(line.startswith(("ok       ", "note     ", "problem  ")) for line in plain[:-1])
    assert plain[-1] == "no problem: a run on digits would work"
    monkeypatch.setenv("COLUMNS", "80")
    folded = bench("doctor").out.splitlines()
    assert len(folded) > len(plain) and max(len(line) for line in folded if " /" not in line) <= 80


def test_a_data_folder_is_looked_into_but_not_read(bench: Bench, tmp_path: Path, monkeypatch: Any) -> None:
    data = tmp_path / "data"
    (data / "mnist").mkdir(parents=True)
    for name in ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz", "t10k-images-idx3-ubyte.gz"):
        (data / "mnist" / name).write_text("no idx file, which only reading it would tell")
    for split in ("train", "val"):
        (data / "imagenet" / split).mkdir(parents=True)
    told = look(bench, "--data-dir", data)
    assert told.code == 0 and told.level("dataset imagenet") == "ok"
    assert told.level("dataset mnist") == "note" and "no t10k-labels-idx1-ubyte.gz" in told.text("dataset mnist")
    assert "nothing of it" in told.text("dataset cifar10") and "bench data cifar10" in told.text("dataset cifar10")
    monkeypatch.setenv("BENCH_DATA", str(tmp_path / "nowhere"))
    lost = look(bench)
    assert lost.code == 1 and lost.level("data folder") == "problem" and "nowhere" in lost.text("data folder")


def test_without_a_data_folder_nothing_is_downloaded(bench: Bench, tmp_path: Path, monkeypatch: Any) -> None:
    def fetch(*args: object, **more: object) -> None:
        raise AssertionError("a look downloads nothing")

    monkeypatch.setattr("pooch.retrieve", fetch)
    monkeypatch.setattr("bench.data.files.cache_dir", lambda: tmp_path / "cache")
    for module in ("mnist", "imagenet"):
        monkeypatch.setattr(f"bench.data.{module}.cache_dir", lambda: tmp_path / "cache")
    told = look(bench)
    assert told.code == 0 and "bench data mnist downloads it" in told.text("dataset mnist")
    assert "name a folder that holds imagenet/" in told.text("dataset imagenet") and list(tmp_path.iterdir()) == []


def test_plug_ins_that_are_broken_are_told_with_the_reason(bench: Bench, tmp_path: Path) -> None:
    bench("new", "defense", "mine")
    (tmp_path / "attacks").mkdir()
    (tmp_path / "attacks" / "bad.py").write_text("import nowhere  # register_attack(")
    (tmp_path / "attacks" / "half.py").write_text(
        "from bench import register_attack, register_dataset\n"
        "register_attack('half', 'nowhere:Half')\nregister_dataset('odd', 'tests.planted:Wrapped')\n"
    )
    told = look(bench, "--plugin", "none.py")
    assert told.code == 1 and "does not exist" in told.text("plug-ins")
    told = look(bench)
    assert told.code == 0 and "mine.py" in told.text("defense mine") and told.level("defense mine") == "ok"
    assert "bad.py does not load: ModuleNotFoundError" in told.text("plug-in") and told.level("plug-in") == "note"
    assert told.level("attack half") == "note" and "nowhere" in told.text("attack half")
    assert "cannot be looked for" in told.text("dataset odd")


def test_a_built_in_that_does_not_import_is_a_problem(bench: Bench, monkeypatch: Any) -> None:
    whole = plugins.load_all

    def load_all(*args: Any, **more: Any) -> None:
        whole(*args, **more)
        registry.defenses.add(registry.Entry("broken", "nowhere:Broken"))

    monkeypatch.setattr(plugins, "load_all", load_all)
    told = look(bench)
    assert told.code == 1 and told.level("defense broken") == "problem"


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[runer]\nchunk = 3\n", "Did you mean 'runner'"),
        ("[defense.rmc]\nkk = 3\n", "kk"),
        ("this is no toml", "no TOML file"),
    ],
)
def test_a_configuration_that_no_run_could_read_is_a_problem(
    bench: Bench, tmp_path: Path, toml: str, message: str
) -> None:
    (tmp_path / "bench.toml").write_text(toml)
    told = look(bench)
    problems = [one for found in told.findings.values() for one in found if one["level"] == "problem"]
    assert told.code == 1 and len(problems) == 1 and message in problems[0]["message"]
    missing = bench("doctor", "--config", "none.toml")
    assert missing.code == 2 and "does not exist" in missing.err


def test_runs_that_nobody_plays_any_more_are_named(bench: Bench, tmp_path: Path) -> None:
    store = Store.open("bench.db")
    assert store is not None
    spec = spec_of("regular", "clean")
    store.claim(spec, None, PROVENANCE, "missing")
    store.commit(spec.key, rows(0, 1), "f" * 64, Resume(1, 1, ""), Meter(), 0.0)
    alive = look(bench, "--db", "bench.db")
    assert "runs: 1 (1 RUNNING)" in alive.text("database") and "being played now: 1" in alive.text("runs")
    pretend(store, pid=2**22 + 1)
    store.close()
    before = {path.name: path.read_bytes() for path in tmp_path.glob("bench.db*")}
    dead = look(bench, "--db", "bench.db")
    assert dead.code == 0 and dead.level("runs") == "note" and spec.key[:8] in dead.text("runs")
    assert {path.name: path.read_bytes() for path in tmp_path.glob("bench.db*")} == before


def test_a_database_that_cannot_be_used_is_a_problem(bench: Bench, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "cats.db") as connection:
        connection.execute("CREATE TABLE cats (x)")
    (tmp_path / "notes").write_text("these are only notes, no database at all " * 40)
    for url, message in (
        ("cats.db", "'cats'"),
        ("notes", "cannot be used as a database"),
        ("notes/bench.db", "is not writable"),
        ("sqlite://", "in memory"),
        ("postgresql+psycopg://localhost/x", "postgres"),
    ):
        told = look(bench, "--db", url)
        assert told.code == 1 and told.level("database") == "problem" and message in told.text("database")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cats.db", "notes"]


def test_the_commands_that_save_a_database_can_be_pasted(bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "it's mine; $HOME"
    folder.mkdir()
    (folder / "a b.db").write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    (said,) = look(bench, "--db", f"{folder.name}/a b.db").findings["database"]
    command, aside, back = re.findall(r"bench doctor .*?(?= writes)|mv .*?(?= and mv|, where)", said["todo"])
    old, new, saved = (f"{folder.name}/{name}" for name in ("a b.db", "a b-damaged.db", "a b-saved.db"))
    assert shlex.split(command) == ["bench", "doctor", "--db", old, "--save", saved]
    assert shlex.split(aside) == ["mv", old, new] and shlex.split(back) == ["mv", saved, old]


def test_an_old_database_is_told_and_stays_old(bench: Bench, tmp_path: Path) -> None:
    from alembic import command
    from sqlalchemy import create_engine

    from bench.store import schema

    engine = create_engine("sqlite:///old.db")
    with engine.connect() as connection:
        command.upgrade(schema._config(connection), "0001")
        connection.commit()
    engine.dispose()
    told = look(bench, "--db", "old.db")
    assert told.code == 0 and "schema 0001" in told.text("database") and "brings its schema to" in told.text("database")
    assert glance_at("old.db").schema == "0001"
    (tmp_path / "empty.db").touch()
    assert "first run makes it" in look(bench, "--db", "empty.db").text("database")


def test_a_place_that_cannot_be_written_or_is_full_is_told(bench: Bench, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "file" / "files"))
    told = look(bench)
    assert told.code == 1 and "file is not writable" in told.text("files")
    monkeypatch.delenv("BENCH_CACHE")
    free = [doctor.FULL - 1, doctor.NEARLY_FULL - 1]
    for level, left in zip(("problem", "note"), free, strict=True):
        monkeypatch.setattr("shutil.disk_usage", lambda path, left=left: _Free(left))
        told = look(bench)
        assert told.level("files") == level and told.code == int(level == "problem")
        assert "bench cache prune" in told.text("files")
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert look(bench).level("database") == "problem"


@dataclass
class _Free:
    free: int


def test_what_is_not_installed_is_told_with_what_installs_it(bench: Bench, monkeypatch: Any) -> None:
    whole = installation.asked()
    extras = {"parquet": [Requirement("no-such-package>=1")], "dev": [Requirement("no-such-linter")]}
    monkeypatch.setattr(installation, "asked", lambda: installation.Asked(whole.python, whole.packages, extras))
    told = look(bench)
    assert told.code == 0 and told.level("extra parquet") == "note" and "extra dev" not in told.findings
    assert "no-such-package" in told.text("extra parquet") and "pip install '" in told.text("extra parquet")
    needed = [Requirement("no-such-package>=1"), Requirement("numpy>=999")]
    monkeypatch.setattr(installation, "asked", lambda: installation.Asked(">=3.99", needed, {}))
    told = look(bench)
    assert told.code == 1 and "3.99" in told.text("python") and told.level("python") == "problem"
    assert "pip install 'no-such-package>=1'" in told.text("no-such-package")
    assert "is installed, numpy>=999 is needed" in told.text("numpy") and "device" not in told.findings


def test_versions_that_were_not_tested_are_a_note(bench: Bench, monkeypatch: Any) -> None:
    assert f"torch {torch.__version__}" in look(bench).text("versions")
    monkeypatch.setattr(installation, "tested", dict)
    assert "not known here" in look(bench).text("versions")
    monkeypatch.setattr(installation, "tested", lambda: {"torch": Version("1.0"), "numpy": Version("1.0")})
    told = look(bench)
    assert "tested" not in told.text("versions")
    assert told.code == 0 and told.findings["packages"][-1]["level"] == "note"
    assert "torch" in told.text("packages") and "(tested: 1.0)" in told.text("packages")


def test_requirements_are_read_from_a_checkout_and_from_an_installed_package(tmp_path: Path, monkeypatch: Any) -> None:
    whole = installation.asked()
    assert {"torch", "click"} <= {one.name for one in whole.packages} and {"parquet", "dev"} <= set(whole.extras)
    assert installation.tested()["torch"] >= Version("2.8")
    monkeypatch.setattr(installation, "ROOT", tmp_path)

    class Record(dict[str, str]):
        def get_all(self, name: str) -> list[str]:
            return ["parquet", "dev"]

    monkeypatch.setattr("importlib.metadata.metadata", lambda name: Record({"Requires-Python": ">=3.11"}))
    lines = ["torch>=2.8", 'tomli>=2; python_version < "3"', 'pyarrow>=15; extra == "parquet"', 'ruff; extra == "dev"']
    monkeypatch.setattr("importlib.metadata.requires", lambda name: lines)
    asked = installation.asked()
    assert [one.name for one in asked.packages] == ["torch"] and asked.python == ">=3.11"
    assert {name: [one.name for one in ones] for name, ones in asked.extras.items()} == {
        "parquet": ["pyarrow"],
        "dev": ["ruff"],
    }
    assert installation.tested() == {}
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "somebody-elses"\n')
    assert [one.name for one in installation.asked().packages] == ["torch"]


def test_a_driver_without_a_device_is_a_note(bench: Bench, monkeypatch: Any) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    assert "finds no CUDA device" in look(bench).text("device")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda place: "NVIDIA H200")
    assert "cuda: NVIDIA H200" in look(bench).text("device")

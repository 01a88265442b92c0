"""`bench init` and `bench new`: what they write works as it stands, in a folder that has nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from bench import config, plugins
from bench.checks import check_file
from bench.errors import BrokenPlugin
from bench.scaffold import class_name
from tests.conftest import ROOT, Bench

SHORT = ("-n", 5, "--workers", 1, "--set", "base.epochs=5", "--json")


def test_init_writes_the_defaults_where_run_finds_them(bench: Bench, tmp_path: Path) -> None:
    done = bench("init")
    assert done.code == 0 and "bench.toml" in done.out and list(tmp_path.iterdir()) == [tmp_path / "bench.toml"]
    text = (tmp_path / "bench.toml").read_text()
    assert text == config.starter() and tomllib.loads(text) == tomllib.loads(config.DEFAULTS.read_text())
    assert "override" in text.partition("\n\n")[0] and "--set" in text.partition("\n\n")[0]
    played = bench("run", "--defense", "regular", "--attack", "clean", *SHORT)
    assert played.code == 0 and played.runs[0]["status"] == "DONE" and (tmp_path / "results" / "bench.db").is_file()


def test_init_does_not_write_over_a_file_that_is_there(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "bench.toml").write_text("[run]\nn = 7\n")
    refused = bench("init")
    assert refused.code == 2 and refused.err.count("\n") == 1 and "--force" in refused.err
    assert (tmp_path / "bench.toml").read_text() == "[run]\nn = 7\n"
    assert bench("init", "--force").code == 0 and (tmp_path / "bench.toml").read_text() == config.starter()
    (tmp_path / "bench.toml").unlink()
    (tmp_path / "bench.toml").mkdir()
    in_the_way = bench("init", "--force")
    assert in_the_way.code == 2 and in_the_way.err.count("\n") == 1 and "cannot be made" in in_the_way.err
    assert [path.name for path in tmp_path.iterdir()] == ["bench.toml"]


@pytest.mark.parametrize(
    ("what", "kind", "attacks"),
    [
        ("defense", None, ["pgd", "pgd-skip"]),
        ("defense", "static", ["pgd"]),
        ("defense", "online", ["pgd", "pgd-skip"]),
        ("attack", None, []),
    ],
)
def test_a_new_plug_in_keeps_the_contract_and_runs_unedited(
    bench: Bench, tmp_path: Path, what: str, kind: str | None, attacks: list[str]
) -> None:
    made = bench("new", what, "my-own", *(("--kind", kind) if kind else ()))
    assert made.code == 0, made.err
    files = [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*.py"))]
    assert files == [f"{what}s/my_own.py", "tests/test_my_own.py"] and all(name in made.out for name in files)
    assert max(len(line) for name in files for line in (tmp_path / name).read_text().splitlines()) <= 100
    listed = {row["name"]: row for row in json.loads(bench("list", f"{what}s", "--json").out)}
    assert listed["my-own"]["summary"] and listed["my-own"]["origin"].endswith("my_own.py")
    checked = json.loads(bench("check", "my-own", "--json").out)
    assert checked["passed"] and checked["kind"] == what
    cell = ["--defense", "my-own"] if what == "defense" else ["--defense", "regular", "--attack", "my-own"]
    played = bench("run", *cell, *(part for name in attacks for part in ("--attack", name)), *SHORT)
    assert played.code == 0 and {run["status"] for run in played.runs} == {"DONE"}, played.out + played.err
    assert all(run["violations"] == 0 for run in played.runs)


def test_the_written_attack_does_what_it_says(bench: Bench) -> None:
    bench("new", "attack", "mine")
    cell = ("run", "--defense", "regular", "--attack", "mine", "--attack", "clean", "-n", 40, "--workers", 1, "--json")
    attacked, clean = bench(*cell, "--set", "base.epochs=5").runs
    assert attacked["robust_accuracy"]["value"] < 0.5 * clean["robust_accuracy"]["value"]


def test_the_written_test_passes_with_pytest_and_finds_a_fault(bench: Bench, tmp_path: Path) -> None:
    """With `python -m`, which puts this folder, and in it `defenses`, first where Python looks for modules."""
    bench("new", "defense", "mine", "--kind", "online")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    there = {**os.environ, "PYTHONPATH": str(ROOT)}
    sound = subprocess.run(command, cwd=tmp_path, env=there, capture_output=True, text=True)
    assert sound.returncode == 0, sound.stdout + sound.stderr
    file = tmp_path / "defenses" / "mine.py"
    file.write_text(file.read_text().replace('self.t = state.facts["t"]', "pass"))
    faulty = subprocess.run([*command, str(tmp_path)], cwd=ROOT.parent, env=there, capture_output=True, text=True)
    assert faulty.returncode == 1 and "restore undoes answers bit for bit" in faulty.stdout


def test_a_folder_of_plug_ins_hides_no_built_in(tmp_path: Path) -> None:
    """As where the package is found by a hook of an editable installation, which Python asks last."""
    (tmp_path / "defenses").mkdir()
    code = (
        "import sys\n"
        "import bench.registry as registry\n"
        f"sys.path = [{str(tmp_path)!r}, *(path for path in sys.path if path not in ('', {str(ROOT)!r}))]\n"
        "import defenses\n"
        "assert defenses.__file__ is None\n"
        "from bench.plugins import load_all\n"
        "load_all()\n"
        "print(registry.defenses['rmc'].load().__module__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.strip() == "defenses.rmc", done.stderr


def test_it_goes_beside_the_configuration_that_is_named(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "bench.toml").write_text("[run]\nn = 3\n")
    made = bench("new", "attack", "mine", "--config", "project/bench.toml")
    assert made.code == 0 and (tmp_path / "project" / "attacks" / "mine.py").is_file()
    assert "bench check mine --config project/bench.toml" in made.out
    cell = ("run", "--defense", "regular", "--attack", "mine", "--dry-run")
    assert bench(*cell).code == 2 and bench(*cell, "--config", "project/bench.toml").code == 0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["defense", "rmc"], "'rmc' is the name of another defense (built-in)"),
        (["defense", "pgd"], "'pgd' is the name of another attack (built-in)"),
        (["attack", "rmc"], "'rmc' is the name of another defense"),
        (["attack", "eot:pgd"], "cannot be the name of a plug-in"),
        (["defense", ""], "cannot be the name"),
        (["defense", "../mine"], "cannot be the name"),
        (["defense", "/tmp/mine"], "cannot be the name"),
        (["defense", "a b"], "cannot be the name"),
        (["defense", "mine.py"], "cannot be the name"),
        (["defense", "2fast"], "cannot be the name"),
        (["defense", "mine--"], "cannot be the name"),
        (["defense", "mïne"], "cannot be the name"),
        (["defense", "none"], "cannot be the name"),
        (["defense", "x" * 101], "cannot be the name"),
        (["model", "mine"], "No kind of plug-in is called 'model'"),
        (["defence", "mine"], "Did you mean 'defense'?"),
        (["defense", "mine", "--kind", "batch"], "--kind is 'batch'; give static or online"),
        (["attack", "mine", "--kind", "static"], "only a defense is of a kind"),
        (["defense", "mine", "--config", "no.toml"], "does not exist"),
        (["defense"], "Missing argument 'NAME'"),
    ],
)
def test_a_wrong_name_is_one_line_and_writes_nothing(
    bench: Bench, tmp_path: Path, args: list[str], message: str
) -> None:
    refused = bench("new", *args)
    assert refused.code == 2 and refused.err.count("\n") == 1 and message in refused.err, refused.err
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_over_and_nothing_is_left_half_done(bench: Bench, tmp_path: Path) -> None:
    assert bench("new", "defense", "mine").code == 0
    for again in (("defense", "mine"), ("attack", "mine")):
        assert "is the name of another defense" in bench("new", *again).err
    (tmp_path / "defenses" / "mine.py").write_text("1 / 0  # register_defense(")
    for what, file in (("defense", "defenses/mine.py"), ("attack", "tests/test_mine.py")):
        refused = bench("new", what, "mine")
        assert refused.code == 2 and f"{file} exists already" in refused.err
    (tmp_path / "attacks").touch()
    refused = bench("new", "attack", "other")
    assert refused.code == 2 and "attacks cannot be made: File exists" in refused.err and refused.err.count("\n") == 1
    (tmp_path / "attacks").unlink()
    shutil.rmtree(tmp_path / "tests")
    (tmp_path / "tests").touch()
    assert "tests cannot be made" in bench("new", "attack", "other").err
    assert list((tmp_path / "attacks").iterdir()) == []


def test_names_become_classes_that_hide_nothing(bench: Bench, tmp_path: Path) -> None:
    assert class_name("rmc-plus") == "RmcPlus" and class_name("my_own2") == "MyOwn2"
    for name in ("tensor", "params", "field", "any", "class-var", "class"):
        assert bench("new", "defense", name).code == 0
    assert bench("list", "defenses", "--check").code == 0, bench("list", "defenses", "--check").out


def test_check_file_tells_what_does_not_hold(tmp_path: Path) -> None:
    (tmp_path / "defenses").mkdir()
    file = tmp_path / "defenses" / "bad.py"
    file.write_text("from bench import register_defense\nfrom tests.planted import NanDefense\n"
                    "register_defense('bad', NanDefense)\n")  # fmt: skip
    failed = {result.name for result in check_file(file, "bad", tmp_path) if not result.passed}
    assert "answers finite logits" in failed
    file.write_text("1 / 0")
    with pytest.raises(BrokenPlugin, match="ZeroDivisionError"):
        check_file(file, "bad", tmp_path)
    plugins.load_all()

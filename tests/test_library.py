"""The library: what a program calls gives what the command line gives, and survives what programs do."""

from __future__ import annotations

import copy
import csv
import doctest
import inspect
import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import pytest
import torch

import bench as lib
from bench import library
from bench.analysis.intervals import Estimate
from bench.store import Store
from tests import planted
from tests.conftest import ROOT, Bench, sets

EPOCHS = {"base.epochs": 8}
RMC = {**EPOCHS, "defense.epochs": 1, "defense.k": 128, "defense.bank_steps": 5}
PROBE = {**RMC, "attack.steps": 5, "game.p": 4, "game.trials": 2, "threat.delay": 3}

PLUGIN = """
from bench import register_attack, register_defense
from tests import planted
register_defense("raising", planted.RaisingDefense)
class Sound(planted.Wrapped):
    pass
class Hostile(planted.Wrapped):
    def answer(self, x):
        raise RuntimeError("<script>alert('x')</script>")
register_defense("sound", Sound)
register_defense("hostile", Hostile)
register_attack("declining", planted.Declining)
"""


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "plugin.py"
    path.write_text(PLUGIN)
    return path


def play(*args: Any, **values: Any) -> Any:
    """`bench.run` in this process, with few epochs."""
    return lib.run(*args, **{"n": 5, "sets": EPOCHS, "workers": 1, **values})


def exported(bench: Bench, db: str, *more: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(bench("export", "--format", "csv", "--db", db, *more).out)))


def without_seconds(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{name: value for name, value in row.items() if not name.startswith("seconds")} for row in rows]


# -- the same as the command line -------------------------------------------------------------------------------------


def test_a_request_has_the_key_and_the_rows_of_the_same_command(bench: Bench) -> None:
    options = sets(**{key.replace(".", "__"): value for key, value in PROBE.items()})
    command = ("run", "--defense", "rmc", "--attack", "pgd-skip-delayed", "-n", 6, "--seed", 1, "--eps", "26/255",
               "--workers", 1, "--json", *options)  # fmt: skip
    (told,) = bench(*command, "--db", "cli.db").runs
    result = play("rmc", "pgd-skip-delayed", n=6, seed=1, eps="26/255", sets=PROBE, db=Path("lib.db"))
    assert isinstance(result, lib.Result) and result.run == told["run"]
    mine, theirs = exported(bench, "lib.db"), exported(bench, "cli.db")
    assert len(mine) == 6 and without_seconds(mine) == without_seconds(theirs)
    again = bench(*command, "--db", "lib.db")
    assert again.runs == [result.to_dict()] and "started" not in again.err


def test_the_database_is_by_default_that_of_the_command(bench: Bench) -> None:
    play("regular", "clean")
    assert [run["attack"] for run in json.loads(bench("list", "runs", "--json").out)] == ["clean"]
    Path("bench.toml").write_text('[store]\ndb = "other.db"\n[run]\nn = 3\nseed = 7\n')
    result = play("regular", "clean", n=None)
    assert Path("other.db").is_file() and (result.n, result.seed) == (3, 7)


def test_what_is_done_is_found_and_not_played_again() -> None:
    def told(**values: Any) -> tuple[Any, str]:
        err = io.StringIO()
        with redirect_stderr(err):
            return play("regular", "pgd", progress=True, **values), err.getvalue()

    (first, played), (again, found), (anew, replayed) = told(), told(), told(rerun="all")
    assert "started" in played and "DONE" in played and "started" not in found and "started" in replayed
    assert first.to_dict() == again.to_dict() and first.to_dict()["seconds"] != anew.to_dict()["seconds"]
    assert first.robust_accuracy == anew.robust_accuracy
    silent = io.StringIO()
    with redirect_stderr(silent):
        play("regular", "pgd")
    assert silent.getvalue() == ""


@pytest.mark.parametrize(
    ("args", "options"),
    [
        ({"defense": "rmcc"}, ["--defense", "rmcc"]),
        ({"attack": "pgdd"}, ["--attack", "pgdd"]),
        ({"dataset": "mnits"}, ["--dataset", "mnits"]),
        ({"base": "deepnn"}, ["--base", "deepnn"]),
        ({"eps": "8/0"}, ["--eps", "8/0"]),
        ({"eps": -1}, ["--eps", "-1"]),
        ({"n": 501}, ["-n", "501"]),
        ({"norm": "l7"}, ["--norm", "l7"]),
        ({"sets": {"defense.kk": 3}}, ["--set", "defense.kk=3"]),
        ({"sets": {"runner.chunks": 3}}, ["--set", "runner.chunks=3"]),
        ({"device": "tpu"}, ["--device", "tpu"]),
        ({"rerun": "some"}, ["--rerun", "some"]),
        ({"config": "no.toml"}, ["--config", "no.toml"]),
        ({"plugins": "no.py"}, ["--plugin", "no.py"]),
        ({"data_dir": "nowhere", "dataset": "mnist"}, ["--data-dir", "nowhere", "--dataset", "mnist"]),
        ({"db": "sqlite://"}, ["--db", "sqlite://"]),
    ],
)
def test_a_wrong_request_raises_what_the_command_says_and_writes_nothing(
    bench: Bench, tmp_path: Path, args: dict[str, Any], options: list[str]
) -> None:
    given = {"defense": "rmc", "attack": "pgd", **args}
    names = ["--defense", given["defense"], "--attack", given["attack"]]
    said = bench("run", *names, *(options if options[0] not in names else [])).err
    with pytest.raises(lib.BenchError) as raised:
        lib.run(given.pop("defense"), given.pop("attack"), **given)
    assert f"bench: {raised.value}\n" == said and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [{"n": "5"}, {"n": 2.5}, {"seed": True}, {"seed": [0, "1"]}, {"workers": "all"},
                                   {"workers": -1}, {"repeats": 0}, {"sets": ("defense.k=3",)}, {"sets": {1: 2}},
                                   {"dataset": 5}, {"base": 5}])  # fmt: skip
def test_what_no_command_could_say_is_refused_too(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(lib.BenchError):
        lib.run("rmc", "pgd", **wrong)
    with pytest.raises(lib.BenchError):
        lib.run([], "pgd")
    assert list(tmp_path.iterdir()) == []


def test_the_example_of_the_docstring_is_true() -> None:
    (test,) = doctest.DocTestFinder().find(library.run, "run", globs={})
    found = doctest.DocTestRunner().run(test)
    assert found.attempted == 4 and found.failed == 0


# -- several runs -----------------------------------------------------------------------------------------------------


def test_several_names_are_crossed() -> None:
    found = play(["regular", "rmc"], ["clean", "pgd"], n=4, sets=RMC)
    assert isinstance(found, lib.Results) and len(found) == 4
    assert [(r.defense, r.attack) for r in found] == [
        ("regular", "clean"), ("regular", "pgd"), ("rmc", "clean"), ("rmc", "pgd"),
    ]  # fmt: skip
    assert (
        isinstance(found[1:], lib.Results) and found[1:][0] is found[1] and repr(found) == "<Results: 4 runs, 4 DONE>"
    )
    assert isinstance(play(["regular"], "clean", n=4), lib.Results)
    table = found.to_pandas()
    assert list(table["run"]) == [r.run for r in found] and list(table["n"]) == [4] * 4
    assert table["robust_accuracy"].tolist() == [float(r.robust_accuracy) for r in found]
    assert table["clean_accuracy"].notna().all() and table["robust_low"].dtype == "float64"
    rows = found.to_pandas(examples=True)
    assert len(rows) == 16 and list(dict.fromkeys(rows["run"])) == list(table["run"])
    two = play("regular", "pgd", seed=range(2), eps=[0.1, "8/255"], n=4)
    assert sorted({(r.seed, round(r.eps, 4)) for r in two}) == [(0, 0.0314), (0, 0.1), (1, 0.0314), (1, 0.1)]


def test_a_suite_is_played_and_noted() -> None:
    Path("bench.toml").write_text(
        "[suite.tiny]\n"
        'cells = [{ defense = ["regular"], attack = ["clean", "pgd"], n = 40, set = { "base.epochs" = 8 } }]\n'
    )
    found = lib.run_suite("tiny", n=4, sets={"attack.steps": 5}, workers=1)
    assert [(r.attack, r.n, r.status) for r in found] == [("clean", 4, "DONE"), ("pgd", 4, "DONE")]
    store = Store.open("results/bench.db", create=False)
    assert store is not None and {record.key for record in store.suite_runs("tiny")} == {r.run for r in found}
    with pytest.raises(lib.BenchError, match="Did you mean 'tiny'"):
        lib.run_suite("tinny")


def test_one_failing_run_raises_nothing_and_stops_no_other(plugin: Path) -> None:
    failed, sound = play(["raising", "regular"], "clean", plugins=plugin)
    assert failed.status == "FAILED" and failed.reason == "ValueError: no answer today" and "Traceback" in failed.detail
    assert failed.robust_accuracy is None and failed.clean_accuracy is None and failed.rows() == []
    assert sound.status == "DONE" and sound.reason == sound.detail == ""
    assert "FAILED: ValueError: no answer today" in repr(failed) and "robust" not in repr(failed)
    empty = failed.to_pandas()
    assert len(empty) == 0 and dict(empty.dtypes) == dict(sound.to_pandas().dtypes)
    both = lib.Results(sound._store, [failed, sound]).to_pandas()
    assert both["robust_accuracy"].isna().tolist() == [True, False] and both["reason"][0] == failed.reason
    skipped = play("regular", "declining", plugins=[plugin])
    assert (skipped.status, skipped.reason) == ("SKIPPED", "not today")


# -- a result ---------------------------------------------------------------------------------------------------------


def test_an_accuracy_reads_as_a_number_and_as_a_text() -> None:
    estimate = Estimate(0.125, 0.073, 0.2041, "Wilson")
    assert str(estimate) == f"{estimate}" == "12.5 % (7.3 to 20.4, Wilson)"
    assert float(estimate) == 0.125 and f"{estimate:.2f}" == "0.12" and f"{estimate:.0%}" == "12%"


def test_a_result_has_the_fields_of_the_json_object(bench: Bench) -> None:
    result = play("rmc", "pgd", sets=RMC)
    (told,) = json.loads(bench("list", "runs", "--json").out)[1:]
    assert result.to_dict() == told
    for name in set(told) - {"threat", "clean_accuracy", "robust_accuracy"}:
        assert getattr(result, name) == told[name] and name in dir(result)
    assert result.threat == told["threat_in_words"] and "trained weights" in result.threat
    for name in ("clean_accuracy", "robust_accuracy"):
        estimate = getattr(result, name)
        assert isinstance(estimate, Estimate) and vars(estimate) == told[name]
    assert result.spec["defense"]["params"]["k"] == RMC["defense.k"] and result.uncut_accuracy is None
    for missing in ("nothing", "median_distance", "_hidden"):
        assert not hasattr(result, missing)
    result.to_dict()["seconds"].clear()
    assert result.seconds == told["seconds"] and copy.copy(result).run == result.run
    assert repr(result).startswith(f"<Result {result.run[:10]}: rmc on regular / pgd / digits, DONE, robust ")
    assert "\n" not in repr(result)


def test_an_attack_of_minimal_norm_has_its_accuracy_uncut() -> None:
    result = play("regular", "jsma", n=4, sets={"base.epochs": 8})
    assert float(result.uncut_accuracy) <= float(result.robust_accuracy) and result.norm == "l0"


def test_a_notebook_shows_text_and_runs_nothing(plugin: Path) -> None:
    found = play(["sound", "raising", "hostile"], "clean", plugins=plugin)
    for shown in (found._repr_html_(), *(one._repr_html_() for one in found)):
        assert "<script" not in shown and "'x'" not in shown and "://" not in shown and "color:#" not in shown
    assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;" in found[2]._repr_html_()
    assert "no answer today" in found[1]._repr_html_() and "Wilson" in found[0]._repr_html_()
    many = lib.Results(found._store, [found[0]] * 60)
    assert many._repr_html_().count("<tr>") == 51 and "and 10 more" in many._repr_html_()


def test_a_frame_has_the_lines_of_the_export_with_types(bench: Bench) -> None:
    result = play("rmc", "pgd", sets=RMC)
    frame = result.to_pandas()
    rows = exported(bench, "results/bench.db", result.run)
    assert list(result.rows()[0]) == list(frame) == list(rows[0])[: len(frame.columns)]
    accuracies = {name: row for name, row in rows[0].items() if name not in frame}
    for name, known in (("clean", result.clean_accuracy), ("robust", result.robust_accuracy)):
        assert known is not None
        for part, value in (("accuracy", known.value), ("low", known.low), ("high", known.high)):
            assert float(accuracies.pop(f"{name}_{part}")) == value
    assert not accuracies and set(frame["tier"]) == {"train-time"} and set(frame["resent_clean"]) == {""}
    kinds = {name: str(kind) for name, kind in frame.dtypes.items()}
    text = str(frame["run"].dtype)  # str; object before pandas 3
    for name, kind in {"run": text, "violation": text, "eps": "float64", "seed": "int64", "index": "int64",
                       "attacked_answer": "int64", "clean_answer": "Int64", "believed": "boolean",
                       "distance": "float64", "seconds_attack": "float64"}.items():  # fmt: skip
        assert kinds[name] == kind, name
    for row, (_, line) in zip(result.rows(), frame.iterrows(), strict=True):
        assert {name: None if line[name] != line[name] else line[name] for name in row if row[name] is not None} == {
            name: value for name, value in row.items() if value is not None
        }


# -- a database -------------------------------------------------------------------------------------------------------


def test_all_rows_of_a_database_are_those_of_its_export(bench: Bench, plugin: Path) -> None:
    play("rmc", "pgd-skip-delayed", n=6, sets=PROBE)  # has clean answers of its own
    play(["regular", "rmc"], "pgd", sets=RMC)  # has them from the paired runs
    play("regular", "jsma", n=4, sets={"base.epochs": 8})
    play("raising", "clean", plugins=plugin)
    frame = lib.load()
    rows = exported(bench, "results/bench.db")
    assert len(frame) == len(rows) == 6 + 4 * 5 + 2 * 4 and list(frame) == list(rows[0])[: len(frame.columns)]
    texts = frame.astype(object).where(frame.notna(), "")
    for name in frame:
        assert [str(value) for value in texts[name]] == [row[name] for row in rows], name
    assert frame["clean_answer"].notna().all() and set(frame["protocol"]) == {"probe", "stream"}
    assert set(lib.load(defense="rmc")["attack"]) == {"pgd-skip-delayed", "clean", "pgd"}
    some = lib.load(defense=["rmc", "regular"], attack="pgd", dataset="digits", status="DONE")
    assert len(some) == 10 and some["clean_answer"].notna().all()  # also where the clean runs are filtered out
    none = lib.load(attack="fgsm")
    assert len(none) == 0 and dict(none.dtypes) == dict(frame.dtypes)
    found = lib.results()
    assert [r.run for r in found] == [run["run"] for run in json.loads(bench("list", "runs", "--json").out)]
    (failed,) = lib.results(status="FAILED")
    assert failed.defense == "raising" and list(lib.results(dataset="mnist")) == []
    for read in (lib.load, lib.results):
        with pytest.raises(lib.BenchError, match="Did you mean 'DONE'"):
            read(status="DON")


def test_a_clean_answer_that_nobody_has_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from attacks.clean import Clean

    def fail(*args: object) -> None:
        raise OSError("no clean images today")

    monkeypatch.setattr(Clean, "perturb", fail)
    frame = play("regular", "pgd").to_pandas()
    assert len(frame) == 5 and frame["clean_answer"].isna().all() and str(frame["clean_answer"].dtype) == "Int64"


def test_a_database_that_is_not_there_is_told_as_on_the_command_line(bench: Bench, tmp_path: Path) -> None:
    said = bench("export", "--db", "none.db").err
    for read in (lib.load, lib.results):
        with pytest.raises(lib.BenchError) as raised:
            read("none.db")
        assert f"bench: {raised.value}\n" == said
    assert list(tmp_path.iterdir()) == []


def test_without_pandas_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    result = play("regular", "clean")
    monkeypatch.setitem(sys.modules, "pandas", None)
    line = r'needs pandas; install it with: pip install "adversarial-game-bench\[pandas\]"'
    for read in (result.to_pandas, lib.load, lib.results().to_pandas):
        with pytest.raises(lib.BenchError, match=line):
            read()
    assert len(result.rows()) == 5


# -- in somebody else's process ---------------------------------------------------------------------------------------


def test_a_class_stands_for_its_name(bench: Bench) -> None:
    from defenses.rmc import RMC as Method

    assert play(Method, "clean", sets=RMC).defense == "rmc"
    with pytest.raises(lib.BenchError, match=r"call bench.register_defense\(NAME, Wrapped\)"):
        play(planted.Wrapped, "clean")
    lib.register_defense("wrapped", planted.Wrapped)
    one = play(planted.Wrapped, "clean", workers=None)  # here, whatever bench.toml says: no worker knows the class
    assert (one.defense, one.status) == ("wrapped", "DONE") and play("wrapped", "clean").run == one.run
    with pytest.raises(lib.BenchError, match=r"registered wrapped itself.*give workers=1"):
        play("wrapped", "pgd", workers=2)


def test_an_edited_plug_in_is_another_run(plugin: Path) -> None:
    first = play("sound", "clean", plugins=plugin)
    plugin.write_text(PLUGIN + "# edited\n")
    assert play("sound", "clean", plugins=plugin).run != first.run


def test_the_threads_of_the_caller_are_given_back() -> None:
    torch.set_num_threads(2)
    try:
        play("regular", "pgd")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_a_script_without_a_guard_may_use_workers(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import bench\n"
        f"result = bench.run('regular', 'pgd', n=4, sets={EPOCHS}, workers=2)\n"
        "print(result.status, result.n, __name__)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.stdout == "DONE 4 __main__\n" and done.returncode == 0, done.stderr


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys, bench\n"
        "assert not {'torch', 'numpy', 'pandas', 'sqlalchemy', 'pydantic'} & set(sys.modules)\n"
        "assert {'run', 'run_suite', 'load', 'results', 'Result', 'Estimate'} <= set(dir(bench))\n"
        "bench.run\n"
        "assert not {'pandas', 'click', 'rich'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=120)


def test_a_suite_takes_the_arguments_of_a_run_and_no_others() -> None:
    named = set(inspect.signature(lib.run).parameters)
    assert set(library.Arguments.__annotations__) == named
    with pytest.raises(TypeError, match="unexpected keyword argument 'epsilon'"):
        lib.run_suite("smoke", epsilon=0.1)  # type: ignore[call-arg]

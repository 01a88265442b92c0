"""The command line as its users meet it: what it prints, its exit codes, and one line for every mistake."""

from __future__ import annotations

import csv
import io
import json
import signal
import sqlite3
from pathlib import Path

import pytest

from bench.plugins import load_all
from tests.conftest import QUICK, Bench, sets

FAST = [part for key, value in QUICK.items() for part in ("--set", f"{key}={value}")]
BASE = sets(base__epochs=8)

PLUGINS = """
from bench import register_attack, register_defense
from tests import planted
for name, cls in vars(planted).items():
    if isinstance(cls, type) and issubclass(cls, planted.Defense) and cls.__module__ == planted.__name__:
        register_defense("x-" + name.lower(), cls)
    if isinstance(cls, type) and issubclass(cls, planted.Attack) and cls.__module__ == planted.__name__:
        register_attack("x-" + name.lower(), cls)
register_attack("x-unlimited", planted.Greedy, preset={"queries": 3})
"""


@pytest.fixture
def plugins(tmp_path: Path) -> list[str]:
    path = tmp_path / "plugins.py"
    path.write_text(PLUGINS)
    return ["--plugin", str(path)]


def test_the_main_job_prints_one_object_with_the_promised_fields(bench: Bench) -> None:
    done = bench("run", "--defense", "rmc", "--attack", "pgd-skip-delayed", "-n", 6, "--json", "--workers", 1, *FAST,
                 *sets(game__p=4, game__trials=2, threat__delay=3))  # fmt: skip
    assert done.code == 0, done.err
    (run,) = done.runs
    assert set(run) >= {
        "run", "status", "defense", "base", "attack", "dataset", "norm", "eps", "n", "seed", "protocol",
        "clean_accuracy", "robust_accuracy", "violations", "seconds", "ledger", "threat", "flags", "reason",
    }  # fmt: skip
    assert (run["status"], run["defense"], run["base"], run["protocol"], run["n"]) == (
        "DONE",
        "rmc",
        "regular",
        "probe",
        6,
    )
    assert run["threat"]["delay"] == 3 and run["threat"]["weights"] == "adapted" and run["violations"] == 0
    assert set(run["seconds"]) == {"attack", "defense", "harness", "total"}
    assert run["seconds"]["total"] == pytest.approx(sum(run["seconds"][k] for k in ("attack", "defense", "harness")))
    assert run["ledger"]["forwards"] == run["ledger"]["backwards"] == 6 * 5 and run["ledger"]["adaptation_steps"] > 0
    # 2 games serve 4 + 3 points; 128 neighbours: one batch to adapt, one to calibrate
    assert run["ledger"]["background_steps"] == 2 * 7 * 2 and run["ledger"]["adaptation_steps"] == 6
    assert run["answer_s"] > 0 and run["probe_s"] > 0
    for name in ("clean_accuracy", "robust_accuracy"):
        estimate = run[name]
        assert 0 <= estimate["low"] <= estimate["value"] <= estimate["high"] <= 1
    assert "started" in done.err and "DONE" in done.err  # progress goes to standard error, plain lines when piped


def test_a_second_call_reports_without_playing_again(bench: Bench) -> None:
    command = ("run", "--defense", "regular", "--attack", "pgd", "-n", 5, "--json", "--workers", 1,
               *sets(base__epochs=8, attack__steps=5))  # fmt: skip
    first, again = bench(*command), bench(*command)
    assert first.runs == again.runs and "started" not in again.err
    rerun = bench(*command, "--rerun", "all")
    assert "started" in rerun.err and rerun.runs[0]["robust_accuracy"] == first.runs[0]["robust_accuracy"]


def test_the_clean_accuracy_of_a_stream_is_that_of_its_paired_run(bench: Bench) -> None:
    bench("run", "--defense", "rmc", "--attack", "pgd", "-n", 5, "--workers", 1, *FAST)
    runs = {run["attack"]: run for run in json.loads(bench("list", "runs", "--json").out)}
    assert set(runs) == {"clean", "pgd"}  # planned by itself
    assert runs["pgd"]["clean_accuracy"] == runs["clean"]["robust_accuracy"] == runs["clean"]["clean_accuracy"]


def test_a_clean_run_that_failed_is_told(bench: Bench, monkeypatch: pytest.MonkeyPatch, plugins: list[str]) -> None:
    from attacks.clean import Clean

    def fail(*args: object) -> None:
        raise OSError("no clean images today")

    monkeypatch.setattr(Clean, "perturb", fail)
    done = bench("run", "--defense", "regular", "--attack", "pgd", "-n", 3, "--json", "--workers", 1, *BASE)
    (run,) = done.runs
    assert run["clean_accuracy"] is None and run["status"] == "DONE"
    assert [flag["id"] for flag in run["flags"]] == ["no-clean"] and "no clean images" in run["flags"][0]["message"]


def test_one_failing_run_stops_no_other_and_its_reason_is_kept(bench: Bench, plugins: list[str]) -> None:
    attacks = [part for name in ("x-raisingattack", "clean", "x-declining") for part in ("--attack", name)]
    done = bench("run", "--defense", "regular", *attacks, "-n", 4, "--json", "--workers", 1, *BASE, *plugins)
    status = {run["attack"]: (run["status"], run["reason"]) for run in done.runs}
    assert done.code == 1
    assert status["x-raisingattack"] == ("FAILED", "RuntimeError: this attack is broken")
    assert status["clean"] == ("DONE", "") and status["x-declining"] == ("SKIPPED", "not today")
    key = next(run["run"] for run in done.runs if run["status"] == "FAILED")
    assert "Traceback" in json.loads(bench("show", key, "--json").out)["detail"]
    again = bench("run", "--defense", "regular", *attacks, "-n", 4, "--workers", 1, *BASE, *plugins)
    assert again.code == 1 and "started" not in again.err  # it failed before and was not asked to rerun
    assert "started" in bench("run", "--defense", "regular", "--attack", "x-raisingattack", "-n", 4, "--workers", 1,
                              "--rerun", "failed", *BASE, *plugins).err  # fmt: skip


@pytest.mark.parametrize(
    ("defense", "attack", "reason"),
    [
        ("x-nandefense", "clean", "not finite"),
        ("x-wrongshapedefense", "clean", "logits have the shape (4, 10)"),
        ("x-raisingdefense", "clean", "ValueError: no answer today"),
        ("regular", "x-wrongshapeattack", "images of shape (3, 1, 8, 8) for inputs of (4, 1, 8, 8)"),
        ("regular", "x-asksforweights", "grants no weights"),
        ("regular", "x-unlimited", "budget of 3 queries"),
        ("x-nandefense", "pgd-skip", "not finite"),
        ("regular", "x-exiting", "SystemExit: 3"),
    ],
)
def test_a_plug_in_that_breaks_fails_its_run_with_the_reason(
    bench: Bench, plugins: list[str], defense: str, attack: str, reason: str
) -> None:
    more = sets(game__p=2) if attack == "pgd-skip" else []
    done = bench(
        "run", "--defense", defense, "--attack", attack, "-n", 4, "--json", "--workers", 1, *BASE, *more, *plugins
    )
    assert done.code == 1 and done.runs[0]["status"] == "FAILED" and reason in done.runs[0]["reason"]


@pytest.mark.parametrize(("attack", "count"), [("x-leavestheball", 4), ("x-leavesthebox", 4), ("x-nanattack", 2)])
def test_violations_are_counted_flagged_and_judged_as_clean(
    bench: Bench, plugins: list[str], attack: str, count: int
) -> None:
    command = (
        "run",
        "--defense",
        "regular",
        "--attack",
        attack,
        "--attack",
        "clean",
        "-n",
        4,
        "--json",
        "--workers",
        1,
    )
    broken, clean = bench(*command, *BASE, *plugins).runs
    assert broken["status"] == "DONE" and broken["violations"] == count == broken["flags"][0]["value"]
    assert broken["flags"][0]["id"] == "V1" and "not ranked" in broken["flags"][0]["message"]
    assert broken["robust_accuracy"]["value"] == clean["robust_accuracy"]["value"] and clean["flags"] == []


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--defense", "rmcc"], "No defense is called 'rmcc'. Did you mean 'rmc'?"),
        (["--attack", "pgdd"], "Did you mean 'pgd'?"),
        (["--dataset", "mnits"], "Did you mean 'mnist'?"),
        (["--eps", "8/0"], "eps is '8/0'"),
        (["--eps", "-1"], "eps is -1"),
        (["--eps", "nan"], "finite"),
        (["-n", "0"], "n is 0; digits has 500 test points"),
        (["-n", "501"], "n is 501"),
        (["-n", "many"], "not a valid int"),
        (["--set", "defense.kk=3"], "Did you mean 'defense.k'"),
        (["--set", "defense.k=2595"], "2594 rows"),
        (["--set", "runner.chunks=3"], "Did you mean 'chunk'"),
        (["--set", "nonsense"], "no dotted key"),
        (["--device", "tpu"], "No device is called 'tpu'"),
        (["--device", "cuda"], "no CUDA device here"),
        (["--norm", "l7"], "must be one of linf, l2, l1, l0"),
        (["--rerun", "some"], "--rerun is 'some'"),
        (["--workers", "0"], "--workers"),
        (["--base", "given"], "name its network with base.model"),
        (["--base", "given", "--set", "base.model=digits-cnn"], "its weights would be random: give base.weights"),
        (["--base", "given", "--set", "base.model=zoo:nothing"], "No network of the zoo is called 'nothing'"),
        (["--eps", "8"], "did you mean 8/255? Give a smaller radius, or --force-eps"),
        (["--eps", "1"], "no two images are farther apart than 1"),
        (["--suite", "smokee"], "Did you mean 'smoke'"),
        (["--config", "no.toml"], "does not exist"),
        (["--plugin", "no.py"], "does not exist"),
        (["--data-dir", "nowhere", "--dataset", "mnist"], "does not exist"),
        (["--data-dir", ".", "--dataset", "mnist"], "is missing"),
        (["--base", "deepnn"], "'deepnn' is no base"),
        (["--attack", "pgd-skip", "--set", "game.p=499"], "but digits has 500 test points"),
        (["--defence", "rmc"], "--defence"),
        (["--db", "sqlite://"], "in memory"),
    ],
)
def test_a_wrong_request_is_one_line_and_writes_nothing(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], message: str
) -> None:
    given = ["--defense", "rmc", "--attack", "pgd"]
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)  # also where there is one
    done = bench("run", *given, *args)
    assert done.code == 2 and done.out == ""
    assert done.err.count("\n") == 1 and message in done.err, done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "args, message",
    [
        (["--workers", "0"], "--workers"),
        (["-n", "1"], "needs at least 2 examples"),
        (["--budget", "much"], "--budget is 'much'"),
        (["--eps", "eight"], "eps is 'eight'"),
        (["--eps", "0"], "an audit needs a radius above 0"),
        (["--eps", "1.5"], "Give a smaller radius"),
        (["--set", "threat.eps=0.1"], "give --eps"),
    ],
)
def test_a_wrong_audit_is_one_line_and_writes_nothing(
    bench: Bench, tmp_path: Path, args: list[str], message: str
) -> None:
    done = bench("audit", "regular", *args)
    assert done.code == 2 and done.out == "" and done.err.count("\n") == 1 and message in done.err, done.err
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_not_what_they_should_be(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("these are only notes, no database at all " * 40)
    (tmp_path / "bench.toml").write_text("[runer]\nchunk = 3\n")
    done = bench("run", "--defense", "rmc", "--attack", "pgd")
    assert done.code == 2 and "Did you mean 'runner'" in done.err and done.err.count("\n") == 1
    (tmp_path / "bench.toml").unlink()
    for path, make in (("notes", None), ("cats.db", "CREATE TABLE cats (x)")):
        if make:
            with sqlite3.connect(tmp_path / path) as connection:
                connection.execute(make)
        done = bench("run", "--defense", "rmc", "--attack", "pgd", "--db", path)
        assert done.code == 2 and done.err.count("\n") == 1 and "give --db" in done.err.lower()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cats.db", "notes"]
    assert bench("show", "abcdef").code == 2 and bench("export").code == 2
    unknown = bench("nonsense")
    known = "bench: No command is called 'nonsense'. Known: audit, board, bundle, cache,"
    assert unknown.code == 2 and unknown.err.startswith(known)


def test_a_dry_run_prints_the_plan_and_writes_nothing(bench: Bench, tmp_path: Path) -> None:
    done = bench("run", "--suite", "smoke", "--dry-run", "--json")
    plans = done.runs
    assert done.code == 0 and len(plans) == 14 and {plan["status"] for plan in plans} == {"new"}
    assert plans[0]["spec"]["defense"]["name"] == "regular" and list(tmp_path.iterdir()) == []
    assert "14 runs planned" in bench("run", "--suite", "smoke", "--dry-run").out


def test_list_names_everything_and_shows_what_is_broken(bench: Bench, tmp_path: Path) -> None:
    found = json.loads(bench("list", "--json").out)
    assert {row["name"] for row in found["defenses"]} >= {"rmc", "rmc-plus", "deepnn", "regular"}
    assert {row["name"] for row in found["datasets"]} == {"digits", "mnist", "cifar10", "imagenet"}
    assert bench("list", "--check").code == 0
    (tmp_path / "bench.toml").touch()
    (tmp_path / "attacks").mkdir()
    (tmp_path / "attacks" / "bad.py").write_text("import nowhere  # register_attack(")
    assert [row["origin"] for row in json.loads(bench("list", "defenses", "--json").out) if row["broken"]]
    broken = bench("list", "attacks")
    said = " ".join(broken.out.split())  # wherever lines are broken
    assert broken.code == 0 and "BROKEN: ModuleNotFoundError: No module named 'nowhere'" in said
    assert bench("list", "--check").code == 1
    assert bench("check", "bad").code == 1
    assert bench("run", "--defense", "regular", "--attack", "clean", "-n", 3, "--workers", 1, *BASE).code == 0
    assert "Did you mean 'attacks'" in bench("list", "atacks").err


def test_a_dataset_that_is_none_leaves_the_others_to_be_listed(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text(
        "from bench import register_dataset\nclass Odd:\n    pass\nregister_dataset('odd', Odd, summary='none')\n"
        "class Raises:\n    Params = facts = load = None\n    def check(folder):\n        raise OSError('no disk')\n"
        "register_dataset('raises', Raises)\n"
    )
    told = bench("data", "--plugin", "odd.py", "--data-dir", ".")
    assert told.code == 0 and "digits:" in told.out and "lacks Params, facts, load, check" in told.out
    assert "odd.py cannot be looked for: OSError: no disk" in told.out
    for name in ("odd", "raises"):
        alone = bench("data", name, "--plugin", "odd.py", "--data-dir", ".")
        assert alone.code == 2 and alone.err.count("\n") == 1, alone.err
    assert (
        "lacks Params"
        in bench("run", "--defense", "rmc", "--attack", "pgd", "--dataset", "odd", "--plugin", "odd.py").err
    )
    found = {
        row["what"]: row["level"] for row in json.loads(bench("doctor", "--json", "--plugin", "odd.py").out)["findings"]
    }
    assert found["dataset odd"] == "note" and "dataset mnist" in found


def test_seeds_are_whole_numbers_that_a_table_can_hold(bench: Bench) -> None:
    args = ("run", "--defense", "regular", "--attack", "pgd", "--dry-run")
    assert "give a whole number from 0 to" in bench(*args, "--seed", "99999999999999999999").err
    assert "base.seed is '1.5'; give a whole number" in bench(*args, "--set", "base.seed=1.5").err


def test_a_plug_in_that_is_none_is_one_line(bench: Bench, tmp_path: Path, plugins: list[str]) -> None:
    (tmp_path / "odd.py").write_text(
        "from bench import register_attack, register_defense, StaticDefense\n"
        "class Half(StaticDefense):\n    pass\n"
        "register_defense('object', object)\nregister_defense('half', Half)\nregister_attack('number', 3)\n"
    )
    odd = ["--plugin", "odd.py"]
    for cell, message in (
        (["--defense", "object", "--attack", "clean"], "no subclass of bench.Defense"),
        (["--defense", "half", "--attack", "clean"], "lacks answer, fit, proxy"),
        (["--defense", "regular", "--attack", "number"], "no subclass of bench.Attack"),
    ):
        done = bench("run", *cell, *odd)
        assert done.code == 2 and done.err.count("\n") == 1 and message in done.err
    assert bench("list", "--check", *odd).out.count("BROKEN") == 3
    done = bench("run", "--defense", "x-validating", "--attack", "clean", *plugins)
    assert done.code == 2 and "cannot be made: KeyError" in done.err and done.err.count("\n") == 1
    (tmp_path / "bad.py").write_text("import sys\nsys.exit(0)")
    listed = bench("list", "defenses", "--plugin", "bad.py")
    assert listed.code == 0 and "BROKEN: SystemExit" in listed.out and "rmc" in listed.out
    assert bench("run", "--defense", "rmc", "--attack", "pgd", "--plugin", "bad.py").code == 2


def test_what_a_class_says_of_its_attack_holds(bench: Bench, plugins: list[str]) -> None:
    (plan,) = bench("run", "--defense", "rmc", "--attack", "x-prober", "--dry-run", "--json", *plugins,
                    *sets(threat__delay=3)).runs  # fmt: skip
    assert plan["protocol"] == "probe" and plan["spec"]["threat"]["weights"] == "adapted"
    assert plan["spec"]["threat"]["delay"] == 3 and plan["norm"] == "l2"


def test_an_attack_declines_a_norm_that_it_has_not(bench: Bench) -> None:
    done = bench(
        "run", "--defense", "regular", "--attack", "pgd", "--norm", "l0", "-n", 3, "--json", "--workers", 1, *BASE
    )
    assert done.code == 0 and done.runs[0]["status"] == "SKIPPED"
    assert done.runs[0]["reason"] == "it has no l0 form (it has: linf, l2, l1)"


def test_runs_in_l1_pass_through_every_command(bench: Bench) -> None:
    attacks = ("--attack", "pgd", "--attack", "autoattack")
    small = sets(attack__steps=40, attack__square_queries=20)
    done = bench(
        "run", "--defense", "regular", *attacks, "--norm", "l1", "-n", 6, "--json", "--workers", 1, *BASE, *small
    )
    assert done.code == 0, done.err
    for run in done.runs:
        assert (run["status"], run["norm"], run["eps"], run["violations"]) == ("DONE", "l1", 4.0, 0)
        assert run["robust_accuracy"]["value"] < run["clean_accuracy"]["value"]
        assert bench("verify", run["run"]).code == 0
        (exported,) = json.loads(bench("export", run["run"], "--format", "json").out)
        far = [example["distances"]["l1"] for example in exported["examples"]]
        assert [example["distance"] for example in exported["examples"]] == far and 0 < max(far) <= 4 + 1e-4
    keys = [run["run"] for run in done.runs]
    assert bench("compare", *keys).code == 0
    lines = list(csv.DictReader(io.StringIO(bench("export", *keys, "--format", "csv").out)))
    assert len(lines) == 12 and all(line["distance"] == line["distances_l1"] != "" for line in lines)
    assert "l1 eps 4" in bench("show", keys[0]).out
    assert bench("leaderboard", "--runs", "all", "--out", "site").code == 0
    pages = [path.read_text(encoding="utf-8") for path in Path("site", "runs").glob("*.html")]
    assert sum("l1 4" in page for page in pages) == 2
    assert bench("plot", "heatmap", "--norm", "l1", "--out", "l1.svg").code == 0


def test_the_same_plug_in_in_another_folder_is_the_same_run(bench: Bench, tmp_path: Path, plugins: list[str]) -> None:
    other = tmp_path / "elsewhere" / "renamed.py"
    other.parent.mkdir()
    other.write_text(PLUGINS)
    cell = ("run", "--defense", "regular", "--attack", "x-prober", "--dry-run", "--json")
    assert bench(*cell, *plugins).runs[0]["run"] == bench(*cell, "--plugin", other).runs[0]["run"]


def test_an_empty_file_is_an_empty_database(bench: Bench, tmp_path: Path) -> None:
    """What a kill between the making of the file and of the tables leaves."""
    (tmp_path / "empty.db").touch()
    assert bench("list", "runs", "--db", "empty.db").code == 2
    assert bench("run", "--defense", "rmc", "--attack", "pgd", "--db", "empty.db", "--dry-run").code == 0
    done = bench("run", "--defense", "regular", "--attack", "clean", "-n", 3, "--db", "empty.db", "--workers", 1, *BASE)
    assert done.code == 0


def test_show_and_export_give_the_rows(bench: Bench, tmp_path: Path) -> None:
    command = ("run", "--defense", "rmc", "--attack", "pgd", "-n", 4, "--json", "--workers", 1, *FAST)
    run = bench(*command).runs[0]
    shown = bench("show", run["run"][:8])
    assert shown.code == 0 and "trained weights" in shown.out and run["run"] in shown.out
    exported = json.loads(bench("export", run["run"]).out)
    (record,) = exported
    assert record["run"] == run["run"] and len(record["examples"]) == 4
    example = record["examples"][0]
    assert set(example) >= {
        "index", "trial", "position", "label", "clean_answer", "attacked_answer", "distance", "violation", "x_sha256",
        "adv_sha256", "forwards", "backwards", "queries", "adaptation_steps", "seconds",
    }  # fmt: skip
    assert example["clean_answer"] is not None and 0 < example["distance"] <= 0.2 + 1e-6
    one = json.loads(bench("show", run["run"][:8], "--example", example["index"], "--json").out)
    assert one == [example]
    assert {name: sum(counts) for name, counts in example["neighbours"].items()} == {"D": 128, "D'": 128}
    table = bench("show", run["run"][:8], "--example", example["index"]).out
    assert "labels of the neighbours of what was served" in table and f"{example['label']} *" in table
    assert 0 < run["answer_s"] <= run["answer_p95_s"] and "95th percentile" in shown.out
    assert bench("show", run["run"][:8], "--example", 10**6).code == 2
    minimal = bench("run", "--defense", "regular", "--attack", "jsma", "-n", 4, "--json", "--workers", 1, *BASE).runs[0]
    assert minimal["uncut_accuracy"]["value"] <= minimal["robust_accuracy"]["value"] and minimal["norm"] == "l0"
    told = bench("show", minimal["run"]).out
    assert "uncut %" in told and "median distance" in told
    rows = list(csv.DictReader(io.StringIO(bench("export", run["run"], "--format", "csv").out)))
    assert [row["adv_sha256"] for row in rows] == [row["adv_sha256"] for row in record["examples"]]
    assert bench("export", "--format", "parquet", "--out", "rows.parquet").code == 0
    parquet = pytest.importorskip("pyarrow.parquet").read_table(tmp_path / "rows.parquet")
    assert parquet.num_rows == 16  # two runs, each with its paired clean run
    assert json.loads(bench("export", run["run"], "--json", "--data-dir", "anywhere").out) == exported
    for args in (["--format", "xml"], ["--format", "parquet"], ["--out", "no/where.json"], ["--out", "."],
                 ["--format", "parquet", "--out", "."], ["--json", "--format", "csv"]):  # fmt: skip
        wrong = bench("export", *args)
        assert wrong.code == 2 and wrong.err.count("\n") == 1


def test_data_and_train_make_things_ready(bench: Bench) -> None:
    assert "embedded" in bench("data", "digits").out
    assert "not there" in bench("data").out
    done = bench("train", "regular", "--json", *BASE)
    made = json.loads(done.out)
    assert made["accuracy"] > 0.85 and Path(made["path"]).is_file() and made["n"] == 500
    assert bench("train", "rmc").code == 2 and bench("data", "minst").code == 2


def test_check_prints_the_contract_and_its_exit_code_says_whether_it_holds(bench: Bench, plugins: list[str]) -> None:
    sound = json.loads(bench("check", "x-counting", "--json", *plugins).out)
    assert sound["passed"] and all(check["passed"] for check in sound["checks"])
    faulty = bench("check", "x-forgetsonrestore", *plugins)
    assert faulty.code == 1 and "FAIL  restore undoes answers" in faulty.out
    assert "Did you mean 'rmc'" in bench("check", "rmcc").err


def test_help_is_there_for_every_command(bench: Bench) -> None:
    from bench.cli.main import COMMANDS

    assert bench("--help").code == 0 and "leaderboard" in bench("--help").out
    for command in COMMANDS:
        assert bench(command, "--help").code == 0


def test_an_interrupt_is_told_and_the_run_is_given_back(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.execution.progress import PlainListener

    def interrupt(*args: object) -> None:
        signal.raise_signal(signal.SIGINT)

    command = ("run", "--defense", "regular", "--attack", "clean", "-n", 4, "--workers", 1, *BASE)
    with monkeypatch.context() as patch:
        patch.setattr(PlainListener, "chunk", interrupt)
        stopped = bench(*command)
    assert stopped.code == 130 and "the same command goes on" in stopped.err
    assert bench(*command).code == 0
    load_all()


@pytest.mark.parametrize(
    ("body", "where", "words"),
    [
        ("os._exit(0)", "fit", "ended the process of the checks with exit code 0"),
        ("os.kill(os.getpid(), 9)", "fit", "ended the process of the checks with signal 9"),
        ("os._exit(0)", "import", "ended the process of the checks with exit code 0"),
        ("sys.exit(0)", "fit", ""),
    ],
)
def test_a_plugin_that_leaves_the_program_does_not_pass_its_checks(
    bench: Bench, body: str, where: str, words: str
) -> None:
    Path("leaves.py").write_text(
        "import os, sys\nfrom bench import register_defense\nfrom tests.planted import Wrapped\n"
        f"class Leaves(Wrapped):\n    def fit(self, *given):\n        {body}\n"
        f"register_defense('leaves', Leaves)\n{body if where == 'import' else ''}\n"
    )
    told = bench("check", "leaves", "--plugin", "leaves.py")
    assert told.code == 1 and words in told.err
    assert words or "raised SystemExit: 0" in told.out


def test_a_plugin_that_asks_python_to_exit_while_planning_is_no_success(bench: Bench) -> None:
    Path("leaves.py").write_text(
        "import sys\nfrom bench import register_defense\nfrom tests.planted import Wrapped\n"
        "class Leaves(Wrapped):\n    @classmethod\n    def validate(cls, params, facts):\n        sys.exit(0)\n"
        "register_defense('leaves', Leaves)\n"
    )
    told = bench("run", "--defense", "leaves", "--attack", "clean", "--plugin", "leaves.py")
    assert told.code == 2 and "What 'leaves' declares cannot be planned: SystemExit: 0" in told.err


def test_runs_are_listed_by_what_they_are_and_in_an_order(bench: Bench) -> None:
    args = ("--set", "base.epochs=4", "-n", 8)
    bench("run", "--defense", "regular", "--defense", "noise-vote", "--attack", "pgd", "--attack", "clean", *args)
    bench("run", "--defense", "regular", "--attack", "eot", *args)  # which declines

    def listed(*more: object) -> list[tuple[str, str]]:
        told = bench("list", "runs", "--json", *more)
        assert told.code == 0, told.err
        return [(run["defense"], run["attack"]) for run in json.loads(told.out)]

    everything = listed()
    assert len(everything) == 5
    assert set(listed("--defense", "regular")) == {("regular", "pgd"), ("regular", "clean"), ("regular", "eot")}
    assert listed("--defense", "regular", "--attack", "pgd", "--dataset", "digits") == [("regular", "pgd")]
    assert set(listed("--attack", "pgd", "--attack", "eot")) == {
        ("regular", "pgd"),
        ("noise-vote", "pgd"),
        ("regular", "eot"),
    }
    assert listed("--status", "skipped") == [("regular", "eot")] and listed("--status", "FAILED") == []
    assert listed("--limit", 2) == everything[-2:]
    robust = [run["robust_accuracy"] for run in json.loads(bench("list", "runs", "--json", "--sort", "robust").out)]
    values = [-1.0 if one is None else one["value"] for one in robust]
    assert values == sorted(values) and len(set(values)) > 1
    assert [name for name, _ in listed("--sort", "defense")] == ["noise-vote"] * 2 + ["regular"] * 3
    assert "No status is called 'BROKEN'" in bench("list", "runs", "--status", "broken").err
    assert "No order of runs is called 'size'" in bench("list", "runs", "--sort", "size").err
    assert "choose among runs: bench list runs" in bench("list", "attacks", "--limit", 3).err

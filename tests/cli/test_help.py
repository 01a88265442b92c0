"""What the commands say of themselves, and what `bench run` says at its end."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from bench.cli.hints import after_runs
from bench.cli.main import COMMANDS, GROUPS
from bench.config import DEFAULTS, read_toml
from leaderboard.charts import LEADERBOARD_CHARTS, RUN_CHARTS
from tests.conftest import Bench, sets


def test_the_commands_stand_in_groups_each_once(bench: Bench) -> None:
    told = bench("--help").out
    assert list(GROUPS) == ["Run", "Look", "Check", "Make"]
    for title, commands in GROUPS.items():
        part = told.partition(f"\n{title}:\n")[2].partition("\n\n")[0]
        assert re.findall(r"^  ([a-z]+) ", part, re.M) == list(commands)
    assert len(COMMANDS) == sum(map(len, GROUPS.values()))


def test_help_has_the_default_that_holds_here(bench: Bench) -> None:
    shipped = read_toml(DEFAULTS)["run"]
    told = " ".join(bench("run", "--help").out.split())
    assert f"[default: (run.n: {shipped['n']})]" in told and f"[default: (run.dataset: {shipped['dataset']})]" in told
    assert "(runner.workers: one per core)" in told and "[default: missing]" in told
    Path("bench.toml").write_text(
        '[run]\nn = 7\n[runner]\nworkers = 3\n[store]\ndb = "postgresql://me:secret@there/x"\n'
    )
    told = " ".join(bench("run", "--help").out.split())
    assert "[default: (run.n: 7)]" in told and "(runner.workers: 3)" in told
    assert "[default: (store.db)]" in told and "secret" not in told
    Path("bench.toml").write_text("run = 3")  # the command will say what is wrong with it
    assert bench("run", "--help").code == 0


def test_plot_says_its_kinds_with_and_without_being_asked(bench: Bench) -> None:
    told = bench("plot", "--help").out
    for name, chart in {**LEADERBOARD_CHARTS, **RUN_CHARTS}.items():
        assert re.search(rf"^  {name} +{re.escape(chart.title)}$", told, re.M)
    bare = bench("plot", "--out", "x.svg")
    assert bare.code == 2 and bare.err.count("\n") == 1 and "heatmap, pareto" in bare.err


def test_a_run_ends_with_where_its_rows_are_and_commands_that_work(bench: Bench) -> None:
    quick = ("-n", 3, "--workers", 1, "--db", "a folder/rows.db", *sets(base__epochs=1, attack__steps=1))
    done = bench("run", "--defense", "regular", "--attack", "pgd", *quick)
    head, *lines = done.err.splitlines()[-4:]
    assert head == "The rows are in a folder/rows.db. Next:"
    commands = [shlex.split(line, comments=True)[1:] for line in lines]
    assert [words[0] for words in commands] == ["show", "audit", "leaderboard"]
    assert bench(*commands[0]).code == 0 and bench(*commands[1], "--dry-run").code == 0
    assert "Next" not in bench("run", "--defense", "regular", "--attack", "pgd", *quick, "--json").err


@pytest.mark.parametrize(
    ("status", "attack", "words"),
    [
        ("FAILED", "pgd", ["bench show abcdefgh"]),
        ("SKIPPED", "pgd", []),
        ("DONE", "clean", ["bench show abcdefgh", "bench leaderboard"]),
        ("DONE", "pgd", ["bench show abcdefgh", "bench audit rmc --base pgd-at", "bench leaderboard"]),
    ],
)
def test_what_is_next_depends_on_how_the_runs_ended(status: str, attack: str, words: list[str]) -> None:
    run = {"run": "abcdefghij", "status": status, "attack": attack}
    audit = {"abcdefghij": "bench audit rmc --base pgd-at"}
    head, *lines = after_runs([run], "rows.db", [], audit.__getitem__).splitlines()
    assert [line.partition("  #")[0].strip() for line in lines] == words
    assert head == f"The rows are in rows.db.{' Next:' if words else ''}"
    _, *fewer = after_runs([run], "rows.db", [], lambda run: "").splitlines()
    assert [line.partition("  #")[0].strip() for line in fewer] == [word for word in words if "audit" not in word]

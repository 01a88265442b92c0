"""Progress of `bench run`: on a terminal of 80 columns, and in a pipe."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from rich.console import Console

from bench.cli.progress import MOST_LINES, BarListener, PlainListener, make_listener, short_title
from bench.execution.jobs import Job, JobKind
from bench.execution.runner import Runner
from bench.game.resources import Resources
from bench.planning.plan import Planned
from bench.planning.spec import RunSpec
from bench.store import Store
from tests.conftest import Bench, sets, spec_of


def cells(count: int, n: int = 20) -> list[RunSpec]:
    """Runs that differ by their seed, with the longest names that there are."""
    spec = spec_of("rmc-plus", "pgd-skip-delayed", n)
    return [replace(spec, seed=seed) for seed in range(count)]


def console() -> Console:
    return Console(file=io.StringIO(), width=80, height=24, force_terminal=True, color_system=None)


def screen(listener: BarListener) -> list[str]:
    """The lines that stand on the terminal now; none may be longer than it is wide."""
    paper = Console(file=io.StringIO(), width=80)
    paper.print(listener.screen())
    lines = paper.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert all(len(line) <= 80 for line in lines), lines
    return [line.rstrip() for line in lines if line.strip()]


def said(listener: BarListener) -> str:
    """All that was printed, whatever lines it was broken into."""
    return " ".join(listener._console.file.getvalue().split())  # type: ignore[attr-defined]


def test_a_suite_has_a_line_for_all_and_one_for_each_run_with_news() -> None:
    specs = cells(4)
    listener = BarListener(console(), [Planned(spec, None) for spec in specs])
    assert screen(listener)[0].startswith("0/4 runs") and "0/80 rows" in screen(listener)[0]
    for spec in specs[:3]:
        listener.started(spec, 0)
    assert len(screen(listener)) == 1  # they wait for what one of them makes
    listener.progress(specs[0], "augmented set: copy 1/1, image 1297 [and more]")
    listener.chunk(specs[1], 10, 9)
    whole, first, second = screen(listener)
    assert "10/80 rows" in whole and "augmented set: copy 1/1" in first and first.endswith("…") and " 0/20" in first
    assert "90.0%" in second and "10/20" in second and second.startswith("rmc-plus / pgd-skip-delayed ━")
    listener.chunk(specs[1], 10, 0)
    assert "45.0%" in screen(listener)[2] and "20/80 rows" in screen(listener)[0]
    listener.finished(specs[1], "DONE", "")
    assert screen(listener)[0].startswith("1/4 runs") and len(screen(listener)) == 2
    assert "DONE, accuracy 45.0%" in said(listener) and specs[1].key[:8] in said(listener)


def test_the_time_left_is_that_of_what_is_played_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that are done, resumed, declined or another process's are no work that goes fast."""
    now = [0.0]
    specs = cells(6)
    listener = BarListener(console(), [Planned(spec, None) for spec in specs])
    monkeypatch.setattr(listener._whole, "get_time", lambda: now[0])
    listener.finished(specs[0], "DONE", "")  # long ago
    listener.finished(specs[1], "SKIPPED", "it has no l0 form")
    listener.waiting(specs[2])
    listener.started(specs[3], 15)
    assert "0/45 rows" in screen(listener)[0] and "2/6 runs" in screen(listener)[0]
    listener.started(specs[4], 0)
    for _ in range(5):
        now[0] += 10
        listener.chunk(specs[3], 1, 1)
    task = listener._whole.tasks[0]
    assert task.completed == 5 and task.total == 45 and task.time_remaining == pytest.approx(400, rel=0.3)
    assert "SKIPPED, it has no l0 form" in said(listener) and specs[0].key[:8] not in said(listener)
    assert any("another process" in line for line in screen(listener))
    assert any("20/20" in line and "100.0%" in line for line in screen(listener))  # it went on after 15 rows


def test_many_runs_fit_the_height_too() -> None:
    specs = cells(3 * MOST_LINES)
    listener = BarListener(console(), [Planned(spec, None) for spec in specs])
    for spec in specs:
        listener.started(spec, 0)
        listener.progress(spec, "fits")
    assert len(screen(listener)) == 1 + MOST_LINES
    listener.progress(specs[0], "comes back")
    assert sum("comes back" in line for line in screen(listener)) == 1 and len(screen(listener)) == 1 + MOST_LINES
    for spec in specs:
        listener.finished(spec, "FAILED", "RuntimeError: [no] markup")
    assert len(screen(listener)) == 1 and said(listener).count("RuntimeError: [no] markup") == len(specs)


def test_one_run_needs_no_line_for_all_and_an_audit_none_either() -> None:
    (spec,) = cells(1)
    for listener in (BarListener(console(), [Planned(spec, None)]), BarListener(console())):
        listener.started(spec, 5)
        listener.progress(spec, "background 3/40")
        (line,) = screen(listener)
        assert "5/20" in line and "background 3/40" in line


def test_it_is_drawn_while_it_goes_on_and_leaves_the_number_of_runs() -> None:
    (spec, other) = cells(2)
    with BarListener(console(), [Planned(spec, other)]) as listener:
        listener.started(spec, 0)
        listener.chunk(spec, 20, 20)
        listener.finished(spec, "DONE", "")
        listener.finished(other, "FAILED", "why")
    assert "2/2 runs" in said(listener) and "FAILED, why" in said(listener) and "accuracy 100.0%" in said(listener)


def test_titles_name_the_base_where_it_tells_runs_apart() -> None:
    assert short_title(spec_of("rmc", "pgd", 3)) == "rmc / pgd / digits 0.2"
    assert short_title(spec_of("regular", "pgd", 3)) == "regular / pgd / digits 0.2"
    spec = spec_of("rmc", "pgd", 3)
    assert short_title(replace(spec, base=replace(spec.base, name="pgd-at"))) == "rmc on pgd-at / pgd / digits 0.2"


def test_at_80_columns_what_goes_on_is_seen_and_the_task_only_where_it_tells_runs_apart() -> None:
    (spec,) = cells(1)
    other = replace(spec, threat=spec.threat.with_fields({"eps": 0.1}))
    same = BarListener(console(), [Planned(replace(spec, seed=seed), None) for seed in range(2)])
    same.progress(spec, "game 3/5: background 29/40")
    assert screen(same)[1].startswith("rmc-plus / pgd-skip-delayed  ") and "game 3/5: background" in screen(same)[1]
    apart = BarListener(console(), [Planned(spec, None), Planned(other, None)])
    apart.progress(spec, "background 29/40")
    assert screen(apart)[1].startswith("rmc-plus / pgd-skip-delayed / d…") and "background 29/40" in screen(apart)[1]


def test_the_first_seconds_say_what_they_are_spent_on(bench: Bench) -> None:
    """Every stage of a run, before a step of it says anything itself."""
    quick = ("-n", 2, "--workers", 1, *sets(base__epochs=1, attack__steps=1))
    told = bench("run", "--defense", "regular", "--attack", "pgd", *quick).err
    first = [
        line.partition(" / eps ")[2].partition(": ")[2] for line in told.splitlines() if " regular / clean" in line
    ]
    assert first[:2] == ["started", "base: reading or training"]
    spec = replace(spec_of("rmc", "pgd-skip", 4), seed=3)
    assert Job("base", spec).in_words("epoch 1/9, loss 2.1") == "base: epoch 1/9, loss 2.1"
    assert Job("game", spec, 2).in_words("background 3/40") == f"game 3/{spec.game.games}: background 3/40"
    alone = replace(spec.game, params={**spec.game.params, spec.game.facts.games_key: 1})
    assert Job("game", replace(spec, game=alone), 0).in_words() == "playing"
    for kind in get_args(JobKind):
        assert 0 < len(Job(kind, spec, 0).in_words()) <= 40


@pytest.mark.parametrize(
    ("workers", "apart", "said"),
    [(1, False, ""), (1, True, "starting 1 process, to"), (3, False, "starting 3 processes, to")],
)
def test_processes_are_named_where_they_are_started(
    resources: Resources, tmp_path: Path, workers: int, apart: bool, said: str
) -> None:
    store = Store.open(str(tmp_path / "x.db"))
    assert store is not None
    told = Runner(store, replace(resources.settings, workers=workers, apart=apart))._starting()
    assert told.partition(" load")[0] == said


def test_a_pipe_gets_lines_and_a_terminal_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    (spec,) = cells(1)
    plain = make_listener(stream, [Planned(spec, None)])
    assert isinstance(plain, PlainListener)
    monkeypatch.setattr("bench.execution.progress.time.monotonic", iter(range(1, 100, 2)).__next__)
    with plain:
        plain.started(spec, 0)
        plain.progress(spec, "background 1/40")
        plain.chunk(spec, 10, 9)
        plain.waiting(spec)
        plain.finished(spec, "DONE", "")
    lines = stream.getvalue().splitlines()
    ends = ("started", "background 1/40", "10/20 rows, accuracy 90.0%", "another process does it; waiting", "DONE")
    assert [line.split(": ", 1)[1] for line in lines] == list(ends)
    assert all(" s] " in line and "rmc-plus / pgd-skip-delayed / digits / eps 0.2" in line for line in lines)
    monkeypatch.setattr(stream, "isatty", lambda: True)
    assert isinstance(make_listener(stream), BarListener)


@pytest.mark.parametrize(("attack", "queries"), [("hopskipjump-linf", 40), ("pgd", None)])
def test_the_accuracy_of_progress_is_the_stored_one(bench: Bench, attack: str, queries: int | None) -> None:
    """Of an attack of minimal norm the image counts only within the radius; elsewhere the clean answer does."""
    own = sets(threat__queries=queries) if queries else sets(attack__steps=2)
    told = bench("run", "--defense", "regular", "--attack", attack, "-n", 10, "--workers", 1, "--json",
                 *sets(base__epochs=20), *own)  # fmt: skip
    (run,) = told.runs
    accuracies = re.findall(rf"{attack} .*10/10 rows, accuracy ([0-9.]+)%", told.err)
    assert accuracies == [f"{100 * run['robust_accuracy']['value']:.1f}"]
    if attack != "pgd":  # some images lie beyond the radius, so that the two ways to count differ
        assert run["robust_accuracy"]["value"] > run["uncut_accuracy"]["value"]


def test_an_accuracy_that_is_not_known_is_not_shown() -> None:
    (spec,) = cells(1)
    text = io.StringIO()
    listener = PlainListener(text)
    listener.started(spec, 0)
    listener.chunk(spec, 10, None)
    assert "10/20 rows\n" in text.getvalue() and "accuracy" not in text.getvalue()
    bars = BarListener(console(), [Planned(spec, None)])
    bars.started(spec, 0)
    bars.chunk(spec, 10, None)
    assert "10/20" in screen(bars)[-1] and "%" not in screen(bars)[-1]

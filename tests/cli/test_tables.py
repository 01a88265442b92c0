"""Tables in 80 columns: nothing is cut off, numbers stay whole, names are broken where a reader would break them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.cli.tables import hanging, print_results, table_text
from tests.conftest import QUICK, ROOT, Bench, sets

QUICKLY = [part for key, value in QUICK.items() for part in ("--set", f"{key}={value}")]


@pytest.fixture(autouse=True)
def _eighty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def fits(text: str, width: int = 80) -> bool:
    return max(len(line) for line in text.splitlines()) <= width


def result(defense: str, base: str, attack: str, dataset: str = "imagenet", **more: Any) -> dict[str, Any]:
    share = {"value": 0.9, "low": 0.59, "high": 0.999}
    return {
        "run": "5e462b6ec80c", "status": "DONE", "defense": defense, "base": base, "attack": attack, "dataset": dataset,
        "eps": 8 / 255, "n": 10000, "clean_accuracy": share, "robust_accuracy": share, "answer_s": 1.234,
        "reason": "", "flags": [], **more,
    }  # fmt: skip


def test_the_longest_names_fit_and_stay_readable(capsys: pytest.CaptureFixture[str]) -> None:
    print_results(
        [
            result("regular", "regular", "pgd", "digits"),
            result("anti-adversary", "feature-denoising", "eot:pgd-skip-delayed"),
            result("rmc", "cross-lipschitz", "hopskipjump-linf", status="SKIPPED", reason="[b]it[/b] declines " * 9),
        ]
    )
    out = capsys.readouterr().out
    assert fits(out) and "[b]it[/b] declines" in out
    for whole in ("90.0 (59-100)", "SKIPPED", "10000", "0.0314", "1234", "hopskipjump-", "adversary", "skip-delayed"):
        assert whole in out, out


def test_names_are_broken_after_hyphens_and_only_where_they_must() -> None:
    rows = [["a-very-long-name-of-a-plug-in", "x" * 30, "12.5 (1-2)"], ["short", "y", "3"]]
    wide = table_text("", ("name", "what", "number"), rows, names=("name",))
    assert "a-very-long-name-of-a-plug-in " in wide
    narrow = table_text("", ("name", "what", "number"), [[rows[0][0], "x" * 50, rows[0][2]], rows[1]], names=("name",))
    assert fits(narrow) and narrow.splitlines()[1].startswith("a-very-long-name- x")
    assert narrow.splitlines()[2] == "of-a-plug-in"
    assert all(line == line.rstrip() for line in narrow.splitlines())


def test_what_cannot_fit_is_folded_and_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    text = table_text("a title that is longer than that", ("name", "hash"), [["a" * 40, "b" * 64]], names=("name",))
    assert fits(text, 30) and text.count("a" * 5) and sum(line.count("b") for line in text.splitlines()) == 64


def test_a_title_is_not_squeezed_into_a_narrow_table() -> None:
    title = "labels of the neighbours of what was served"
    assert table_text(title, ("a",), [["1"]]).splitlines()[0] == title
    assert table_text("", (), []).strip() == ""


def test_lines_hang_on_a_terminal_and_stay_whole_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    line = "  name          " + "a summary with quite some words --and --options " * 3
    told = hanging(line.rstrip(), 16).splitlines()
    assert len(told) > 1 and all(len(part) <= 80 for part in told) and told[0].startswith("  name          a summary")
    assert all(part.startswith(" " * 16) and part[16] != " " for part in told[1:])
    assert hanging("  name", 16) == "  name" and hanging("", 4) == ""
    path = "note     " + "x" * 200
    assert hanging(path, 9).replace("\n", "").count("x") == 200
    monkeypatch.delenv("COLUMNS")
    assert hanging(line, 16) == line
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert "\n" in hanging(line, 16)


def test_what_commands_print_fits(bench: Bench) -> None:
    cell = ("run", "--defense", "rmc", "--attack", "pgd-skip-delayed", "-n", 6, "--workers", 1, *QUICKLY,
            *sets(game__p=4, game__trials=2, threat__delay=2))  # fmt: skip
    done = bench(*cell)
    key = bench("list", "runs", "--json").out.split('"run": "')[1][:64]
    example = bench("export", key, "--format", "csv").out.splitlines()[1].split(",")[13]
    shown = bench("show", key, "--example", example).out
    for out in (
        done.out, bench("list").out, bench("list", "suites").out, bench("list", "runs").out, bench("show", key).out,
        shown, bench(*cell, "--dry-run").out, bench("run", "--suite", "smoke", "--dry-run").out,
        bench("compare", key, key).out, bench("cache").out, bench("check", "regular").out,
    ):  # fmt: skip
        assert out and fits(out), out
    assert len(next(line.split()[-1] for line in shown.splitlines() if line.startswith("adv sha256"))) == 64
    assert "fooled inside" in shown and "attack 0." in shown and "{" not in shown


def test_a_list_in_a_real_terminal_hangs(tmp_path: Path) -> None:
    """Through a pseudo-terminal of 80 columns, without COLUMNS."""
    pty = pytest.importorskip("pty")
    master, slave = pty.openpty()
    import fcntl
    import struct
    import termios

    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    there = {name: value for name, value in os.environ.items() if name != "COLUMNS"} | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-m", "bench.cli.main", "list", "datasets"], cwd=tmp_path, env=there,
                               stdout=slave, stderr=subprocess.PIPE)  # fmt: skip
    os.close(slave)
    process.wait(60)
    assert "digits" in os.read(master, 65536).decode()
    os.close(master)


def test_a_table_that_fits_is_laid_out_as_rich_lays_it_out() -> None:
    rows = [["a", "long-name-of-one", "3"], ["bb", "x:y", "12.5 (1-2)"], ["", "[red]not markup[/red]", ""]]
    head = ("key", "name", "value")
    assert table_text("", head, rows, names=("name",)) == table_text("", head, rows)
    titled = table_text("A title", head, rows, names=("name",))
    assert titled == table_text("A title", head, rows)

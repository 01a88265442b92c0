"""Where the output goes: a reader that has left is no error, a full disk is one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

FULL = Path("/dev/full")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "bench", *words]


# a device of Linux that is always full; elsewhere a disk would have to be filled
@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
@pytest.mark.parametrize("words", [("list", "attacks"), ("list", "--json"), ("--help",), ("run", "--help"), ("data",)])
def test_a_full_output_is_one_line_and_an_error(words: tuple[str, ...]) -> None:
    with FULL.open("w") as full:
        done = subprocess.run(command(*words), stdout=full, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "No space left on device" in done.stderr


@pytest.mark.parametrize("words", ["list attacks", "list --json", "run --help", "table"])
def test_a_reader_that_has_left_ends_the_command_quietly(words: str) -> None:
    """`table`: printed by rich, which has its own way to end a program."""
    reads, writes = os.pipe()
    os.close(reads)
    table = "from bench.cli.main import cli, main; from bench.cli.tables import Output\n"
    table += "cli.add_command(__import__('click').command('table')(lambda: Output().print('x')), 'table')\n"
    table += "import bench.cli.main as m; m.LazyGroup.get_command = lambda self, ctx, name: self.commands[name]\n"
    table += "m.COMMANDS['table'] = ('', ''); main(['table'])"
    words_of = [sys.executable, "-c", table] if words == "table" else command(*words.split())
    done = subprocess.run(words_of, stdout=writes, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    os.close(writes)
    assert done.stderr == "" and done.returncode in (0, 1)  # 1: of click, for its own help


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    out = str(tmp_path / "file" / "site")
    done = subprocess.run(
        command("run", "--defense", "regular", "--attack", "clean", "-n", "2", "--workers", "1", "--db", f"{out}.db"),
        capture_output=True, text=True, env=ENVIRONMENT, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "cannot be made: File exists" in done.stderr

"""What the documents say works: every file in them is written, every command in them is run, page by page, in order."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from bench.cli.main import COMMANDS
from tests.conftest import ROOT, Bench

PAGES = sorted(path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md"))
#: pages whose commands take hours, or need data sets: only looked at
LOOKED_AT = {Path("reproduction.md")}
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```', re.S | re.M)
#: appended to make a command quick; a later option wins
QUICK = ["-n", "4", "--workers", "1", "--set", "base.epochs=3"]
QUICK_RMC = ["--set", "defense.k=64", "--set", "defense.epochs=1", "--set", "defense.bank_steps=3"]


def quick(words: list[str]) -> list[str]:
    """A command on fewer examples and for fewer epochs."""
    if words[1] in ("run", "audit") and "--dry-run" not in words and "--help" not in words:
        words = words + QUICK + (QUICK_RMC if "rmc" in words else [])
        if any(word.startswith("pgd-skip") for word in words) and words[1] == "run":
            words = [*words, "--set", "game.p=2"]
    return words


@pytest.mark.parametrize("page", [page for page in PAGES if page not in LOOKED_AT], ids=str)
def test_every_page_works_as_it_is_written(bench: Bench, page: Path) -> None:
    blocks = BLOCK.findall((ROOT / "docs" / page).read_text(encoding="utf-8"))
    for language, title, text in blocks:
        if title:
            path = Path(title)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            continue
        assert language in ("sh", "text"), f"{page}: a block of {language} without a title is run by nobody"
        for line in text.splitlines() if language == "sh" else ():
            words = shlex.split(line.partition(" #")[0])
            if words[:1] == ["touch"]:
                Path(words[1]).touch()
                continue
            if words[:1] == ["python"]:
                subprocess.run([sys.executable, *words[1:]], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
                continue
            assert words[0] == "bench", line
            done = bench(*quick(words)[1:])
            assert done.code == 0, f"{line}\n{done.out}\n{done.err}"


@pytest.mark.parametrize("page", [*PAGES, Path("../README.md"), Path("../CONTRIBUTING.md")], ids=str)
def test_every_command_that_is_named_exists(page: Path) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    named = set(re.findall(r"\bbench ([a-z]+)\b", " ".join(re.findall(r"`(bench [^`]+)`", text))))
    assert named <= set(COMMANDS)


def test_the_documents_build_without_a_warning(tmp_path: Path) -> None:
    """Links, pages of every name, the reference: mkdocs in its strict mode."""
    pytest.importorskip("mkdocs", reason="needs the extra: docs")
    names = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "DISABLE_MKDOCS_2_WARNING": "true"}
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, env=names, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for place in ("defenses/rmc-plus", "attacks/gmsa-avg", "reference/command-line", "tutorial"):
        assert (tmp_path / "site" / place / "index.html").exists()
    html = (tmp_path / "site" / "attacks" / "jsma" / "index.html").read_text()
    assert "https://arxiv.org/abs/1511.07528" in html and "attack.gamma" in html
    assert "--dry-run" in (tmp_path / "site" / "reference" / "command-line" / "index.html").read_text()

"""What the documents say works: every file in them is written, every command in them is run, page by page, in order."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from bench import registry
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
    python = (tmp_path / "site" / "reference" / "python" / "index.html").read_text()
    assert "From Python" in python and "<li><code>noise_key</code>: of the randomness while serving" in python
    assert "<td>MNIST, 60,000" in (tmp_path / "site" / "datasets" / "index.html").read_text()


def test_a_docstring_becomes_prose_lists_and_formulas() -> None:
    """As those of attacks and defenses are written, with what Markdown would take for its own."""
    markdown = pytest.importorskip("docs.prose", reason="needs the extra: docs").markdown
    text = """`x`: a * b_1 <c> [d] of what comes *after all* of them.

    x_0 = the start
    x_{r+1} = the next

fpa       the loss of the last
          network F_r
gmsa-avg  their mean

Readings:
- `batch_size` is 1
- eps_0 is 2

| a | b_1 |
|---|---|
"""
    assert (
        markdown(text)
        == """`x`: a \\* b\\_1 \\<c> \\[d] of what comes *after all* of them.

```text
x_0 = the start
x_{r+1} = the next
```

- `fpa`: the loss of the last network F\\_r
- `gmsa-avg`: their mean

Readings:

- `batch_size` is 1
- eps\\_0 is 2

| a | b_1 |
|---|---|"""
    )


def test_every_dataset_is_listed_with_what_it_is(bench: Bench) -> None:
    listed = {row["name"]: row["summary"] for row in json.loads(bench("list", "datasets", "--json").out)}
    assert set(listed) >= {"digits", "mnist", "cifar10", "imagenet"} and all(listed.values())

    class Own:
        summary = "stripes"

    registry.register_dataset("own", Own)
    registry.register_dataset("given", Own, summary="of ours")
    assert registry.datasets["own"].summary == "stripes" and registry.datasets["given"].summary == "of ours"

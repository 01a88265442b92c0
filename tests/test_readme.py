"""What the README says works, as it is written there."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from bench.data.imagenet import synsets
from bench.data.task import TaskFacts
from bench.models.sources import make_network
from bench.models.wrapped import Wrapped
from tests.conftest import Bench
from tests.test_cifar10_and_imagenet import write_image

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", TEXT, re.S)


def test_the_defense_of_the_readme_keeps_the_contract_and_runs(bench: Bench, tmp_path: Path) -> None:
    (block,) = [text for text in PYTHON if "register_defense(" in text]
    (tmp_path / "defenses").mkdir()
    (tmp_path / "defenses" / "mine.py").write_text(block)
    (tmp_path / "bench.toml").touch()
    assert "four levels of grey" in bench("list", "defenses").out
    checked = bench("check", "rounded")
    assert checked.code == 0, checked.out + checked.err
    short = ("-n", 5, "--workers", 1, "--set", "game.p=3", "--set", "base.epochs=5")
    assert bench("run", "--defense", "rounded", "--attack", "pgd", "--attack", "pgd-skip", *short).code == 0


def test_the_program_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands there, but for quicker networks; in this process, since workers take seconds to start."""
    (tmp_path / "bench.toml").write_text(
        "[runner]\nworkers = 1\n[dataset.digits.base.regular]\nepochs = 5\n[defense.rmc]\nepochs = 1\nk = 128\n"
    )
    (block,) = [text for text in PYTHON if "bench.run(" in text]
    names: dict[str, Any] = {}
    exec(block, names)
    assert names["result"].status == "DONE" and len(names["examples"]) == 20 and len(names["table"]) == 4
    assert len(names["everything"]) == 20 * 5 and len(names["done"]) == 5


def commands() -> list[str]:
    """Every `bench` command in a shell block or in a sentence, but for those on the example's own defense."""
    blocks = re.findall(r"```sh\n(.*?)```", TEXT, re.S)
    found = [line.partition("#")[0] for block in blocks for line in block.splitlines() if line.startswith("bench ")]
    inline = re.findall(r"(?<!`)`(bench [^`]+)`(?!`)", TEXT)
    found += [" ".join(text.split()) for text in inline if "rounded" not in text]
    tried = ("run", "list", "data", "check", "leaderboard", "audit", "init", "new", "doctor", "cache", "completion")
    return [line for line in found if line.split()[1] in tried and "DEFENSE" not in line]


def test_the_readme_has_commands() -> None:
    assert len(commands()) >= 8


@pytest.mark.parametrize("line", commands())
def test_every_command_of_the_readme_is_one(bench: Bench, line: str) -> None:
    """Planned, not played; on the embedded digits where no data folder is at hand."""
    args = shlex.split(line)[1:]
    if "imagenet" in args:
        args[args.index("DIR")] = str(imagenet_and_squeezenet())
    elif "--data-dir" in args:
        at = args.index("--data-dir")
        del args[at : at + 2]
    args = ["digits" if arg == "mnist" else arg for arg in args]
    if args[0] in ("run", "audit"):
        if "--suite" in args and "smoke" not in args:
            args[args.index("--suite") + 1] = "smoke"
        args.append("--dry-run")
    if args[0] == "check":
        args.append("--help")  # the contract of every name is run in test_checks
    done = bench(*args)
    assert done.code == 0, done.err


def imagenet_and_squeezenet() -> Path:
    """Two classes of small images in a data folder; here, the example's file and random weights for it."""
    for split, count in (("train", 40), ("val", 10)):
        for i, name in enumerate(synsets()[:2] * count):
            write_image(Path("data") / "imagenet" / split / name / f"{i}.JPEG", (16, 16), (i, 0, 0))
    shutil.copytree(ROOT / "examples", "examples")
    network = make_network("examples/squeezenet.py:build", "", TaskFacts("x", 1000, (3, 224, 224), 1, 1, ""))
    assert isinstance(network, Wrapped)
    save_file(network.module.state_dict(), "squeezenet1_1.safetensors")
    return Path("data")


def test_make_has_every_target_that_is_promised() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert {"setup", "run", "test", "lint", "speed"} <= targets
    assert set(re.findall(r"`make ([a-z-]+)`", TEXT)) | set(re.findall(r"^make ([a-z-]+)", TEXT, re.M)) <= targets

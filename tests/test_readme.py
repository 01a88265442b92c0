"""What the README says works, as it is written there."""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from bench import results
from bench.cli.main import COMMANDS
from bench.data.imagenet import synsets
from bench.data.task import TaskFacts
from bench.models.sources import make_network
from bench.models.wrapped import Wrapped
from tests.conftest import ROOT, Bench
from tests.data.test_cifar10_and_imagenet import write_image
from tests.test_in_memory import digits, trained

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


def test_the_first_program_of_the_readme_runs_on_a_module_and_arrays() -> None:
    block = PYTHON[0]
    statements = [node for node in ast.parse(block).body if not isinstance(node, ast.Import)]
    assert "bench.evaluate(net, x, y" in block and len(statements) == 3
    Path("bench.toml").write_text("[defense.rmc]\nepochs = 1\nk = 128\n[game]\np = 4\n")
    net, (x, y) = trained(), digits()
    names: dict[str, Any] = {"net": net, "x": x[900:960], "y": y[900:960], "x_train": x[:300], "y_train": y[:300]}
    exec(block, names)
    assert names["result"].status == names["adaptive"].status == "DONE"
    assert names["result"].clean_accuracy.value > 0.8 and names["adaptive"].defense == "rmc"


def test_the_cells_of_the_notebook_run() -> None:
    notebook = json.loads((ROOT / "examples" / "evaluate.ipynb").read_text(encoding="utf-8"))
    names: dict[str, Any] = {}
    shown = []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            *body, last = ast.parse("".join(cell["source"])).body
            exec(compile(ast.Module(body, []), "cell", "exec"), names)
            if isinstance(last, ast.Expr):
                shown.append(eval(compile(ast.Expression(last.value), "cell", "eval"), names))
            else:
                exec(compile(ast.Module([last], []), "cell", "exec"), names)
    tables = [value._repr_html_() for value in shown if hasattr(value, "_repr_html_")]
    assert len(tables) >= 2 and all("<table" in table for table in tables)
    assert names["result"].status == "DONE" and names["result"].clean_accuracy.value > 0.8


#: the same commands in seconds: small networks and banks; suites of hours under their own names on a few digits
QUICK = """
[run]
n = 4
[runner]
workers = 1
[game]
p = 2
trials = 2
[dataset.digits.base.regular]
epochs = 3
[defense.rmc]
k = 64
epochs = 1
bank_steps = 3
[defense.rmc-plus]
k = 64
epochs = 1
bank_steps = 3
"""
SMALL_SUITE = """
[suite.{name}]
cells = [{{ defense = ["regular"], attack = ["clean", "pgd"], dataset = ["digits"] }}]
"""


def commands() -> list[str]:
    """Every `bench` command in a shell block, then every one in a sentence, but for those on the example itself."""
    blocks = re.findall(r"```sh\n(.*?)```", TEXT, re.S)
    found = [line.partition("#")[0] for block in blocks for line in block.splitlines() if line.startswith("bench ")]
    inline = [" ".join(text.split()) for text in re.findall(r"(?<!`)`(bench [^`]+)`(?!`)", TEXT)]
    found += [line for line in inline if "rounded" not in line and "DEFENSE" not in line]
    return list(dict.fromkeys(line.strip() for line in found))


def played(line: str, run: str, index: str) -> list[str]:
    """The words of a command: on digits where no data folder is at hand, with a run's key where one is asked for."""
    words = [{"mnist": "digits", "RUN": run, "I": index}.get(word, word) for word in shlex.split(line)[1:]]
    if "imagenet" in words:
        words[words.index("DIR")] = str(imagenet_and_squeezenet())
        few = ("defense.k=8", "defense.epochs=1", "defense.bank_steps=1", "attack.steps=2")
        words += ["-n", "1", *(word for pair in few for word in ("--set", pair))]
    elif "--data-dir" in words:
        at = words.index("--data-dir")
        del words[at : at + 2]
    if words[0] == "audit":
        words += ["-n", "4"]
    asks = words[0] in ("run", "train", "audit", "report", "plot", "leaderboard", "check") and "--config" not in words
    return words + (["--config", "quick.toml"] if asks else [])


def test_every_command_of_the_readme_works_in_the_order_of_the_readme(bench: Bench) -> None:
    """Played, each of them: the arguments as they stand there, on smaller networks, banks and suites."""
    found = commands()
    assert len(found) >= 24 and {words.split()[1] for words in found} == set(COMMANDS), "a command is not shown"
    named = sorted(set(re.findall(r"--suite (\S+)", " ".join(found))))
    Path("quick.toml").write_text(QUICK + "".join(SMALL_SUITE.format(name=name) for name in named))
    run = index = ""
    for line in found:
        done = bench(*played(line, run, index))
        assert done.code == 0, f"{line}\n{done.out}\n{done.err}"
        if line.startswith("bench run --defense regular") and not run:
            (stored,) = results(defense="rmc", attack="pgd")
            run, index = stored.run, str(stored.rows()[0]["index"])


def imagenet_and_squeezenet() -> Path:
    """Two classes of small images in a data folder; here, the example's file and random weights for it."""
    for split, count in (("train", 8), ("val", 4)):
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

"""Completion in a shell: the names that there are, without importing what somebody's files import."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from bench.cli.complete import SHELLS
from bench.cli.main import COMMANDS, cli
from tests.conftest import ROOT, Bench, needed


def complete(*words: str) -> list[str]:
    """What the last word, of which a part may have been typed, completes to."""
    items = ShellComplete(cli, {}, "bench", "_BENCH_COMPLETE").get_completions(list(words[:-1]), words[-1])
    return [item.value if item.type == "plain" else f"({item.type})" for item in items]


@pytest.mark.parametrize(
    ("words", "among"),
    [
        (("",), set(COMMANDS)),
        (("comp",), {"compare", "completion"}),
        (("run", "--defense", ""), {"regular", "rmc", "rmc-plus", "dent"}),
        (("run", "--defense", "rmc", "--defense", "rmc"), {"rmc", "rmc-plus"}),
        (
            ("run", "--defense", "rmc", "--attack", "pgd-skip-"),
            {"pgd-skip-partial", "pgd-skip-delayed", "pgd-skip-copies"},
        ),
        (("run", "--attack", "eot:pgd-skip-"), {"eot:pgd-skip-partial", "eot:pgd-skip-delayed", "eot:pgd-skip-copies"}),
        (("run", "--attack", "rmc:"), set()),
        (("run", "--base", "r"), {"regular"}),
        (("run", "--dataset", ""), {"cifar10", "digits", "imagenet", "mnist"}),
        (("run", "--suite", "table1"), {"table1"}),
        (("run", "--de"), {"--defense", "--device"}),
        (("run", "--device", "c"), {"cpu", "cuda"}),
        (("run", "--norm", "l"), {"linf", "l2", "l1", "l0"}),
        (("run", "--rerun", "a"), {"all"}),
        (("run", "--config", ""), {"(file)"}),
        (("run", "--data-dir", ""), {"(dir)"}),
        (("check", "pgd-s"), {"pgd-skip", "pgd-skip-partial", "pgd-skip-delayed", "pgd-skip-copies"}),
        (("check", "rmc-"), {"rmc-plus"}),
        (("audit", "rmc"), {"rmc", "rmc-plus"}),
        (("audit", "rmc", "--budget", ""), {"quick", "standard", "full"}),
        (("train", ""), {"given", "regular", "fgsm-at", "pgd-at", "jacobian", "cross-lipschitz", "feature-denoising"}),
        (("data", "m"), {"mnist"}),
        (("report", "table1"), {"table1"}),
        (("report", "--table", "table1"), {"table1", "table1-cw-lost"}),
        (("list", ""), {"defenses", "attacks", "datasets", "models", "protocols", "suites", "runs"}),
        (("new", ""), {"defense", "attack"}),
        (("cache", "p"), {"prune"}),
        (("completion", ""), set(SHELLS)),
        (("export", "--format", "p"), {"parquet"}),
    ],
)
def test_what_there_is_completes(words: tuple[str, ...], among: set[str]) -> None:
    found = complete(*words)
    assert set(found) >= among and len(found) == len(set(found))
    if not words[-1].startswith("("):
        assert all(value.startswith((words[-1], "(")) for value in found)
    if len(among) < 4 or words[0] in ("train", "list"):
        assert set(found) == among


def test_names_of_ones_own_files_complete_also_where_those_are_broken(tmp_path: Path) -> None:
    (tmp_path / "defenses").mkdir()
    (tmp_path / "defenses" / "mine.py").write_text(
        "import nowhere\nimport bench\nfrom bench import register_attack, register_dataset\n"
        "bench.register_defense('mine', object, summary='my own')\n"
        "bench.register_defense('mine-at', object, base=True)\n"
        "register_attack(name='mine-too', target=object)\nregister_dataset('mine-data', object)\n"
        "for name in 'ab':\n    bench.register_defense(name, object)\nbench.register_defense('a, b', object)\n"
    )
    (tmp_path / "defenses" / "bad.py").write_text("register_defense('bad',")
    (tmp_path / "defenses" / "bytes.py").write_bytes(b"\xff register_defense('bytes',")
    (tmp_path / "elsewhere.py").write_text("register_defense('mine-elsewhere', object)")
    assert complete("run", "--defense", "mine") == ["mine", "mine-at"]
    assert complete("run", "--base", "mine") == ["mine-at"]
    assert complete("run", "--attack", "mine") == ["mine-too"]
    assert complete("run", "--dataset", "mine") == ["mine-data"]
    assert complete("check", "mine") == ["mine", "mine-at", "mine-too"]
    assert complete("run", "--plugin", "elsewhere.py", "--defense", "mine-e") == ["mine-elsewhere"]
    assert complete("run", "--plugin", "none.py", "--defense", "mine-a") == ["mine-at"]
    assert complete("run", "--config", "none.toml", "--defense", "mine-a") == ["mine-at"]
    assert complete("run", "--defense", "a") == ["anti-adversary"] and complete("run", "--defense", "ba") == []


def test_suites_are_those_of_the_configuration_in_use(tmp_path: Path) -> None:
    text = '[suite.my-own]\nsummary = "mine"\ncells = [{ defense = ["rmc"], attack = ["pgd"] }]\n[suite.table-only]\n'
    (tmp_path / "bench.toml").write_text(text)
    assert complete("run", "--suite", "my") == ["my-own"] and complete("run", "--suite", "table-") == []
    assert complete("report", "--table", "table-") == ["table-only"]
    for broken in ("[suite", "suite = 3\n", "[suite]\nodd = 3\n"):
        (tmp_path / "bench.toml").write_text(broken)
        assert complete("run", "--suite", "od") == []


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_calls_back(bench: Bench, shell: str) -> None:
    done = bench("completion", shell)
    assert done.code == 0 and f"_BENCH_COMPLETE={shell}_complete" in done.out and "_bench_completion" in done.out


@pytest.mark.parametrize(("shell", "option"), [("bash", "-n"), ("zsh", "-n"), ("fish", "--no-execute")])
def test_the_script_is_one_for_its_shell(bench: Bench, shell: str, option: str) -> None:
    program = needed(shell)
    script = bench("completion", shell).out
    done = subprocess.run([program, option], input=script, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""


def test_bash_completes_through_the_script(bench: Bench, tmp_path: Path) -> None:
    bash = needed("bash")
    (tmp_path / "bench").write_text(f'#!{bash}\nexec {sys.executable} -m bench.cli.main "$@"\n')
    (tmp_path / "bench").chmod(0o755)
    (tmp_path / "script").write_text(bench("completion", "bash").out)
    asked = (
        "compopt() { :; }; . ./script; COMP_WORDS=(bench run --defense rmc); COMP_CWORD=3; "
        '_bench_completion bench; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    there = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([bash, "--norc", "-c", asked], cwd=tmp_path, env=there, capture_output=True, text=True)
    assert done.stdout.split() == ["rmc", "rmc-plus"], done.stderr


def test_an_unknown_shell_is_one_line(bench: Bench) -> None:
    wrong = bench("completion", "bsh")
    assert wrong.code == 2 and wrong.err == "bench: No shell is called 'bsh'. Did you mean 'bash'?\n"


def test_completing_imports_nothing_heavy_and_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "defenses").mkdir()
    (tmp_path / "defenses" / "mine.py").write_text("import torch\nfrom bench import *\nregister_defense('mine', 3)\n")
    (tmp_path / "bench.toml").write_text("[runer]\n")
    code = (
        "import sys\nfrom bench.cli.main import call\n"
        "try:\n    call()\nfinally:\n"
        "    print(sorted({'torch', 'numpy', 'sqlalchemy', 'rich'} & set(sys.modules)), file=sys.stderr)\n"
    )
    for words in ("bench run --defense mi", "bench check mi", "bench run --suite smo", "bench ", "bench odd --at"):
        there = {**os.environ, "PYTHONPATH": str(ROOT), "_BENCH_COMPLETE": "bash_complete", "COMP_WORDS": words}
        there["COMP_CWORD"] = str(len(words.split(" ")) - 1)
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=there, capture_output=True, text=True)
        assert done.returncode == 0 and done.stderr == "[]\n"
        assert "mi" not in words or done.stdout == "plain,mine\n"

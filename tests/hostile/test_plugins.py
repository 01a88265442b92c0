"""Plug-ins that declare or do what none should: one line or a failed run, and nothing of theirs on standard output."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.conftest import Bench, sets
from tests.hostile.places import not_writable

HEAD = """
import os, sys
import torch
from bench import Attack, Params, StaticDefense, register_attack, register_defense

class Sound(StaticDefense):
    def fit(self, task, base, context):
        self.network, self.noise_key = base.network, context.noise_key
    def answer(self, x):
        with torch.no_grad():
            return self.network(x)
    def proxy(self):
        return self.network

class Idle(Attack):
    def perturb(self, oracle, x, y, draws):
        return x

"""
#: what follows, what the one line has
REFUSED = {
    "class P(Params):\n    k: float = float('inf')\nSound.Params = P": "k in [defense.mine] is inf, which cannot be",
    "class P(Params):\n    k: float = float('nan')\nSound.Params = P": "k in [defense.mine] is nan, which cannot be",
    "class P(Params):\n    k: set = {1}\nSound.Params = P": "k in [defense.mine] is {1}, which cannot be part",
    "Sound.kind = 'strange'": "The kind of 'mine' is 'strange'; it must be one of static, online, batch.",
    "Sound.validate = classmethod(lambda cls, params, facts: sys.exit(0))": "cannot be planned: SystemExit: 0",
    "def stop(*given):\n    raise KeyboardInterrupt('mine')\nSound.validate = stop": "planned: KeyboardInterrupt: mine",
    "def stop(*given):\n    raise GeneratorExit\nSound.validate = stop": "planned: GeneratorExit: GeneratorExit",
    "raise KeyboardInterrupt": "mine.py does not load: KeyboardInterrupt: KeyboardInterrupt",
    "class Odd(BaseException): pass\nraise Odd('no')": "mine.py does not load: Odd: no",
    "Sound.validate = classmethod(lambda cls, params, facts: 1 / 0)": "'mine' cannot be made: ZeroDivisionError",
    "Idle.preset = ['weights']": "'mine', 'idle' declares cannot be planned: ValueError",
    "Idle.free = 3": "declares cannot be planned: TypeError",
    "Idle.kind = 'strange'": "The kind of 'idle' is 'strange'; it must be budget or minimal.",
    "Idle.block = 0": "The block of 'idle' is 0; it must be a number above 0, or None",
    "Idle.protocol = 'nosuch'": "No protocol is called 'nosuch'",
}
PLAY = ("run", "--plugin", "mine.py", "--defense", "mine", "--attack", "idle", "-n", 3, *sets(base__epochs=1))


def plugin(*lines: str) -> None:
    own = "\n".join([*lines, "register_defense('mine', Sound)", "register_attack('idle', Idle)"])
    Path("mine.py").write_text(HEAD + own)


@pytest.mark.parametrize("lines", REFUSED, ids=list(map(str, range(len(REFUSED)))))
def test_what_cannot_be_planned_is_one_line(bench: Bench, lines: str) -> None:
    plugin(lines)
    told = bench(*PLAY, "--dry-run")
    said = [line for line in told.err.splitlines() if line.startswith("bench: ")]  # libraries warn of themselves
    assert told.code == 2 and not told.out and len(said) == 1 and REFUSED[lines] in said[0], told
    assert "Traceback" not in told.err


@pytest.mark.parametrize("where", ["planned", "loaded"])
def test_ctrl_c_while_a_plug_in_is_asked_is_an_interrupt(bench: Bench, where: str) -> None:
    send = "os.kill(os.getpid(), 2)"
    plugin(send if where == "loaded" else f"Sound.validate = classmethod(lambda cls, params, facts: {send})")
    told = bench(*PLAY, "--dry-run")
    assert told.code == 130 and told.err.endswith("the same command goes on from there\n")


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("def stop(*given):\n    raise KeyboardInterrupt('mine')", "a plug-in raised KeyboardInterrupt: mine"),
        ("def stop(*given):\n    raise GeneratorExit", "a plug-in raised GeneratorExit: GeneratorExit"),
        ("def stop(*given):\n    sys.exit(0)", "a plug-in asked Python to exit (code 0)"),
    ],
)
def test_what_no_handler_catches_is_one_line_wherever_a_plug_in_raises_it(bench: Bench, lines: str, words: str) -> None:
    plugin(lines, "from bench import register_dataset", "class Data:", "    Params = downloads = None",
           "    files = facts = load = check = stop", "register_dataset('odd', Data)")  # fmt: skip
    told = bench("data", "odd", "--data-dir", ".", "--plugin", "mine.py")
    assert told.code == 1 and told.err.strip() == f"bench: {words}; the command did not finish", told


def test_a_fault_of_the_harness_in_planning_is_not_blamed_on_anybody(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.planning.plan.check_sizes", lambda spec: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bench("run", "--defense", "regular", "--attack", "pgd", "--dry-run")


def test_what_a_plug_in_prints_is_not_the_commands_output(bench: Bench) -> None:
    plugin(
        "print('imported')",
        "Sound.validate = classmethod(lambda cls, params, facts: print('planned'))",
        "Sound.predict = lambda self, x: (print('answered'), StaticDefense.predict(self, x))[1]",
    )
    told = bench(*PLAY, "--in-process", "--json")
    assert told.code == 0 and [run["status"] for run in told.runs] == ["DONE"]
    assert {"imported", "planned", "answered"} <= set(told.err.splitlines())
    told = bench("verify", told.runs[0]["run"], "--plugin", "mine.py", "--json")
    assert told.code == 0 and json.loads(told.out)["holds"]


def test_where_a_plug_in_goes_changes_no_place(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Database, cache and plug-ins are named by relative paths, and the plug-in moves at every occasion."""
    monkeypatch.setenv("BENCH_CACHE", "files")
    here, elsewhere = Path.cwd(), Path("elsewhere")
    elsewhere.mkdir()
    go = f"os.chdir({str(elsewhere.resolve())!r})"
    plugin(
        go,
        f"Sound.validate = classmethod(lambda cls, params, facts: {go})",
        f"Sound.predict = lambda self, x: ({go}, StaticDefense.predict(self, x))[1]",
    )
    told = bench(*PLAY, "--in-process", "--json", "--db", "own.db")
    assert told.code == 0 and Path.cwd() == here and not any(elsewhere.iterdir())
    assert any(Path("files/images").iterdir()) and Path("own.db").exists()
    told = bench("verify", told.runs[0]["run"], "--plugin", "mine.py", "--db", "own.db", "--json")
    assert told.code == 0 and json.loads(told.out)["holds"] and json.loads(told.out)["images"] == 3


def test_what_a_plug_in_raises_while_it_is_verified_is_the_reason(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin(
        "def act(self, x):",
        "    exec(os.environ.get('ACT', ''))",
        "    return StaticDefense.predict(self, x)",
        "Sound.predict = act",
    )
    (run,) = bench(*PLAY, "--in-process", "--json").runs
    for act, reason in (
        ("raise ValueError('no')", "ValueError: no"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt: KeyboardInterrupt"),
        ("sys.exit(0)", "SystemExit: 0"),
    ):
        monkeypatch.setenv("ACT", act)
        told = bench("verify", run["run"], "--plugin", "mine.py", "--json")
        assert told.code == 1 and json.loads(told.out)["left_out"] == {"0": reason} and "Traceback" not in told.err
    monkeypatch.setenv("ACT", "os.kill(os.getpid(), 2)")
    assert bench("verify", run["run"], "--plugin", "mine.py").code == 130


def test_a_reason_to_decline_is_text(bench: Bench) -> None:
    plugin("Idle.declines = lambda self, threat, facts, info: 3")
    told = bench(*PLAY, "--in-process", "--json")
    assert told.code == 1 and told.runs[0]["status"] == "FAILED"
    assert "idle.declines gives 3; it gives None or a reason as text" in told.runs[0]["reason"]


def test_an_interrupt_that_a_plug_in_raises_fails_its_run(bench: Bench) -> None:
    """In a process of its own, where Ctrl-C does not arrive."""
    plugin("def stop(self, x):\n    raise KeyboardInterrupt", "Sound.answer = stop")
    told = bench(*PLAY, "--workers", 1, "--json")
    assert told.code == 1 and told.runs[0]["reason"] == "KeyboardInterrupt: KeyboardInterrupt"
    assert "Traceback" not in told.err


def test_a_damaged_file_that_cannot_be_set_aside_is_one_line(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_CACHE", "files")
    play = ("run", "--defense", "regular", "--attack", "fgsm", "-n", 3, "--workers", 1, *sets(base__epochs=1))
    assert bench(*play, "--db", "first.db").code == 0
    (weights,) = Path("files/bases").glob("*/weights.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    os.utime(weights, ns=(0, 0))
    with not_writable(Path("files")):
        told = bench(*play, "--db", "second.db")
    assert told.code == 1 and "cannot be set aside: Permission denied" in told.err.splitlines()[-1]
    assert bench(*play, "--db", "second.db").code == 0

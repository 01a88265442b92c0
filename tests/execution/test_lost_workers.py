"""Workers that end in the middle of their work: what was nobody's fault goes on, what a plug-in did has failed."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import bench as lib
from bench.errors import BadValue
from bench.execution.worker import work
from tests import planted
from tests.conftest import sets
from tests.execution.test_determinism import Place

PLUGIN = '''
import os, signal, sys, time
from pathlib import Path
from bench import Attack, register_attack

FOLDER = Path({folder!r})


def lost(times):
    """End this process as somebody from outside would, so many times in all."""
    done = len(list(FOLDER.glob("lost*")))
    if done < times:
        (FOLDER / f"lost{{done}}").touch()
        os.kill(os.getpid(), signal.SIGKILL)


class Own(Attack):
    """Returns the images; what else it does, the parameter says."""

    block = 1

    def perturb(self, oracle, x, y, draws):
        (FOLDER / "pid").write_text(str(os.getpid()))
        done = len(list(FOLDER.glob("call*")))
        (FOLDER / f"call{{done}}").touch()
        {body}
        return x


register_attack("own", Own, preset={{"weights": "adapted"}})
'''

#: an online defense: each image is crafted in its turn, and the state has to come back
ARGS = ("--defense", "rmc", "--attack", "own", "-n", "6", "--workers", "1", "--set", "runner.chunk=1",
        *sets(defense__k=32, defense__epochs=1, defense__bank_steps=2, base__epochs=4))  # fmt: skip


def plugin(folder: Path, body: str) -> list[str]:
    folder.mkdir(exist_ok=True)
    file = folder / "own.py"
    file.write_text(PLUGIN.format(folder=str(folder), body=body))
    return ["--plugin", str(file)]


def played(place: Place, *args: str, timeout_s: float = 120) -> tuple[int, list[dict[str, Any]], str]:
    """Exit code, the runs that were printed, standard error."""
    process = place.start(*args)
    out, err = process.communicate(timeout=timeout_s)
    return process.returncode, [json.loads(line) for line in out.splitlines()], err


def answers(place: Place, run: dict[str, Any]) -> list[list[Any]]:
    return [[row["index"], row["attacked_answer"], row["adaptation_steps"]] for row in place.rows()[run["run"]]]


def test_a_game_goes_on_from_its_last_chunk_when_its_worker_is_lost_twice(tmp_path: Path, cache_root: Path) -> None:
    calm, rough = Place(tmp_path / "calm", cache_root), Place(tmp_path / "rough", cache_root)
    code, (undisturbed,), err = played(calm, *ARGS, *plugin(tmp_path / "a", "pass"))
    assert code == 0, err
    code, (run,), err = played(rough, *ARGS, *plugin(tmp_path / "b", "done >= 3 and lost(2)"))
    assert code == 0 and run["status"] == "DONE", err
    assert err.count("ended by signal 9 (SIGKILL); its work goes on in another one") == 2
    assert answers(rough, run) == answers(calm, undisturbed) and len(answers(rough, run)) == 6
    assert len(list((tmp_path / "b").glob("call*"))) == 6 + 2  # nothing that was committed is played again


def test_the_third_loss_is_a_failure_that_says_what_is_known(tmp_path: Path, cache_root: Path) -> None:
    place = Place(tmp_path / "place", cache_root)
    code, (run,), _ = played(place, *ARGS, *plugin(tmp_path / "a", "done >= 3 and lost(9)"))
    assert code == 1 and run["status"] == "FAILED" and len(answers(place, run)) == 3
    assert run["reason"] == "The worker process was ended by signal 9 (SIGKILL); so were the 2 before it."


@pytest.mark.parametrize(
    ("body", "reason"),
    [("os._exit(0)", "ended itself with exit code 0"), ("sys.exit(0)", "SystemExit: 0")],
)
def test_a_plugin_that_leaves_the_program_fails_alone(tmp_path: Path, cache_root: Path, body: str, reason: str) -> None:
    place = Place(tmp_path / "place", cache_root)
    code, runs, err = played(place, *ARGS, "--attack", "clean", *plugin(tmp_path / "a", body))
    found = {run["attack"]: run for run in runs}
    assert code == 1 and found["clean"]["status"] == "DONE", err
    assert found["own"]["status"] == "FAILED" and reason in found["own"]["reason"]


class Endless:
    """Takes for ever to be read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return time.sleep, (1e6,)


def test_a_worker_ends_with_its_command_also_before_it_can_work() -> None:
    light = "import sys, bench.execution.worker; sys.exit(bool({'torch', 'numpy', 'pydantic'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", light], check=False).returncode == 0
    context = multiprocessing.get_context("spawn")
    _, theirs = context.Pipe()
    nobody = os.getpid() + 1
    process = context.Process(target=work, args=(theirs, nobody, pickle.dumps(Endless())), daemon=True)
    process.start()
    process.join(60)
    assert process.exitcode == 1


def test_a_silent_run_is_ended_and_the_others_are_played(tmp_path: Path, cache_root: Path) -> None:
    place = Place(tmp_path / "place", cache_root)
    code, _, err = played(place, *ARGS, *plugin(tmp_path / "a", "done >= 9"))  # all that takes long is there
    assert code == 0, err
    start = time.monotonic()
    slow = (*ARGS, "--seed", "1", "--attack", "clean", "--limit", "20s")
    code, runs, err = played(place, *slow, *plugin(tmp_path / "b", "time.sleep(600)"))
    found = {run["attack"]: run for run in runs}
    assert code == 1 and time.monotonic() - start < 120, err
    assert found["own"]["reason"] == "No row and no line of progress came for 20 s (runner.limit)."
    assert found["clean"]["status"] == "DONE", err


def test_what_a_plugin_prints_is_not_among_the_results(tmp_path: Path, cache_root: Path) -> None:
    place = Place(tmp_path / "place", cache_root)
    code, (run,), err = played(place, *ARGS, *plugin(tmp_path / "a", "print('from the plug-in', flush=True)"))
    assert code == 0 and run["status"] == "DONE" and "from the plug-in" in err


def test_one_worker_is_a_process_of_its_own_for_plugins_of_files_unless_a_debugger_wants_them(
    tmp_path: Path, cache_root: Path
) -> None:
    own = plugin(tmp_path / "a", "pass")
    for number, (more, same) in enumerate((([], False), (["--in-process"], True))):
        process = Place(tmp_path / f"place{number}", cache_root).start(*ARGS, *own, *more)
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert (int((tmp_path / "a" / "pid").read_text()) == process.pid) is same


def test_what_only_this_process_can_play_cannot_have_a_limit(bench: Any) -> None:
    lib.register_attack("remembers", planted.Remembers)
    with pytest.raises(BadValue, match=r"remembers itself.*leave runner\.limit out"):
        lib.run("regular", "remembers", n=2, sets={"runner.limit": "5m"})
    told = bench("run", "--defense", "regular", "--attack", "clean", "--workers", 2, "--in-process")
    assert told.code == 2 and "--in-process plays in this process alone; give workers=1" in told.err
    told = bench("run", "--defense", "regular", "--attack", "clean", "--limit", "soon")
    assert told.code == 2 and "runner.limit is 'soon'; give a time such as 90s" in told.err

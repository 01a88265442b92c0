"""`bench run --for TIME`, and kills in training: what was done is kept, and the rows are the same."""

from __future__ import annotations

import json
import math
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from bench.deadline import GRACE_S, NEVER, Deadline, OutOfTime, in_units, parse_duration
from bench.errors import BadValue
from tests.conftest import Bench, sets
from tests.execution.test_determinism import QUICKLY, Place

#: a defense that adapts, under an attack on its base and one on its state; the base is trained in each folder anew
CELL = ["--defense", "rmc", "--attack", "pgd", "--attack", "pgd-skip", "-n", "40", *QUICKLY,
        *sets(base__epochs=40, game__p=12, game__trials=8, defense__bank_steps=5)]  # fmt: skip
OFTEN = sets(runner__chunk=5, runner__checkpoint_s=0.05)


class OwnBases(Place):
    """A folder in which bases are trained."""

    def __init__(self, folder: Path, cache_root: Path) -> None:
        super().__init__(folder, cache_root)
        for kind in ("bases", "banks"):
            (self.cache / kind).unlink()

    def limited(self, *args: str) -> tuple[int, list[dict[str, Any]], str]:
        process = self.start(*args)
        out, err = process.communicate(timeout=300)
        return process.returncode, [json.loads(line) for line in out.splitlines()], err

    @property
    def checkpoint(self) -> Path | None:
        return next(self.cache.glob("training/*"), None)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, cache_root: Path) -> dict[str, Any]:
    place = OwnBases(tmp_path_factory.mktemp("limit") / "place", cache_root)
    place.run(*CELL, "--workers", "1")
    return place.rows()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_command_with_a_limit_is_repeated_until_all_is_done(
    tmp_path: Path, cache_root: Path, reference: dict, workers: str
) -> None:
    place = OwnBases(tmp_path / "place", cache_root)
    code, runs, err = place.limited(*CELL, "--workers", workers, "--for", "0.1s")
    assert code == 75 and place.count() == 0
    assert [(run["status"], run["rows_left"], run["seconds_left"]) for run in runs] == [("new", 40, None)] * 3
    assert err.splitlines()[-1] == (
        "bench: the time is up: 3 runs are left with 120 rows; the same command goes on from there"
    )
    left, limit = [120], 5
    while code == 75:  # a slow machine needs much of a short time to start
        code, runs, err = place.limited(*CELL, *OFTEN, "--workers", workers, "--for", f"{limit}s")
        left.append(sum(run.get("rows_left", 0) for run in runs))
        limit += 3
        assert code in (0, 75) and limit < 120, err
    assert left[-1] == 0 and left == sorted(left, reverse=True)
    assert place.rows() == reference and place.checkpoint is None


def test_kills_in_training_change_nothing(tmp_path: Path, cache_root: Path, reference: dict) -> None:
    place = OwnBases(tmp_path / "place", cache_root)
    for _ in range(3):
        process = place.start(*CELL, *OFTEN, "--workers", "1")
        start, before = time.monotonic(), place.checkpoint.stat().st_mtime_ns if place.checkpoint else 0
        while time.monotonic() - start < 60 and process.poll() is None:
            checkpoint = place.checkpoint
            if checkpoint is not None and ".part" not in checkpoint.name and checkpoint.stat().st_mtime_ns > before:
                break
            time.sleep(0.01)
        assert process.poll() is None, "training ended before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.communicate()
    place.run(*CELL, *OFTEN, "--workers", "1")
    assert place.rows() == reference and place.checkpoint is None


def test_work_that_asks_too_late_is_given_up(tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """An attack that asks for the network for ever is given up; its run is unfinished, not FAILED."""
    plugin = tmp_path / "endless.py"
    plugin.write_text(
        "from bench import Attack, register_attack\n\n\n"
        "class Endless(Attack):\n"
        "    def perturb(self, oracle, x, y, draws):\n"
        "        while True:\n"
        "            try:\n"
        "                oracle.model()(x)\n"
        "            except Exception:\n"
        "                pass\n\n\n"
        "register_attack('endless', Endless, preset={'weights': 'trained'})\n"
    )
    monkeypatch.setattr("bench.deadline.GRACE_S", 0.2)
    args = ["run", "--defense", "regular", "--attack", "endless", "-n", "4", "--plugin", plugin, "--workers", 1,
            "--json", *sets(base__epochs=8)]  # fmt: skip
    bench(*args[:4], "clean", *args[5:])  # the network is trained
    told = bench(*args, "--for", "1s")
    assert told.code == 75, told.err
    (run,) = told.runs
    assert run["status"] == "RUNNING" and run["rows_left"] == 4 and run["seconds_left"] > 0
    assert "about" in told.err and "the same command goes on" in told.err


def test_a_worker_that_never_asks_is_killed(tmp_path: Path, cache_root: Path) -> None:
    plugin, begun = tmp_path / "sleeping.py", tmp_path / "begun"
    plugin.write_text(
        "import time\nfrom pathlib import Path\nfrom bench import Attack, register_attack\n\n\n"
        "class Sleeping(Attack):\n"
        "    def perturb(self, oracle, x, y, draws):\n"
        f"        Path({str(begun)!r}).touch()\n"
        "        time.sleep(600)\n\n\n"
        "register_attack('sleeping', Sleeping, preset={'weights': 'trained'})\n"
    )
    place = Place(tmp_path / "place", cache_root)
    args = ["--defense", "regular", "--attack", "sleeping", "-n", "4", "--plugin", str(plugin), "--workers", "2",
            *sets(base__epochs=8)]  # fmt: skip
    for limit in (4, 8, 16, 32):  # a slow machine needs much of a short time to start
        start = time.monotonic()
        process = place.start(*args, "--for", f"{limit}s")
        out, err = process.communicate(timeout=120)
        assert process.returncode == 75 and "rows_left" in out, err
        if begun.exists():
            break
    assert begun.exists() and time.monotonic() - start > limit + GRACE_S


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("8m", 480), ("1h30m", 5400), ("0.5h", 1800), ("2d", 172800), ("1 h", 3600)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration("--for", text) == seconds


@pytest.mark.parametrize("text", ["", "m", "8x", "-3s", "0", "nan", "inf", "8m 3", "1e999"])
def test_what_is_no_duration_is_refused(bench: Bench, text: str) -> None:
    with pytest.raises(BadValue, match="give a time such as 90s, 8m or 1h30m"):
        parse_duration("--for", text)
    told = bench("run", "--defense", "regular", "--attack", "clean", f"--for={text}")
    assert told.code == 2 and told.err.count("\n") == 1 and "--for is" in told.err


def test_a_deadline_stops_where_nothing_is_lost_and_gives_up_later() -> None:
    assert NEVER.at == math.inf and not NEVER.passed(-1e9)
    NEVER.stop()
    fresh, late, over = Deadline.after(5), Deadline.after(-1), Deadline.after(-GRACE_S - 1)
    fresh.stop()
    late.check()
    assert not fresh.passed() and late.passed() and not late.passed(GRACE_S) and over.passed(GRACE_S)
    for call in (late.stop, over.stop, over.check):
        with pytest.raises(OutOfTime):
            call()
    assert not issubclass(OutOfTime, Exception)


def test_times_for_a_reader() -> None:
    assert [in_units(s) for s in (4.4, 89, 90, 840, 7500)] == ["4 s", "89 s", "2 min", "14 min", "2 h 5 min"]

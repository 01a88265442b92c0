"""Protocols of plug-ins: played, told apart from the built-in ones, verified, repeated; and the keys of the others."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bench import config, registry
from bench.errors import BrokenPlugin
from bench.planning.facts import facts_of
from bench.planning.repeat import command_of
from bench.planning.spec import GameSpec, RunSpec
from bench.store import Store
from tests.conftest import Bench, sets, spec_of

TEXT = """
from dataclasses import replace
from bench import register_protocol
from bench.game.protocols.stream import play_stream

def play_backwards(bench, spec, game, resume, meter, given=None):
    turned = replace(spec, chosen=tuple(reversed(spec.places)))
    yield from play_stream(bench, turned, game, resume, meter, given)

register_protocol("backwards", play_backwards, like="stream", summary="last point first")
"""
SHORT = sets(base__epochs=8, defense__epochs=1, defense__k=128, defense__bank_steps=5, attack__steps=5)


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "backwards.py"
    path.write_text(TEXT)
    return path


def test_a_protocol_of_a_plug_in_plays_and_is_told_apart(bench: Bench, plugin: Path) -> None:
    args = ("run", "--defense", "rmc", "--attack", "pgd", "-n", 6, *SHORT, "--json", "--plugin", plugin)
    (plain,), (turned,) = (
        bench(*args, "--workers", 1).runs,
        bench(*args, "--workers", 2, "--set", "game.protocol=backwards").runs,
    )
    assert turned["status"] == "DONE" and turned["run"] != plain["run"] and turned["protocol"] == "backwards"
    assert "played by the protocol backwards, which is like stream" in turned["threat_in_words"]
    store = Store.open(config.load(None).store.db)
    assert store is not None
    cleans = [
        run for run in store.runs() if run.spec["attack"]["name"] == "clean"
    ]  # of the same stream, one forwards, one backwards
    assert {run.spec["game"].get("play", "") for run in cleans} == {"", "backwards"}
    order = [[row.index for row in store.rows(run["run"])] for run in (plain, turned)]
    assert order[1] == order[0][::-1]
    verified = json.loads(bench("verify", turned["run"], "--json", "--plugin", plugin).out)
    assert verified["holds"] and verified["games"] == 1
    record = store.find(turned["run"])
    assert record is not None
    text, note = command_of(RunSpec.from_dict(record.spec), config.load(None), facts_of(None))
    assert note == "" and "--set game.protocol=backwards" in text
    plugin.write_text(TEXT + "# edited\n")
    edited = json.loads(bench("verify", turned["run"], "--json", "--plugin", plugin).out)
    assert "the protocol backwards has changed since" in edited["left_out"]["0"]
    assert bench(*args, "--set", "game.protocol=backwards", "--workers", 1).runs[0]["run"] != turned["run"]


def test_what_is_not_registered_is_refused(bench: Bench) -> None:
    done = bench("run", "--defense", "regular", "--attack", "pgd", "--set", "game.protocol=strem")
    assert done.code == 2 and "Did you mean 'stream'" in done.err
    with pytest.raises(BrokenPlugin, match="must be one of stream, probe, replay"):
        registry.register_protocol("mine", "x:y", like="nothing")
    assert {row["name"] for row in json.loads(bench("list", "protocols", "--json").out)} == {
        "stream",
        "probe",
        "replay",
    }


def test_keys_of_built_in_protocols_hold_nothing_of_it() -> None:
    spec = spec_of("rmc", "pgd-skip")
    assert set(spec.to_dict()["game"]) == {"protocol", "p", "trials", "repeats", "batch"}
    other = replace(spec, game=replace(spec.game, play="mine", source="a"))
    assert other.key != spec.key != replace(other, game=replace(other.game, source="b")).key != other.key
    assert GameSpec("probe", play="mine").name == "mine" and GameSpec("probe").name == "probe"

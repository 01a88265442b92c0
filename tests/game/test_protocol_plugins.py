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
from bench.planning.spec import RunSpec
from bench.store import Store
from tests.conftest import Bench, fresh_registry, sets, spec_of

TEXT = """
from bench import register_protocol
from bench.game.protocols.stream import Stream

class Backwards(Stream):
    def places(self, spec, game):
        return super().places(spec, game)[::-1]

    def card(self, spec):
        return "the last input is attacked and served first"

    def tag(self, spec):
        return "backwards"

register_protocol("backwards", Backwards, summary="last point first")
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
    assert "the last input is attacked and served first (protocol backwards)" in turned["threat_in_words"]
    store = Store.open(config.load(None).store.db)
    assert store is not None
    cleans = [
        run for run in store.runs() if run.spec["attack"]["name"] == "clean"
    ]  # of the same stream, one forwards, one backwards
    assert {run.spec["game"]["protocol"] for run in cleans} == {"stream", "backwards"}
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
    registry.register_protocol("mine", "tests.planted:Counting")
    with pytest.raises(BrokenPlugin, match=r"is no subclass of bench\.Protocol"):
        registry.protocols.load("mine")
    fresh_registry()
    assert {row["name"] for row in json.loads(bench("list", "protocols", "--json").out)} == {
        "stream",
        "probe",
        "replay",
        "poison",
    }


def test_what_a_protocol_says_is_stored_and_no_part_of_the_key() -> None:
    spec = spec_of("rmc", "pgd-skip")
    assert spec.game.source == "" and spec.game.card and spec.game.tag == "p 40, delay 0"
    assert replace(spec, game=replace(spec.game, card="other words", tag="other")).key == spec.key
    mine = replace(spec, game=replace(spec.game, protocol="mine", source="a"))
    assert mine.key != spec.key != replace(mine, game=replace(mine.game, source="b")).key != mine.key
    assert RunSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_a_run_has_so_many_games_at_most_whatever_its_protocol(bench: Bench, plugin: Path) -> None:
    any_number = "{'repeats': 1, '__annotations__': {'repeats': int}, '__module__': __name__}"
    plugin.write_text(f"{TEXT}\nBackwards.Params = type('Params', (Stream.Params,), {any_number})\n")
    run = ("run", "--defense", "rmc", "--attack", "pgd", "--plugin", plugin, "--dry-run")
    told = bench(*run, *sets(game__protocol="backwards", game__repeats=10_001))
    assert told.code == 2 and "game.repeats is 10001; it is the number of games: give 1 to 10000" in told.err

"""`bench verify` names what was edited and nothing else; `bench compare` refuses what cannot be paired."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import config
from bench.analysis import metrics, pairs, worst_case
from bench.cache import dump_tensors, parse_tensors
from bench.doctor import examine
from bench.planning.spec import RunSpec
from bench.store import Store
from tests.conftest import Bench, sets, spec_of

#: where runs land in a folder without a bench.toml
DB = config.load(None).store.db
FAST = sets(base__epochs=8, defense__epochs=1, defense__k=128, defense__bank_steps=5, attack__steps=5)
PROBE = sets(game__p=4, game__trials=2)


@pytest.fixture
def run(bench: Bench) -> Callable[..., str]:
    """Plays the runs of a request and gives the key of the last."""

    def play(*args: object) -> str:
        done = bench("run", *args, "-n", 6, "--json", "--workers", 1)
        assert done.code == 0, done.err
        return str(done.runs[-1]["run"])

    return play


def sql(statement: str, *values: object) -> list[Any]:
    """Runs a statement on the database by hand."""
    with sqlite3.connect(DB.removeprefix("sqlite:///")) as connection:
        return connection.execute(statement, values).fetchall()


def verified(bench: Bench, run: str) -> dict[str, Any]:
    done = bench("verify", run, "--json")
    found: dict[str, Any] = json.loads(done.out)
    assert done.code == (0 if found["holds"] else 1)
    return found


def image_file(run: str, game: int, cache_root: Path) -> Path:
    ((name,),) = sql("select file from images where run = ? and game = ?", run, game)
    return next(cache_root.rglob(f"{name}*"))


@pytest.mark.parametrize("defense", ["regular", "rmc", "rmc-plus", "dent", "noise-vote"])
def test_what_was_not_touched_holds(bench: Bench, run: Callable[..., str], defense: str) -> None:
    args = FAST if defense.startswith("rmc") else sets(base__epochs=8, attack__steps=5)
    batch = sets(defense__batch_size=2) if defense == "dent" else []
    for more in (("--attack", "pgd"), ("--attack", "pgd-skip", *PROBE)):
        found = verified(bench, run("--defense", defense, *more, *args, *batch))
        assert (
            found["holds"] and found["rows"] == found["images"] == 6 and found["games"] == (1 if len(more) == 2 else 2)
        )


def test_rows_from_before_a_norm_was_added_hold(bench: Bench, run: Callable[..., str]) -> None:
    key = run("--defense", "regular", "--attack", "pgd", *sets(base__epochs=8, attack__steps=5))
    sql("update examples set distances = json_remove(distances, '$.l1') where run = ?", key)
    assert verified(bench, key)["holds"]


def test_every_run_of_the_smoke_suite_holds(bench: Bench) -> None:
    quick = sets(base__epochs=8, defense__epochs=1, defense__k=128, defense__bank_steps=5, attack__steps=5)
    done = bench(
        "run", "--suite", "smoke", "-n", 6, "--json", "--workers", 1, *quick, "--set", "defense.replace_steps=2"
    )
    assert done.code == 0, done.err
    assert len(done.runs) == 14
    for result in done.runs:
        found = verified(bench, result["run"])
        assert found["holds"] and found["games"] == (2 if result["protocol"] == "probe" else 1), result["attack"]


def test_a_replay_starts_from_nothing_that_was_stored(
    bench: Bench, run: Callable[..., str], cache_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """States in the cache are not taken up: a replay that did would repeat a wrong one."""
    from bench.cache import Cache

    key = run("--defense", "rmc", "--attack", "pgd-skip", *PROBE, *FAST)
    asked: list[Path] = []
    plain = Cache.get_state

    def watched(self: Cache, name: str) -> Any:
        asked.append(self.root)
        return plain(self, name)

    monkeypatch.setattr(Cache, "get_state", watched)
    assert bench("run", "--defense", "rmc", "--attack", "pgd-skip", *PROBE, *FAST, "-n", 6, "--workers", 1,
                 "--rerun", "all").code == 0  # fmt: skip
    assert cache_root in asked  # a game that is played does ask, and the run has left states behind
    asked.clear()
    assert verified(bench, key)["holds"]
    assert cache_root not in asked


def test_an_edited_image_is_named_and_its_game_is_not_replayed(
    bench: Bench, run: Callable[..., str], cache_root: Path
) -> None:
    key = run("--defense", "regular", "--attack", "pgd-skip", *PROBE, *sets(base__epochs=8, attack__steps=4))
    path = image_file(key, 1, cache_root)
    kept = path.read_bytes()
    tensors, facts = parse_tensors(kept)
    tensors["images"][2, 0, 3, 3] += 1e-4
    path.write_bytes(dump_tensors(tensors, facts))
    try:
        found = verified(bench, key)
    finally:
        path.write_bytes(kept)
    ((game, position, index),) = sql(
        'select game, position, "index" from examples where run = ? and game = 1 and position = 2', key
    )
    assert found["bad"] == [
        {"game": game, "position": position, "index": index, "what": "its image has another sha256"}
    ]
    assert found["games"] == 1 and found["left_out"] == {"1": "1 of its rows do not hold"}
    assert found["differences"] == []


def test_an_edited_label_is_named(bench: Bench, run: Callable[..., str]) -> None:
    key = run("--defense", "regular", "--attack", "fgsm", *sets(base__epochs=8))
    ((index, label),) = sql('select "index", label from examples where run = ? and position = 4', key)
    sql("update examples set label = ? where run = ? and position = 4", (label + 1) % 10, key)
    found = verified(bench, key)
    assert [(bad["position"], bad["index"]) for bad in found["bad"]] == [(4, index)]
    assert found["bad"][0]["what"] == f"its label is {(label + 1) % 10}, in the dataset {label}"
    said = bench("verify", key)
    assert said.code == 1 and f"game 0, position 4, example {index}: its label" in said.out


def test_a_summary_that_its_rows_do_not_give_is_named_and_made_anew(bench: Bench, run: Callable[..., str]) -> None:
    key = run("--defense", "regular", "--attack", "fgsm", *sets(base__epochs=8))
    figures = "json_set(figures, '$.robust_accuracy.value', 0.123)"
    outcomes = "json_set(outcomes, '$.right', '010101')"
    ((right,),) = sql("select json_extract(outcomes, '$.right') from summaries where run = ?", key)
    sql(f"update summaries set figures = {figures}, outcomes = {outcomes} where run = ?", key)
    assert json.loads(bench("show", key, "--json").out)["robust_accuracy"]["value"] == 0.123
    wrong, whole = examine._summaries(examine.Patient(None, (), DB, None, config.load(None)))
    assert wrong.message == f"of run {key[:12]}: robust_accuracy.value, outcomes.right are not of its rows"
    assert whole.message == "1 of 2 runs have none, or the one that their rows give"
    said = bench("verify", key)
    robust = sum(map(int, right)) / 6
    assert said.code == 1 and f"its summary says robust_accuracy.value 0.123, its rows {robust!r}"[:60] in said.out
    assert f'its summary says outcomes.right "010101", its rows "{right}"' in " ".join(said.out.split())
    found = verified(bench, key)
    assert found["holds"] and found["summary"] == []
    assert json.loads(bench("show", key, "--json").out)["robust_accuracy"]["value"] == robust


@pytest.mark.parametrize(("fact", "value"), [("answer", 3), ("linf", 0.123), ("violation", "none of the kind")])
def test_an_edited_answer_is_found_by_playing_again(
    bench: Bench, run: Callable[..., str], fact: str, value: object
) -> None:
    key = run("--defense", "rmc", "--attack", "pgd", *FAST)
    column = "json_extract(distances, '$.linf')" if fact == "linf" else fact
    ((index, stored),) = sql(f'select "index", {column} from examples where run = ? and position = 2', key)
    value = (stored + 1) % 10 if fact == "answer" else value
    change = "distances = json_set(distances, '$.linf', ?)" if fact == "linf" else f"{fact} = ?"
    sql(f"update examples set {change} where run = ? and position = 2", value, key)
    found = verified(bench, key)
    assert found["bad"] == [] and found["games"] == 1
    expected = {"game": 0, "position": 2, "index": index, "fact": fact, "stored": value, "found": stored}
    assert found["differences"] == [expected]


@pytest.mark.parametrize("damage", [b"", b"\x10\0\0\0\0\0\0\0{not json", None])
def test_a_damaged_file_of_images_is_named_row_by_row(
    bench: Bench, run: Callable[..., str], cache_root: Path, damage: bytes | None
) -> None:
    key = run("--defense", "regular", "--attack", "bim", *sets(base__epochs=8, attack__steps=3))
    path = image_file(key, 0, cache_root)
    kept = path.read_bytes()
    path.unlink() if damage is None else path.write_bytes(damage)
    try:
        found = verified(bench, key)
    finally:
        path.write_bytes(kept)
    assert found["images"] == 0 and len(found["bad"]) == 6 and found["games"] == 0
    assert {bad["what"] for bad in found["bad"]} == {"its image is not there, or its file cannot be read"}


def test_a_point_that_the_dataset_does_not_have_is_named(bench: Bench, run: Callable[..., str]) -> None:
    key = run("--defense", "regular", "--attack", "fgsm", *sets(base__epochs=8))
    sql('update examples set "index" = 10000 where run = ? and position = 0', key)
    sql("update examples set x_sha256 = 'ab' where run = ? and position = 1", key)
    whats = [bad["what"] for bad in verified(bench, key)["bad"]]
    assert whats == ["the dataset has no point 10000", "its clean point has another sha256 in the dataset"]


def test_what_cannot_be_replayed_says_why(bench: Bench, run: Callable[..., str]) -> None:
    key = run("--defense", "rmc", "--attack", "fgsm", *sets(base__epochs=8, defense__k=64, defense__epochs=1))
    ((text,),) = sql("select spec from runs where key = ?", key)
    ((provenance,),) = sql("select provenance from runs where key = ?", key)

    made = json.loads(provenance)
    made["environment"]["torch"] = "0.1"
    sql("update runs set provenance = ? where key = ?", json.dumps(made), key)
    assert verified(bench, key)["left_out"]["0"].startswith("it was made with torch 0.1, here ")
    sql("update runs set provenance = ? where key = ?", provenance, key)

    spec = json.loads(text)
    spec["n"] = 5
    sql("update runs set spec = ? where key = ?", json.dumps(spec), key)
    assert "another version of the harness" in verified(bench, key)["left_out"]["0"]
    sql("delete from examples where run = ? and position = 3", key)
    assert verified(bench, key)["left_out"] == {"0": "rows of it are missing"}
    sql("update games set done = 0 where run = ?", key)
    assert verified(bench, key)["left_out"] == {"0": "it was not played to its end"}


def test_a_game_without_its_last_row_is_not_replayed(bench: Bench, run: Callable[..., str]) -> None:
    key = run("--defense", "regular", "--attack", "fgsm", *sets(base__epochs=8))
    sql("delete from examples where run = ? and position = 5", key)
    assert verified(bench, key)["left_out"] == {"0": "rows of it are missing"}


def test_a_changed_plug_in_is_not_replayed(bench: Bench, tmp_path: Path) -> None:
    plugin = tmp_path / "mine.py"
    text = (
        "from bench import register_defense\nfrom tests.planted import Wrapped\n"
        "class Mine(Wrapped):\n    pass\nregister_defense('mine', Mine)\n"
    )
    plugin.write_text(text)
    options = ("--plugin", plugin)
    done = bench("run", "--defense", "mine", "--attack", "fgsm", "-n", 4, "--json", "--workers", 1, *options,
                 *sets(base__epochs=8))  # fmt: skip
    key = done.runs[-1]["run"]
    assert json.loads(bench("verify", key, "--json", *options).out)["holds"]
    plugin.write_text(text + "# edited\n")
    found = json.loads(bench("verify", key, "--json", *options).out)
    assert "the defense mine has changed since" in found["left_out"]["0"] and found["bad"] == []


def test_a_run_survives_the_way_through_json() -> None:
    for name, attack in (("regular", "gray-box"), ("rmc", "pgd-skip"), ("dent", "fpa")):
        spec = spec_of(name, attack)
        again = RunSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
        assert again == spec and again.key == spec.key
        assert RunSpec.from_dict({**spec.to_dict(), "n": 3}).key == replace(spec, n=3).key != spec.key


# -- compare ----------------------------------------------------------------------------------------------------------


def test_a_static_pair_is_tested_by_mcnemar(bench: Bench, run: Callable[..., str]) -> None:
    from scipy.stats import binomtest

    base = sets(base__epochs=8)
    a, b = (
        run("--defense", "regular", "--attack", "clean", *base),
        run("--defense", "regular", "--attack", "bim", *base),
    )
    store = Store.open(DB)
    assert store is not None
    right = [{row.index: row.answer == row.label for row in store.rows(key)} for key in (a, b)]
    only_a = sum(right[0][i] and not right[1][i] for i in right[0])
    found = json.loads(bench("compare", a, b, "--json").out)
    assert found["difference"]["only_a"] == only_a > 0 and found["difference"]["only_b"] == 0
    assert found["difference"]["p_value"] == pytest.approx(binomtest(0, only_a).pvalue)
    assert found["difference"]["value"] == pytest.approx(-only_a / 6) and "McNemar" in found["difference"]["method"]
    table = bench("compare", a, b)
    assert table.code == 0 and "McNemar" in table.out and "B - A" in table.out


def test_a_pair_of_games_is_tested_over_the_games(bench: Bench, run: Callable[..., str]) -> None:
    a, b = (run("--defense", "rmc", "--attack", attack, *PROBE, *FAST) for attack in ("transfer-from-base", "pgd-skip"))
    found = json.loads(bench("compare", a, b, "--json").out)
    assert "Durkalski's test over 2 games" in found["difference"]["method"] and found["n"] == 6
    later = run("--defense", "rmc", "--attack", "pgd-skip", *PROBE, *FAST, "--set", "game.p=3")
    found = json.loads(bench("compare", b, later, "--json").out)  # the same victims in each game, after other points
    assert "over 2 games" in found["difference"]["method"]
    stream = run("--defense", "rmc", "--attack", "fgsm", *FAST[:-2])
    found = json.loads(bench("compare", stream, a, "--json").out)
    assert "given this one" in found["difference"]["method"]


def test_runs_over_other_inputs_are_refused_and_named(bench: Bench, run: Callable[..., str]) -> None:
    base = ("--defense", "regular", *sets(base__epochs=8))
    a = run(*base, "--attack", "fgsm")
    fewer = bench("run", *base, "--attack", "fgsm", "-n", 4, "--json", "--workers", 1).runs[0]["run"]
    other = run(*base, "--attack", "fgsm", "--set", "dataset.split=validation")
    last = [row.index for row in (Store.open(DB) or pytest.fail()).rows(a)][4:]
    done = bench("compare", a, fewer)
    assert done.code == 2 and f"2 examples are only in {a[:12]} (such as {min(last)}, {max(last)})" in done.err
    assert "another version of it" in bench("compare", a, other).err
    sql("update examples set x_sha256 = 'ab' where run = ? and position = 1", a)
    b = run(*base, "--attack", "bim")
    assert "1 have other pixels" in bench("compare", a, b).err
    sql("update runs set status = 'FAILED' where key = ?", b)
    assert "is FAILED, not DONE" in bench("compare", a, b).err
    twice = run("--defense", "noise-vote", "--attack", "clean", "--repeats", 2, *sets(base__epochs=8))
    once = run("--defense", "noise-vote", "--attack", "clean", *sets(base__epochs=8))
    assert "compare runs with the same --repeats" in bench("compare", twice, once).err


def test_a_minimal_attack_without_its_clean_answers_is_refused(bench: Bench, run: Callable[..., str]) -> None:
    """An example that it moved farther than the budget counts with its clean answer, which is in the clean run."""
    base = ("--defense", "regular", *sets(base__epochs=8))
    far = sets(attack__steps=20, attack__binary_search_steps=1, attack__initial_const=1000.0, attack__step_size=1.0)
    a = run(*base, "--attack", "cw-l2", *far)
    b = run(*base, "--attack", "fgsm")
    assert bench("compare", a, b).code == 0
    sql("delete from examples where run in (select key from runs where attack = 'clean')")
    done = bench("compare", a, b)
    assert done.code == 2 and "no clean answer to fall back on" in done.err and a[:12] in done.err


def test_the_interval_of_a_paired_difference() -> None:
    """Agresti and Min 2005 add 0.5 to each cell: b 9, c 3, n 100: -6/102 +- 1.96 sqrt(13 - 36/102)/102."""
    a = [True] * 9 + [False] * 3 + [True] * 88
    b = [False] * 9 + [True] * 3 + [True] * 88
    found = pairs.paired(a, b)
    middle, spread = -6 / 102, (13 - 36 / 102) ** 0.5 / 102
    assert (found.value, found.only_a, found.only_b) == (-0.06, 9, 3)
    assert found.low == pytest.approx(middle - 1.959964 * spread, abs=1e-6)
    assert found.high == pytest.approx(middle + 1.959964 * spread, abs=1e-6)
    assert found.p_value == pytest.approx(2 * sum(_choose(12, k) for k in range(4)) / 2**12)
    same = pairs.paired([True, False], [True, False])
    assert same.value == 0 and same.p_value == 1.0 and same.low < 0 < same.high


def test_the_test_over_games_by_hand() -> None:
    """Three games that gain 2 of 4, 1 of 4 and 1 of 4: (1/2 + 1/4 + 1/4)^2 / (1/4 + 1/16 + 1/16) = 8/3."""
    from scipy.stats import chi2

    a = [False] * 12
    b = [True, True, False, False, True, False, False, False, True, False, False, False]
    found = pairs.paired(a, b, [0] * 4 + [1] * 4 + [2] * 4)
    assert found.p_value == pytest.approx(chi2.sf(8 / 3, 1)) and found.value == pytest.approx(1 / 3)
    assert found.low <= 0.25 and found.high >= 0.5 and "3 games" in found.method
    assert pairs.paired(a, a, [0] * 6 + [1] * 6).p_value == 1.0
    assert "given this one state" in pairs.paired(a, b, [0] * 12, given="state").method


def test_the_worst_case_is_taken_per_example() -> None:
    """Two attacks that break other halves: each alone leaves a half, both together nothing (never min over means)."""
    first, second = {0: True, 1: False, 2: True}, {0: False, 1: True}
    assert worst_case.worst_case([first, second]) == {0: False, 1: False, 2: True}
    assert worst_case.worst_case([]) == {}


def test_redraws_have_a_mean_a_spread_and_a_worst_case() -> None:
    """Two games over three points, 2/3 and 1/3 right, one point right in both."""
    right = {(0, 5): True, (0, 6): True, (0, 7): False, (1, 5): True, (1, 6): False, (1, 7): False}
    found = metrics.redraws(right)
    assert found is not None and found.values == [pytest.approx(2 / 3), pytest.approx(1 / 3)]
    assert found.mean == pytest.approx(0.5) and found.worst == pytest.approx(1 / 3)
    assert found.spread == pytest.approx((2 * (1 / 6) ** 2) ** 0.5)
    assert metrics.redraws({(0, 5): True}) is None and metrics.redraws({(0, 5): True, (1, 6): True}) is None


def test_a_randomised_defense_is_drawn_again(bench: Bench) -> None:
    keys = sets(base__epochs=8, defense__samples=5, defense__sigma=1.0)
    args = ("--attack", "fgsm", "--repeats", 3, "-n", 8, "--json", "--workers", 1, *keys)
    done = bench("run", "--defense", "noise-vote", *args)
    again = done.runs[0]["redraws"]
    assert len(again["values"]) == 3 and again["worst"] <= min(again["values"]) and again["spread"] > 0
    assert "right in every one" in bench("show", done.runs[0]["run"]).out
    other = bench("run", "--defense", "noise-vote", "--attack", "clean", *args[2:])
    compared = bench("compare", done.runs[0]["run"], other.runs[0]["run"]).out
    assert "over 8 points" in " ".join(compared.split())


def _choose(n: int, k: int) -> int:
    from math import comb

    return comb(n, k)


def test_tensors_that_are_not_there_are_none(tmp_path: Path) -> None:
    from bench.cache import Cache

    cache = Cache(tmp_path)
    key = cache.put_tensors("images", {"images": torch.ones(2)})
    assert torch.equal(cache.find_tensors("images", key)["images"], torch.ones(2))
    assert cache.find_tensors("images", "0" * 64) == {}

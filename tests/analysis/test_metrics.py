from dataclasses import replace

import pytest

from bench.analysis.intervals import clustered, repeated, wilson
from bench.analysis.metrics import Sharing, answered_right, at_budget, clean_accuracy, median_distance, robust_accuracy
from bench.analysis.pairs import paired, paired_repeated
from bench.rows import Row

ROW = Row(
    game=0, position=0, index=0, label=1, answer=1, clean_answer=None, violation="",
    distances={"linf": 0.1, "l2": 0.2, "l0": 1.0},
    x_sha256="", adv_sha256="", forwards=1, backwards=1, queries=0, simulated=0, adaptation_steps=0, believed=None,
    fooled_inside=None, attack_s=0.0, defense_s=0.0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    # Newcombe, Statistics in Medicine 17 (1998), table I (method 3), and Brown, Cai, DasGupta 2001
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718),
     (50, 100, 0.4038, 0.5962), (500, 1000, 0.4691, 0.5309)],
)  # fmt: skip
def test_wilson_is_that_of_the_printed_tables(right: int, count: int, low: float, high: float) -> None:
    found = wilson(right, count)
    assert (found.value, found.low, found.high) == (
        right / count,
        pytest.approx(low, abs=5e-5),
        pytest.approx(high, abs=5e-5),
    )


def test_the_bootstrap_is_over_games_not_over_examples() -> None:
    # four games that are all or nothing: the interval of examples would be 0.5 +- 0.1, that of games is far wider
    games = [[True] * 25, [True] * 25, [False] * 25, [False] * 25]
    found = clustered(games)
    assert found.value == 0.5 and found.low == 0.0 and found.high == 1.0
    assert clustered(games) == found
    # exact distribution of the mean of 4 draws from {0, 1}: P(mean = 0) = 1/16 > 2.5 %, so the ends are 0 and 1
    assert "bootstrap over 4" in found.method


def test_the_interval_of_games_is_never_narrower_than_that_of_examples() -> None:
    none, all_alike = wilson(0, 30), clustered([[False] * 10] * 3)
    assert (all_alike.low, all_alike.high) == (none.low, none.high)
    narrow = clustered([[True] * 10, [True] * 9 + [False]])  # the bootstrap alone says 90 to 100
    assert (narrow.low, narrow.high) == (wilson(19, 20).low, 1.0)


def test_serving_the_same_points_again_is_no_further_evidence() -> None:
    streams = [[True] * 36 + [False] * 4] * 5
    found = repeated(streams)
    assert (found.value, found.low, found.high) == (0.9, wilson(36, 40).low, wilson(36, 40).high)
    apart = repeated([[True] * 40, [False] * 40])
    assert (apart.value, apart.low, apart.high) == (0.5, 0.0, 1.0)


def test_repeats_of_a_static_defense_are_no_further_examples_either() -> None:
    rows = [replace(ROW, game=g, position=i, index=i, answer=int(i < 50)) for g in range(5) for i in range(100)]
    found = robust_accuracy(rows, Sharing("", False), answered_right(rows))
    assert found is not None and (found.low, found.high) == (wilson(50, 100).low, wilson(50, 100).high)
    victims = robust_accuracy(rows[:40], Sharing("", True), answered_right(rows[:40]))
    assert victims is not None and victims.method == "Wilson"


def test_a_difference_over_repetitions_counts_every_point_once() -> None:
    """One point of 100 is lost in each of five orders: as if it had been played once."""
    a = [True] * 500
    b = [index != 7 for _ in range(5) for index in range(100)]
    orders, points = [order for order in range(5) for _ in range(100)], list(range(100)) * 5
    found, once = paired_repeated(a, b, orders, points), paired(a[:100], b[:100])
    assert (found.value, found.low, found.high) == (-0.01, once.low, once.high)
    assert found.p_value > 0.3 and (found.only_a, found.only_b) == (5, 0)
    apart = paired_repeated([True] * 20, [True] * 10 + [False] * 10, [0] * 10 + [1] * 10, [*range(10)] * 2)
    assert (apart.value, apart.low) == (-0.5, -1.0) and apart.high >= 0.0  # one order lost everything, one nothing


def test_accuracies_of_a_hand_made_table() -> None:
    rows = [replace(ROW, position=i, index=i, answer=1 if i < 3 else 0) for i in range(4)]
    robust = robust_accuracy(rows, Sharing("", False), answered_right(rows))
    assert robust is not None and robust.value == 0.75 and robust.method == "Wilson"
    for shared in ("stream", "state"):
        alone = robust_accuracy(rows, Sharing(shared, False), answered_right(rows))
        assert alone is not None and f"this one {shared}" in alone.method
    again = rows + [replace(row, game=1) for row in rows]
    right = answered_right(again)
    assert "orders of the same points" in robust_accuracy(again, Sharing("stream", False), right).method  # type: ignore[union-attr]
    assert "bootstrap over 2 games" in robust_accuracy(again, Sharing("state", True), right).method  # type: ignore[union-attr]
    assert robust_accuracy([], Sharing("", False), {}) is None
    assert clean_accuracy(rows, Sharing("", False), {}) is None
    paired = clean_accuracy(rows, Sharing("", False), {(0, 0): 1, (0, 1): 0, (0, 2): 1, (0, 3): 1})
    assert paired is not None and paired.value == 0.75
    own = clean_accuracy([replace(row, clean_answer=1) for row in rows], Sharing("", True), {(0, 0): 0})
    assert own is not None and own.value == 1.0


def test_a_minimal_attack_counts_at_a_budget_only_where_its_image_is_near_enough() -> None:
    far = replace(ROW, index=0, distances={"l2": 3.0}, answer=0)  # fooled, too far: the clean image is served
    near = replace(ROW, index=1, distances={"l2": 1.0}, answer=0)
    none = replace(ROW, index=2, distances={"l2": 0.0}, answer=1)
    wrong = replace(ROW, index=3, distances={"l2": 3.0}, answer=1, clean_answer=0)  # far, and wrong on the clean image
    clean = {(0, 0): 1, (0, 1): 1, (0, 2): 1}
    rows = [far, near, none, wrong]
    assert answered_right(rows) == {(0, 0): False, (0, 1): False, (0, 2): True, (0, 3): True}
    assert at_budget(rows, "l2", 2.0, clean) == {(0, 0): True, (0, 1): False, (0, 2): True, (0, 3): False}
    assert at_budget(rows, "l2", 5.0, clean) == answered_right(rows)
    assert at_budget(rows, "l2", 2.0, {}) == {(0, 1): False, (0, 2): True, (0, 3): False}  # one clean answer is unknown
    assert median_distance(rows, "l2") == 2.0 and median_distance([none], "l2") is None
    # a norm that the rows lack: nothing is known to be within its radius
    assert at_budget(rows, "l1", 9.0, clean) == {(0, 0): True, (0, 1): True, (0, 2): True, (0, 3): False}
    assert median_distance(rows, "l1") is None

import math
from dataclasses import replace

import pytest

from bench.game import Row
from bench.metrics import clean_accuracy, clustered, robust_accuracy, wilson

ROW = Row(
    game=0, position=0, index=0, label=1, answer=1, clean_answer=None, linf=0.1, l2=0.2, l0=1.0, violation="",
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


def test_games_without_spread_fall_back_to_wilson() -> None:
    found = clustered([[False] * 10] * 3)
    assert (found.low, found.high) == (wilson(0, 30).low, wilson(0, 30).high) and "given these states" in found.method


def test_accuracies_of_a_hand_made_table() -> None:
    rows = [replace(ROW, position=i, index=i, answer=1 if i < 3 else 0) for i in range(4)]
    robust = robust_accuracy(rows, static=True)
    assert robust is not None and robust.value == 0.75 and robust.method == "Wilson"
    one_stream = robust_accuracy(rows, static=False)
    assert one_stream is not None and "this one stream" in one_stream.method
    assert robust_accuracy([], static=True) is None
    assert clean_accuracy(rows, True, {}) is None
    paired = clean_accuracy(rows, True, {(0, 0): 1, (0, 1): 0, (0, 2): 1, (0, 3): 1})
    assert paired is not None and paired.value == 0.75
    own = clean_accuracy([replace(row, clean_answer=1) for row in rows], True, {(0, 0): 0})
    assert own is not None and own.value == 1.0 and not math.isnan(own.low)

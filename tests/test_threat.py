import pytest

from bench.errors import BadValue, UnknownName
from bench.threat import ThreatModel, parse_number


@pytest.mark.parametrize(
    ("text", "value"), [("8/255", 8 / 255), ("0.3", 0.3), (" 1 / 4 ", 0.25), (2, 2.0), ("1e-3", 1e-3)]
)
def test_numbers_are_parsed_once_and_fractions_are_numbers(text: object, value: float) -> None:
    assert parse_number("eps", text) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("text", ["8/0", "nan", "inf", "-inf", "abc", "", "1/2/3", True, "0x10"])
def test_what_is_no_number_is_refused_by_name(text: object) -> None:
    with pytest.raises(BadValue, match="eps is"):
        parse_number("eps", text)


@pytest.mark.parametrize(
    "fields",
    [{"eps": -1}, {"known": 1.5}, {"delay": -1}, {"queries": -1}, {"norm": "l7"}, {"weights": "all"}, {"delay": "1.5"},
     {"bank": "perhaps"}, {"randomness": "none"}, {"eps": float("nan")}],
)  # fmt: skip
def test_a_threat_model_refuses_what_makes_no_sense(fields: dict[str, object]) -> None:
    with pytest.raises(BadValue):
        ThreatModel().with_fields(fields)


def test_an_unknown_field_gets_the_nearest_name() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'delay'"):
        ThreatModel().with_fields({"dely": 3})


def test_the_card_says_what_the_attacker_knows() -> None:
    partial = ThreatModel(eps=0.3, weights="simulated", known=0.5).card()
    assert "0.5" in partial and "simulated copy" in partial and "private" in partial
    assert "50 more inputs" in ThreatModel(weights="adapted", delay=50).card()
    assert "do not change" in ThreatModel(queries=10).card()

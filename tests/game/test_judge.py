import math

import pytest
import torch

from bench.errors import BadImage
from bench.game.judge import admitted, as_images, distances, rule
from bench.threat import ThreatModel

X = torch.full((1, 3, 2, 2), 0.5)


def ruled(x_adv: torch.Tensor, **threat: object) -> str:
    return rule(X, x_adv, ThreatModel(**threat))[0].violation  # type: ignore[arg-type]


def test_distances_are_those_of_the_definitions() -> None:
    x_adv = X.clone()
    x_adv[0, 0, 0, 0] += 0.3
    x_adv[0, 1, 0, 0] -= 0.4  # the same pixel, another channel
    found = distances(X, x_adv)
    assert float(found["linf"]) == pytest.approx(0.4, abs=1e-7)
    assert float(found["l2"]) == pytest.approx(0.5, abs=1e-7)
    assert float(found["l1"]) == pytest.approx(0.7, abs=1e-6)
    assert float(found["l0"]) == 1


@pytest.mark.parametrize("step", [1, 2, 4, 8, 16])
def test_float32_arithmetic_at_the_border_is_no_violation(step: int) -> None:
    eps = step / 255
    assert ruled(X + eps, eps=eps) == "" and ruled(X - eps, eps=eps) == ""
    assert "above eps" in ruled(X + eps + 2e-6, eps=eps)


def test_each_norm_has_its_own_slack() -> None:
    one_more = X.clone()
    one_more[0, :, 0, 0] = 0.6
    assert ruled(one_more, norm="l0", eps=1) == ""
    assert "l0 distance 1" in ruled(one_more, norm="l0", eps=0)
    length = math.sqrt(3) * 0.1
    assert ruled(one_more, norm="l2", eps=length - 5e-6) == ""
    assert "l2" in ruled(one_more, norm="l2", eps=length - 5e-5)
    assert ruled(one_more, norm="l1", eps=0.3 - 5e-5) == ""
    assert "l1" in ruled(one_more, norm="l1", eps=0.3 - 5e-4)


def test_the_box_and_values_that_are_no_numbers() -> None:
    assert "outside [0, 1]" in ruled(torch.full_like(X, 1.1), eps=1)
    assert "outside [0, 1]" in ruled(torch.full_like(X, -0.1), eps=1)
    assert ruled(torch.full_like(X, 1 + 5e-7), eps=1) == ""
    assert ruled(X * torch.nan, eps=1) == "not finite"
    assert "not finite" in ruled(X * torch.inf, eps=1)


def test_what_is_no_image_is_refused() -> None:
    for wrong in (X[:, :1], [X], X.long(), None):
        with pytest.raises(BadImage):
            as_images(X, wrong)
    assert as_images(X, X.double().requires_grad_(True)).dtype == torch.float32


def test_a_violation_is_served_as_the_clean_image() -> None:
    x, x_adv = torch.cat([X, X]), torch.cat([X + 0.1, X + 0.3])
    rulings = rule(x, x_adv, ThreatModel(eps=0.2))
    assert torch.equal(admitted(x, x_adv, rulings), torch.cat([X + 0.1, X]))


def test_a_minimal_attack_has_no_radius() -> None:
    assert rule(X, X + 0.4, ThreatModel(eps=0.1), bounded=False)[0].violation == ""

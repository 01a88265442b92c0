"""PGD against closed forms and against a direct call of the library."""

import eagerpy as ep
import foolbox
import pytest
import torch
from torch import Tensor, nn

from bench.draws import Draws
from bench.game.judge import distances
from bench.norms import random_offset
from bench.pgd import pgd


class Linear(nn.Module):
    """Two classes, logits (w . x + b, 0): the margin of class 0 is w . x + b."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.w = torch.randn(16, generator=generator)

    def margin(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.w

    def forward(self, x: Tensor) -> Tensor:
        margin = self.margin(x)
        return torch.stack([margin, torch.zeros_like(margin)], dim=1)


@pytest.fixture
def points(generator: torch.Generator) -> Tensor:
    """Points so far inside the box that the ball does not touch it."""
    return torch.rand((5, 1, 4, 4), generator=generator) * 0.4 + 0.3


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
def test_on_a_linear_model_pgd_reaches_the_margin_minus_eps_times_the_dual_norm(
    points: Tensor, generator: torch.Generator, norm: str, dual: int
) -> None:
    model, eps = Linear(generator), 0.1
    y = torch.zeros(len(points), dtype=torch.int64)
    offset = random_offset(Draws(0, "x", range(len(points))), (1, 4, 4), eps, norm)  # type: ignore[arg-type]
    x_adv = pgd(model, points, y, eps=eps, steps=200, step_size=eps / 10, norm=norm, offset=offset)  # type: ignore[arg-type]
    expected = model.margin(points) - eps * model.w.norm(p=dual)
    assert torch.allclose(model.margin(x_adv), expected, atol=2e-4)
    assert float(distances(points, x_adv)[norm].max()) <= eps + 1e-6  # type: ignore[index]


def test_the_adapter_gives_what_a_direct_call_of_foolbox_gives(points: Tensor) -> None:
    """The same start handed to foolbox's own attack, by its own means."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    y = torch.tensor([0, 1, 2, 0, 1])
    offset = random_offset(Draws(5, "x", range(5)), (1, 4, 4), 0.2, "linf")

    class Direct(foolbox.attacks.LinfPGD):
        def get_random_start(self, x0: ep.Tensor, epsilon: float) -> ep.Tensor:
            return x0 + ep.astensor(offset)

    direct = Direct(abs_stepsize=0.02, steps=7)(
        foolbox.PyTorchModel(model, bounds=(0, 1)), points, foolbox.criteria.Misclassification(y), epsilons=0.2
    )[1]
    assert torch.equal(pgd(model, points, y, eps=0.2, steps=7, step_size=0.02, offset=offset), direct)


@pytest.mark.parametrize("step", [1, 2, 4, 8, 16])
def test_no_violation_at_any_small_radius(step: int, generator: torch.Generator) -> None:
    x = torch.rand((20, 1, 4, 4), generator=generator)
    eps = step / 255
    model = Linear(generator)
    offset = random_offset(Draws(1, "x", range(20)), (1, 4, 4), eps, "linf")
    x_adv = pgd(model, x, torch.zeros(20, dtype=torch.int64), eps=eps, steps=10, step_size=eps / 4, offset=offset)
    assert float(distances(x, x_adv)["linf"].max()) <= eps + 1e-6
    assert float(x_adv.min()) >= 0 and float(x_adv.max()) <= 1


def test_offsets_fill_the_ball_uniformly() -> None:
    linf = random_offset(Draws(0, "x", range(500)), (1, 2, 2), 0.3, "linf")
    assert float(linf.abs().max()) <= 0.3 and float(linf.abs().mean()) == pytest.approx(0.15, abs=0.01)
    l2 = random_offset(Draws(0, "x", range(2000)), (1, 1, 2), 0.3, "l2").flatten(1).norm(dim=1)
    assert float(l2.max()) <= 0.3
    # uniform in a disc: half of the points lie within 1 / sqrt(2) of the radius
    assert float((l2 <= 0.3 / 2**0.5).double().mean()) == pytest.approx(0.5, abs=0.04)


def test_without_a_radius_x_comes_back(points: Tensor, generator: torch.Generator) -> None:
    model = Linear(generator)
    assert torch.equal(pgd(model, points, torch.zeros(5, dtype=torch.int64), eps=0, steps=3, step_size=0.1), points)

"""PGD against closed forms and against a direct call of the library."""

import eagerpy as ep
import foolbox
import pytest
import torch
from torch import Tensor, nn

from bench.draws import Draws
from bench.errors import UnknownName
from bench.game.judge import distances
from bench.norms import DESCENDED, NORMS, ball_of, on_surface, random_offset
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


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2), ("l1", torch.inf)])
def test_on_a_linear_model_pgd_reaches_the_margin_minus_eps_times_the_dual_norm(
    points: Tensor, generator: torch.Generator, norm: str, dual: float
) -> None:
    model, eps = Linear(generator), 0.1
    y = torch.zeros(len(points), dtype=torch.int64)
    offset = random_offset(Draws(0, "x", range(len(points))), (1, 4, 4), eps, norm)
    x_adv = pgd(model, points, y, eps=eps, steps=200, step_size=eps / 10, norm=norm, offset=offset)
    expected = model.margin(points) - eps * model.w.norm(p=dual)
    assert torch.allclose(model.margin(x_adv), expected, atol=2e-4)
    assert float(distances(points, x_adv)[norm].max()) <= eps + 1e-6


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


def test_offsets_in_l1_fill_the_ball_uniformly() -> None:
    points = random_offset(Draws(0, "x", range(4000)), (1, 1, 2), 0.3, "l1").flatten(1)
    far = points.norm(p=1, dim=1)
    assert float(far.max()) <= 0.3 and float((far <= 0.3 / 2**0.5).double().mean()) == pytest.approx(0.5, abs=0.03)
    # a diamond: each quadrant holds a quarter, and in each half of the points lie nearer to one axis
    for signs in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        inside = points[(points.sign() == torch.tensor(signs)).all(1)].abs()
        assert len(inside) / 4000 == pytest.approx(0.25, abs=0.025)
        assert float((inside[:, 0] > inside[:, 1]).double().mean()) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("norm", DESCENDED)
def test_points_on_the_surface_are_at_the_radius(norm: str) -> None:
    inner = random_offset(Draws(0, "x", range(50)), (3, 4, 4), 0.3, norm)
    outer = on_surface(inner, 0.7, norm)
    assert torch.allclose(ball_of(norm).distance(outer), torch.tensor(0.7), atol=1e-5)
    assert torch.equal(outer.sign(), inner.sign())


def test_a_projection_onto_the_l1_ball_gives_its_nearest_point(generator: torch.Generator) -> None:
    """Inside and on the ball nothing moves. Outside, the nearest point p of v is the one on the surface for which no
    point of the ball is further along v - p: the largest product there is eps times the linf norm of v - p."""
    assert NORMS["l1"].project is not None
    eps = 0.5
    start = torch.randn((60, 2, 3, 3), generator=generator).double()
    length = torch.linspace(0.02, 2, 60).double()
    length[10] = eps
    offset = start * (length / ball_of("l1").distance(start)).view(-1, 1, 1, 1)
    moved = NORMS["l1"].project(offset, eps)
    inside = length <= eps
    assert 10 < int(inside.sum()) < 20 and torch.allclose(moved[inside], offset[inside], rtol=0, atol=1e-15)
    rest = (offset - moved)[~inside].flatten(1)
    assert torch.allclose(ball_of("l1").distance(moved[~inside]), torch.tensor(eps).double())
    assert torch.allclose((rest * moved[~inside].flatten(1)).sum(1), eps * rest.abs().amax(1))
    assert not NORMS["l1"].project(torch.zeros(1, 1, 2, 2), eps).any()


def test_a_step_of_ascent_in_l1_moves_the_largest_share_of_what_the_box_leaves_free() -> None:
    assert NORMS["l1"].ascent is not None
    gradient = torch.zeros(3, 2, 10, 10)
    gradient[0, 0, 0, :4] = torch.tensor([4.0, -3.0, 2.0, -1.0])
    gradient[1, 0, 0, :4] = torch.tensor([4.0, -3.0, 2.0, -1.0])
    x = torch.full_like(gradient, 0.5)
    x[1, 0, 0, 0], x[1, 0, 0, 1] = 1.0, 0.0  # already at the bounds that they would cross
    step = NORMS["l1"].ascent(gradient, x)
    assert step[0, 0, 0, :4].tolist() == [0.5, -0.5, 0.0, 0.0]  # 2 of 200 coordinates
    assert step[1, 0, 0, :4].tolist() == [0.0, 0.0, 0.5, -0.5]
    assert ball_of("l1").distance(step).tolist() == [1.0, 1.0, 0.0]


def test_distances_by_hand() -> None:
    delta = torch.tensor([[[[0.3, 0.0], [0.0, 0.0]], [[-0.4, 0.0], [0.0, 0.5]]]])
    found = {norm: round(float(ball.distance(delta)), 6) for norm, ball in NORMS.items()}
    assert found == {"linf": 0.5, "l2": round(0.5**0.5, 6), "l1": 1.2, "l0": 2.0}


def test_an_unknown_norm_is_an_error_everywhere(points: Tensor, generator: torch.Generator) -> None:
    draws, y = Draws(0, "x", range(5)), torch.zeros(5, dtype=torch.int64)
    calls = [
        lambda norm: random_offset(draws, (1, 4, 4), 0.1, norm),
        lambda norm: on_surface(points, 0.1, norm),
        lambda norm: pgd(Linear(generator), points, y, eps=0.1, steps=1, step_size=0.1, norm=norm),
    ]
    for call in calls:
        with pytest.raises(UnknownName, match="No norm is called 'l3'"):
            call("l3")
        with pytest.raises(UnknownName, match="'l0'"):  # it has no ball that anything descends in
            call("l0")


def test_without_a_radius_x_comes_back(points: Tensor, generator: torch.Generator) -> None:
    model = Linear(generator)
    assert torch.equal(pgd(model, points, torch.zeros(5, dtype=torch.int64), eps=0, steps=3, step_size=0.1), points)

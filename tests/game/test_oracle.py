import pytest
import torch
from torch import Tensor, nn

from bench.contracts import DefenseInfo
from bench.contracts.oracle import margins
from bench.errors import AccessDenied
from bench.game.oracle import GameOracle
from bench.threat import ThreatModel
from tests.conftest import spec_of
from tests.planted import Counting

INFO = DefenseInfo("d", "online", True, True)


def make(threat: ThreatModel, **extra: object) -> GameOracle:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    values: dict[str, object] = {"trained": net, "deployed": None, "fresh": lambda noise: None, **extra}
    oracle = GameOracle(threat, INFO, classes=10, **values)  # type: ignore[arg-type]
    oracle.begin(torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 2]), [10, 11, 12])
    return oracle


def test_nothing_is_handed_out_that_was_not_granted() -> None:
    oracle = make(ThreatModel(weights="none"))
    for call in (oracle.model, oracle.simulate, lambda: oracle.observed, lambda: oracle.query(torch.rand(1, 1, 2, 2))):
        with pytest.raises(AccessDenied):
            call()
    with pytest.raises(AccessDenied, match="crafts before it serves"):
        make(ThreatModel(weights="adapted")).model()
    with pytest.raises(AccessDenied, match="crafts before it serves"):
        make(ThreatModel(queries=3)).query(torch.rand(3, 1, 2, 2))
    for threat in (ThreatModel(weights="trained", bank=True), ThreatModel(weights="simulated")):
        with pytest.raises(AccessDenied):
            make(threat).simulate()


def test_what_is_handed_out_is_a_copy() -> None:
    """An attack that writes into the granted network does not write into the defense."""
    oracle = make(ThreatModel(weights="trained"))
    before = [weight.clone() for weight in oracle._trained.parameters()]
    with torch.no_grad():
        for weight in oracle.model().parameters():
            weight.zero_()
    assert all(torch.equal(a, b) for a, b in zip(before, oracle._trained.parameters(), strict=True))


def test_a_simulation_is_counted_and_its_proxy_recorded(resources) -> None:
    spec = spec_of("rmc", "clean")
    fresh = resources.of(spec).fitted().fork
    oracle = make(ThreatModel(weights="simulated", bank=True), fresh=fresh)
    x, y = resources.of(spec).points(spec.indices[:3])
    oracle.begin(x, y, spec.indices[:3])
    copy = oracle.simulate()
    state = copy.snapshot()
    copy.predict(x[:2])
    copy.fork().probe(x[:1])
    copy.restore(state)
    copy.proxy()(x)
    assert oracle.ledger.simulated == 3 and oracle.ledger.forwards.tolist() == [1, 1, 1]
    assert oracle.granted is not None


def test_margins_are_those_of_the_definition() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0], [5.0, 0.0, 4.5]])
    assert margins(logits, torch.tensor([1, 2])).tolist() == pytest.approx([1.0, -0.5])


def test_the_recorder_counts_forwards_and_backwards_per_example() -> None:
    oracle = make(ThreatModel(weights="trained", eps=0.5))
    model = oracle.model()
    x = torch.rand(3, 1, 2, 2).requires_grad_(True)
    model(x).sum().backward()
    with torch.no_grad():
        model(x)
        model(oracle._x[1:2])  # one image: it is counted for the example that it is closest to
    assert oracle.ledger.forwards.tolist() == [2, 3, 2]
    assert oracle.ledger.backwards.tolist() == [1, 1, 1]
    assert len(oracle.trace.margins) == 3 and oracle.trace.distances[2].tolist() == [0.0]


def test_a_fooling_image_counts_only_inside_the_ball() -> None:
    class Sign(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            total = x.flatten(1).sum(1)
            return torch.stack([0.5 - total, total - 0.5], 1)

    oracle = make(ThreatModel(weights="trained", eps=0.2), trained=Sign())
    x = torch.zeros(2, 1, 2, 2)
    oracle.begin(x, torch.zeros(2, dtype=torch.int64), [0, 1])
    model = oracle.model()
    step = x.clone()
    step[0] += 0.2  # inside: the sum is 0.8
    step[1] += 0.3  # fooling, but outside
    model(step)
    model(x)
    assert oracle.trace.fooled_inside(2, 0.2, 1e-6).tolist() == [True, False]


def test_queries_are_counted_budgeted_and_drawn_afresh(resources) -> None:
    spec = spec_of("regular", "clean")
    defense = Counting()
    defense.network = resources.of(spec).base().network
    defense.noise_key, defense.t = 5, 0
    oracle = make(ThreatModel(queries=2), deployed=defense, key=1)
    x, y = resources.of(spec).points(spec.indices[:2])
    oracle.begin(x, y, spec.indices[:2])
    first, second = oracle.query(x), oracle.query(x)
    assert not torch.equal(first, second) and defense.t == 0
    assert oracle.ledger.queries.tolist() == [2, 2]
    with pytest.raises(AccessDenied, match="budget of 2"):
        oracle.query(x)
    oracle.begin(x, y, spec.indices[:2])
    assert torch.equal(oracle.query(x), first)  # the draw is a function of example and count


def test_served_queries_change_the_deployed_state(resources) -> None:
    spec = spec_of("regular", "clean")
    defense = Counting()
    defense.network = resources.of(spec).base().network
    defense.noise_key, defense.t = 5, 0
    oracle = make(ThreatModel(queries=2, queries_served=True), deployed=defense, serve=defense.predict)
    x, y = resources.of(spec).points(spec.indices[:2])
    oracle.begin(x, y, spec.indices[:2])
    oracle.query(x)
    assert defense.t == 2


def test_simulated_copies_have_randomness_of_their_own_unless_it_is_shared() -> None:
    made: list[int] = []
    fresh = lambda noise: made.append(noise) or Counting()  # noqa: E731
    private = make(ThreatModel(weights="simulated", bank=True), fresh=fresh, deployed_noise_key=77)
    private.simulate(), private.simulate()
    make(
        ThreatModel(weights="simulated", bank=True, randomness="shared"), fresh=fresh, deployed_noise_key=77
    ).simulate()
    assert made[2] == 77 and len(set(made)) == 3

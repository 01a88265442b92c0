import torch

from bench.draws import Draws, generator, seed_of


def test_a_seed_is_a_function_of_its_parts_and_of_their_order() -> None:
    assert seed_of(1, "a", 2) == seed_of(1, "a", 2)
    assert len({seed_of(1, "a", 2), seed_of(1, "a", 3), seed_of(2, "a", 1), seed_of("1a", 2)}) == 4
    assert 0 <= seed_of("x") < 2**63


def test_an_example_draws_the_same_in_any_company() -> None:
    together = Draws(7, "start", [3, 5, 9]).uniform((2, 2), -1, 1)
    alone = Draws(7, "start", [5]).uniform((2, 2), -1, 1)
    assert torch.equal(together[1:2], alone)
    assert together.min() >= -1 and together.max() < 1
    assert torch.equal(Draws(7, "start", [3, 5, 9]).normal((4,))[1:2], Draws(7, "start", [5]).normal((4,)))


def test_an_examples_generator_moves_on() -> None:
    draws = Draws(7, "start", [3, 5])
    first, second = draws.uniform((4,)), draws.uniform((4,))
    assert not torch.equal(first, second)
    again = Draws(7, "start", [3, 5])
    assert torch.equal(torch.rand(8, generator=again[1]), torch.cat([first[1], second[1]]))


def test_purposes_are_independent_and_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = Draws(7, "start", [3])
    assert not torch.equal(first.uniform((8,)), first.sub(1).uniform((8,)))
    generator(1, 2).initial_seed()
    assert torch.equal(torch.get_rng_state(), before)

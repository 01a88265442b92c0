"""The protocols, played by hand on small defenses whose answers can be computed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench import registry
from bench.cache import MANIFEST, Cache
from bench.errors import BadValue
from bench.game.chunks import Chunk
from bench.game.resources import Resources
from bench.game.serving import Serving
from bench.planning.rules import rules_of as protocol_of
from bench.planning.spec import RunSpec
from bench.rows import Resume, Row, image_hash
from tests import planted
from tests.conftest import plan_quick, spec_of


@pytest.fixture(autouse=True)
def plugins() -> None:
    registry.register_defense("wrapped", planted.Wrapped)
    registry.register_defense("counting", planted.Counting)
    registry.register_defense("batched", planted.Batched)
    registry.register_attack(
        "replayer", planted.Replayer, preset={"weights": "simulated", "bank": True}, protocol="replay"
    )
    registry.register_attack("asker", planted.Asker, preset={"queries": 2}, free=("queries", "queries_served"))


def play(resources: Resources, spec: RunSpec, game: int, resume: Resume) -> Iterator[Chunk]:
    chunks: Iterator[Chunk] = protocol_of(spec.game).play(resources.match(spec, game), resume)
    return chunks


def places_of(spec: RunSpec, game: int) -> list[int]:
    places: list[int] = protocol_of(spec.game).places(spec, game)
    return places


def background_of(spec: RunSpec, game: int) -> list[int]:
    indices: list[int] = protocol_of(spec.game).background(spec, game)
    return indices


def rows_of(resources: Resources, spec: RunSpec, game: int = 0, resume: Resume | None = None) -> list[Row]:
    return [row for chunk in play(resources, spec, game, resume or Resume()) for row in chunk.rows]


def stopped_after(resources: Resources, spec: RunSpec, chunks: int) -> tuple[list[Row], Resume]:
    """The rows of the first game's first chunks, and where it goes on."""
    playing = play(resources, spec, 0, Resume())
    head = [next(playing) for _ in range(chunks)]
    playing.close()
    done = head[-1]
    rows = [row for chunk in head for row in chunk.rows]
    return rows, Resume(done.rows[-1].position + 1, done.served, done.digest)


def facts(rows: list[Row]) -> list[Row]:
    """Rows without their seconds."""
    return [replace(row, attack_s=0.0, defense_s=0.0) for row in rows]


def apart(resources: Resources, tmp_path: Path, **settings: object) -> Resources:
    """Resources whose states are their own, and whose bases and banks are the shared ones."""
    for kind in ("bases", "banks"):
        (tmp_path / "own").mkdir(exist_ok=True)
        shared, target = resources.settings.cache_root / kind, tmp_path / "own" / kind
        shared.mkdir(exist_ok=True)  # a link to nothing is no folder
        if not target.exists():
            target.symlink_to(shared)
    return Resources(replace(resources.settings, cache_root=tmp_path / "own", **settings))  # type: ignore[arg-type]


def test_a_stream_serves_every_point_once_in_the_seeded_order(resources: Resources) -> None:
    spec = spec_of("counting", "clean", n=7)
    rows = rows_of(resources, spec)
    assert [row.index for row in rows] == spec.indices and [row.position for row in rows] == list(range(7))
    defense = resources.of(spec).fitted().fork(spec.noise_key(0))
    x, y = resources.of(spec).points(spec.indices)
    assert [row.answer for row in rows] == defense.predict(x).argmax(1).tolist()
    assert [row.label for row in rows] == y.tolist()
    assert rows[3].x_sha256 == rows[3].adv_sha256 == image_hash(x[3]) and rows[3].distances["linf"] == 0


def test_repeats_permute_the_stream_and_have_their_own_noise(resources: Resources) -> None:
    spec = plan_quick("counting", "clean", 9, {"game.repeats": 3})
    first, second = rows_of(resources, spec, 0), rows_of(resources, spec, 1)
    assert sorted(row.index for row in second) == sorted(row.index for row in first)
    assert [row.index for row in second] != [row.index for row in first] and {row.game for row in second} == {1}
    assert places_of(spec, 1) != places_of(spec, 2) and spec.noise_key(1) != spec.noise_key(2)


def test_an_attack_on_a_stream_is_crafted_against_the_state_that_serves(resources: Resources) -> None:
    """pgd-skip in the protocol stream: point i is crafted on theta after i answers."""
    spec = spec_of("rmc", "pgd-skip", n=3, game__protocol="stream")
    rows = rows_of(resources, spec)
    defense = resources.of(spec).fitted().fork(spec.noise_key(0))
    x, y = resources.of(spec).points(spec.indices)
    attack = resources.of(spec).attack
    for i, row in enumerate(rows):
        serving = resources.of(spec).served(defense)
        oracle = resources.of(spec).oracle(0, serving)
        from bench.game.crafting import craft

        images = craft(attack, oracle, x[i : i + 1], y[i : i + 1], spec, [spec.indices[i]]).images
        assert row.adv_sha256 == image_hash(images[0])
        assert row.answer == int(defense.predict(images).argmax())


def test_images_crafted_on_the_base_are_made_once_for_all_runtime_defenses(
    resources: Resources, tmp_path: Path
) -> None:
    own = apart(resources, tmp_path)
    regular = rows_of(own, spec_of("regular", "pgd", n=20))
    files = list((tmp_path / "own" / "crafts").iterdir())
    wrapped = rows_of(own, spec_of("wrapped", "pgd", n=20))
    assert facts(regular) == facts(wrapped) and list((tmp_path / "own" / "crafts").iterdir()) == files
    assert [row.attack_s for row in regular] == [row.attack_s for row in wrapped] != [0.0] * 20
    longer = rows_of(own, spec_of("regular", "pgd", n=50))
    assert facts(longer)[:20] == facts(regular)
    assert {row.forwards for row in regular} == {5} == {row.backwards for row in regular}
    assert all(row.believed is not None for row in regular)


@pytest.mark.parametrize("cut", [1, 4, 6])
def test_a_stream_goes_on_from_any_chunk_as_if_it_had_not_stopped(
    resources: Resources, tmp_path: Path, cut: int
) -> None:
    spec = spec_of("rmc-plus", "pgd", n=8)
    whole = rows_of(resources, spec)
    own = apart(resources, tmp_path, chunk=1)
    head, resume = stopped_after(own, spec, cut)
    tail = rows_of(Resources(own.settings), spec, 0, resume)
    assert facts(head + tail) == facts(whole)
    lost = rows_of(own, spec, 0, replace(resume, digest="0" * 64))  # the state is gone: from the start
    assert facts(lost) == facts(whole)


ONE = {"game__p": 2, "game__trials": 1}
SMALL = {
    "tent": {"base__model": "cifar-resnet20", "base__epochs": 1, "defense__batch_size": 2},
    "dent": {"defense__batch_size": 2, "defense__steps": 1},
    "purify": {"defense__noise": "0.1", "defense__epochs": 1, "defense__width": 4, **ONE},
    "rmc": {"defense__k": 32, "attack__candidates": 2, "attack__victims": 2, "attack__ahead": 1},
    "blacklight": {"threat__queries": 8, "attack__squares": 2, "attack__probes": 1},
    "random-transform": {"attack__samples": 2, "attack__steps": 2, **ONE},
    "hedge": {"defense__steps": 2, "attack__through": 1, "attack__steps": 2, **ONE},
}


@pytest.mark.parametrize(
    ("defense", "attack"),
    [
        ("tent", "repeat"), ("tent", "rttdp"), ("dent", "dia"), ("rmc", "greedy-poison"), ("blacklight", "oars:square"),
        ("purify", "diffhammer"), ("random-transform", "eot:bpda:pgd-skip"), ("hedge", "apgd-unrolled"),
    ],
)  # fmt: skip
def test_a_game_that_stopped_anywhere_goes_on_and_repeats(
    resources: Resources, tmp_path: Path, defense: str, attack: str
) -> None:
    spec = spec_of(defense, attack, n=4, **SMALL[defense])
    whole = rows_of(resources, spec)
    assert not [row for row in whole if row.violation]
    own = apart(resources, tmp_path, chunk=1)
    if spec.kind == "static":  # its few examples are answered in one block
        assert facts(rows_of(own, spec)) == facts(whole)
        return
    head, resume = stopped_after(own, spec, 1)
    assert 0 < len(head) < len(whole)
    assert facts(head + rows_of(Resources(own.settings), spec, 0, resume)) == facts(whole)


def test_a_probe_answers_victims_from_one_state_x_and_x_adv_both(resources: Resources) -> None:
    spec = spec_of("rmc", "pgd-skip-delayed", n=6, game__p=4, game__trials=2, threat__delay=3)
    for game in range(2):
        rows = rows_of(resources, spec, game)
        own = [spec.order[place] for place in places_of(spec, game)]
        background = background_of(spec, game)
        assert [row.index for row in rows] == own and len(background) == 7 and not set(background) & set(own)
        defense = resources.of(spec).fitted().fork(spec.noise_key(game))
        past, _ = resources.of(spec).points(background)
        x, y = resources.of(spec).points(own)
        defense.predict(past[:4])
        oracle = resources.of(spec).oracle(game, resources.of(spec).served(defense))
        oracle.begin(x, y, own)
        from bench.draws import Draws

        images = resources.of(spec).attack.perturb(oracle, x, y, Draws(spec.seed, "attack", own))
        defense.predict(past[4:])
        assert [row.adv_sha256 for row in rows] == [image_hash(image) for image in images]
        assert [row.answer for row in rows] == defense.probe(images).argmax(1).tolist()
        assert [row.clean_answer for row in rows] == defense.probe(x).argmax(1).tolist()
        assert {row.believed for row in rows} <= {True, False}


def test_a_longer_delay_extends_a_shorter_and_takes_its_state_up(resources: Resources, tmp_path: Path) -> None:
    short = spec_of("rmc", "pgd-skip-delayed", n=2, game__p=4, game__trials=1, threat__delay=0)
    long = spec_of("rmc", "pgd-skip-delayed", n=2, game__p=4, game__trials=1, threat__delay=3)
    assert background_of(long, 0)[:4] == background_of(short, 0)
    expected = facts(rows_of(resources, long))
    own = apart(resources, tmp_path)
    rows_of(own, short)
    served: list[int] = []
    original = Serving.serve
    Serving.serve = lambda self, x: served.append(len(x)) or original(self, x)  # type: ignore[method-assign]
    try:
        assert facts(rows_of(own, long)) == expected
    finally:
        Serving.serve = original  # type: ignore[method-assign]
    assert sum(served) == 3  # the first four were taken up


def test_partial_sight_is_full_sight_at_one_with_shared_randomness(resources: Resources) -> None:
    values = {"game__p": 5, "game__trials": 1}
    full = rows_of(resources, spec_of("rmc", "pgd-skip", n=3, **values))
    shared = {"threat__known": 1, "threat__randomness": "shared"}
    partial = rows_of(resources, spec_of("rmc", "pgd-skip-partial", n=3, **values, **shared))
    assert [row.adv_sha256 for row in partial] == [row.adv_sha256 for row in full]
    assert sum(row.simulated for row in partial) == 5
    half = rows_of(resources, spec_of("rmc", "pgd-skip-partial", n=3, **values, threat__known=0.5))
    assert 0 < sum(row.simulated for row in half) < 5 and [row.adv_sha256 for row in half] != [
        row.adv_sha256 for row in full
    ]
    none = rows_of(resources, spec_of("rmc", "pgd-skip-partial", n=3, **values, threat__known=0))
    trained = rows_of(resources, spec_of("rmc", "pgd", n=3, game__protocol="probe", **values))
    assert [row.adv_sha256 for row in none] == [row.adv_sha256 for row in trained]  # who saw nothing has theta_0


def test_pgd_skip_against_a_static_defense_is_white_box_pgd(resources: Resources) -> None:
    skip = rows_of(resources, spec_of("regular", "pgd-skip", n=10, game__p=3, game__trials=1))
    pgd = rows_of(resources, spec_of("regular", "pgd", n=10))
    agree = sum(a.adv_sha256 == b.adv_sha256 for a, b in zip(skip, pgd, strict=True))
    # blocks of other sizes (10 and 100) may differ in the last bits of a gradient that is almost zero
    assert agree >= 9 and [row.answer for row in skip] == [row.answer for row in pgd]


def test_replay_crafts_on_simulated_copies_and_judges_on_a_fresh_defense(resources: Resources) -> None:
    spec = spec_of("rmc", "replayer", n=4)
    rows = rows_of(resources, spec)
    x, y = resources.of(spec).points(spec.indices)
    oracle = resources.of(spec).oracle(0, None)
    oracle.begin(x, y, spec.indices)
    copy = oracle.simulate()
    assert copy._defense.noise_key != spec.noise_key(0)  # private randomness
    from bench.draws import Draws

    oracle.begin(x, y, spec.indices)
    images = resources.of(spec).attack.perturb(oracle, x, y, Draws(spec.seed, "attack", spec.indices))
    assert [row.adv_sha256 for row in rows] == [image_hash(image) for image in images]
    fresh = resources.of(spec).fitted().fork(spec.noise_key(0))
    assert [row.answer for row in rows] == fresh.predict(images).argmax(1).tolist()


def test_a_replayed_sequence_is_crafted_in_the_order_that_it_is_served(resources: Resources) -> None:
    spec = plan_quick("rmc", "replayer", 5, {"game.repeats": 2})
    order = [spec.order[place] for place in places_of(spec, 1)]
    assert order != spec.indices
    seen: list[torch.Tensor] = []

    class Watching(planted.Replayer):
        def perturb(self, oracle, x, y, draws):  # type: ignore[no-untyped-def]
            seen.append(x)
            return super().perturb(oracle, x, y, draws)

    registry.attacks._entries["replayer"] = replace(registry.attacks["replayer"], target=Watching)
    rows = rows_of(resources, spec, 1)
    assert torch.equal(seen[0], resources.of(spec).points(order)[0]) and [row.index for row in rows] == order


def test_how_a_stream_is_cut_into_batches_is_part_of_its_digest(resources: Resources, tmp_path: Path) -> None:
    spec = spec_of("batched", "clean", n=12)
    own = apart(resources, tmp_path)
    x, _ = own.of(spec).points(spec.indices)
    short, long = own.of(spec).serving(1), own.of(spec).serving(1)
    short.catch_up(x[:10])  # 4, 4, 2
    long.catch_up(x)  # 4, 4, 4: takes the state after 8 up, and not the one after 10
    assert long.cost.answers == 12 and long.defense.snapshot().facts == {"batches": 3}
    with pytest.raises(BadValue, match="multiples"):
        spec_of("batched", "pgd-skip", n=3, game__p=6, game__trials=1)
    assert "a query needs company" in str(resources.of(spec_of("batched", "asker", n=4)).declined())
    assert resources.of(spec_of("batched", "pgd", n=4)).declined() is None


def test_an_attack_cannot_write_into_the_defense(resources: Resources) -> None:
    class Vandal(planted.Attack):
        def perturb(self, oracle, x, y, draws):  # type: ignore[no-untyped-def]
            with torch.no_grad():
                for weight in oracle.model().parameters():
                    weight.zero_()
            return x

    for name, weights in (("vandal", "trained"), ("vandal-skip", "adapted")):
        registry.register_attack(name, Vandal, preset={"weights": weights, "bank": True})
    for defense in ("regular", "rmc", "deepnn"):
        clean = [row.answer for row in rows_of(resources, spec_of(defense, "clean", n=4))]
        for attack in ("vandal", "vandal-skip"):
            own = Resources(replace(resources.settings, cache_root=resources.settings.cache_root))
            assert [row.answer for row in rows_of(own, spec_of(defense, attack, n=4))] == clean
            assert [row.answer for row in rows_of(own, spec_of(defense, "clean", n=4))] == clean


def test_queries_are_in_the_rows_and_served_ones_move_the_stream(resources: Resources) -> None:
    quiet = rows_of(resources, spec_of("counting", "asker", n=4))
    assert {row.queries for row in quiet} == {2} and {row.believed for row in quiet} == {None}
    spec = spec_of("counting", "asker", n=4, threat__queries_served="true")
    last = list(play(resources, spec, 0, Resume()))[-1]
    assert last.served == 4 + 8  # four points and two served queries for each


def test_a_batch_defense_serves_whole_batches_and_flags_a_short_one(resources: Resources) -> None:
    spec = spec_of("batched", "clean", n=10)
    match = resources.match(spec, 0)
    chunks = list(protocol_of(spec.game).play(match, Resume()))
    rows = [row for chunk in chunks for row in chunk.rows]
    x, _ = resources.of(spec).points(spec.indices)
    defense = resources.of(spec).fitted().fork(0)
    expected = torch.cat([defense.answer_batch(x[:4]), defense.answer_batch(x[4:8]), defense.answer_batch(x[8:])])
    assert [row.answer for row in rows] == expected.argmax(1).tolist()
    assert match.meter.flags == {"short-batch": "the last batch of a game holds 2 of 4 points"}
    assert spec.game.batch == 4 and spec.key != replace(spec, game=replace(spec.game, batch=5)).key


def test_a_batch_defense_is_probed_in_the_company_of_the_next_background(resources: Resources) -> None:
    spec = spec_of("batched", "pgd-skip", n=3, game__p=4, game__trials=1)
    rows = rows_of(resources, spec)
    background = background_of(spec, 0)
    assert len(background) == 4 + 3
    past, _ = resources.of(spec).points(background)
    defense = resources.of(spec).fitted().fork(0)
    defense.predict(past[:4])
    x, _ = resources.of(spec).points([row.index for row in rows])
    for point, row in zip(x, rows, strict=True):
        assert row.clean_answer == int(defense.fork().predict(torch.cat([past[4:], point[None]]))[-1].argmax())


def test_a_violation_is_judged_as_the_clean_image(resources: Resources) -> None:
    registry.register_attack("outside", planted.LeavesTheBall)
    rows = rows_of(resources, spec_of("regular", "outside", n=12))
    clean = rows_of(resources, spec_of("regular", "clean", n=12))
    assert all("above eps" in row.violation for row in rows)
    assert [row.answer for row in rows] == [row.answer for row in clean]
    assert all(row.distances["linf"] > 0.2 for row in rows) and rows[0].adv_sha256 != rows[0].x_sha256


def test_states_are_found_by_what_led_to_them(resources: Resources, tmp_path: Path) -> None:
    spec = spec_of("rmc", "clean", n=5)
    own = apart(resources, tmp_path)
    x, _ = own.of(spec).points(spec.indices)
    one, other, noisy = (own.of(spec).serving(key) for key in (1, 1, 2))
    one.catch_up(x[:3])
    digests = {one.digest}
    other.catch_up(x[[1, 0, 2]])
    noisy.catch_up(x[:3])
    assert len(digests | {other.digest, noisy.digest}) == 3
    again = own.of(spec).serving(1)
    again.catch_up(x[:3])
    assert again.digest == one.digest and again.seconds == 0
    assert torch.equal(again.probe(x[3:]), one.probe(x[3:]))


def test_checkpoints_on_the_way_do_not_pile_up(resources: Resources, tmp_path: Path) -> None:
    spec = spec_of("rmc", "clean", n=5)
    own = apart(resources, tmp_path, checkpoint_s=1e-9)  # one after every answer
    x, _ = own.of(spec).points(spec.indices)
    first = own.of(spec).serving(1)
    first.catch_up(x[:2])
    kept = own.of(spec).serving(1)
    kept.catch_up(x)  # passes the state after two points, which is somebody else's
    states = {path.name for path in (tmp_path / "own" / "states").iterdir()}
    assert states == {first.digest, kept.digest}


def test_the_cache_is_atomic_and_takes_no_path_from_a_name(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    for name in ("../x", "a/b", ""):
        with pytest.raises(ValueError):
            cache.path("states", name)

    def broken(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        cache.get_or_build("bases", "abc", broken)
    assert not cache.has("bases", "abc")
    made = cache.get_or_build("bases", "abc", lambda folder: (folder / "whole").touch())
    assert {file.name for file in made.iterdir()} == {"whole", MANIFEST}


def test_a_state_that_takes_long_to_store_is_stored_rarely(
    resources: Resources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the rows wait for it: what is committed is what a kill leaves to go on from."""
    own = apart(resources, tmp_path, chunk=1)
    spec = spec_of("counting", "clean", n=6)
    every = list(play(own, spec, 0, Resume()))
    assert len(every) == 6
    monkeypatch.setattr(Serving, "rest_s", 1000.0)
    (tmp_path / "again").mkdir()
    (alone,) = play(apart(resources, tmp_path / "again", chunk=1), spec, 0, Resume())
    assert facts(alone.rows) == facts([row for chunk in every for row in chunk.rows])


def test_the_rest_before_a_state_follows_from_what_the_last_one_took(resources: Resources) -> None:
    serving = resources.of(spec_of("counting", "clean")).serving(3)
    for took, rest in ((0.01, 0.0), (2.0, 100.0)):
        serving._store_s = took
        assert serving.rest_s == rest

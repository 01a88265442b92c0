"""faiss against a brute-force search; the bank against its definition."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from dataclasses import replace

import numpy as np
import pytest
import torch

from bench.contracts import Context
from bench.data.digits import Digits
from bench.data.task import TaskParams
from bench.errors import BadValue
from defenses import neighbours
from defenses.array_file import new_array
from defenses.bank import Bank, features_of, stored_towards
from defenses.bank_builder import BankBuilder, BankParams, BankRecipe
from defenses.neighbours import Neighbours, write_index
from defenses.rmc import RMC
from tests.conftest import spec_of


def brute_force(features: np.ndarray, query: np.ndarray, k: int, ids: np.ndarray | None = None) -> list[int]:
    ids = np.arange(len(features)) if ids is None else ids
    squared = ((features.astype(np.float64) - query.astype(np.float64)) ** 2).sum(1)
    return sorted(ids.tolist(), key=lambda i: (squared[ids.tolist().index(i)], i))[:k]


def everything(index: Neighbours) -> np.ndarray:
    """All features of an index, as a copy."""
    return index.take(np.arange(len(index))).copy()


def test_the_search_is_exact_and_settles_ties_by_id() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(400, 8)).astype(np.float32)
    features[200:] = features[:200]  # every distance twice
    index = Neighbours(features)
    for query in rng.normal(size=(20, 8)).astype(np.float32):
        assert index.search(query, 33).ids.tolist() == brute_force(features, query, 33)


def test_hidden_rows_are_not_found() -> None:
    rng = np.random.default_rng(1)
    features = rng.normal(size=(100, 4)).astype(np.float32)
    mask = rng.random(104) < 0.5
    hidden = np.packbits(mask, bitorder="little")
    shown = np.flatnonzero(~mask[:100])
    found = Neighbours(features).search(features[0], 20, hidden).ids.tolist()
    assert found == brute_force(features[shown], features[0], 20, shown)


def test_more_neighbours_than_rows_are_all_rows() -> None:
    features = np.eye(3, dtype=np.float32)
    assert sorted(Neighbours(features).search(features[1], 10).ids.tolist()) == [0, 1, 2]


def small_bank(rows: int = 60) -> Bank:
    rng = np.random.default_rng(2)
    features = rng.normal(size=(rows, 5)).astype(np.float32)
    images = rng.integers(0, 255, (rows, 1, 2, 2), dtype=np.uint8)
    return Bank(images, np.arange(rows) % 10, Neighbours(features), rows // 2, 255)


def test_replaced_rows_are_searched_and_gathered_as_a_rebuilt_index_would() -> None:
    bank, rng = small_bank(), np.random.default_rng(3)
    features, images = everything(bank.index), np.array(bank.images)
    for _ in range(4):  # rows are replaced again and again
        rows = np.sort(rng.choice(60, 12, replace=False))
        new_images = rng.integers(0, 255, (12, 1, 2, 2), dtype=np.uint8)
        new_features = rng.normal(size=(12, 5)).astype(np.float32)
        bank = bank.replaced(rows, new_images, new_features)
        features[rows], images[rows] = new_features, new_images
        query = rng.normal(size=5).astype(np.float32)
        assert bank.search(query, 15).ids.tolist() == brute_force(features, query, 15)
        assert np.array_equal(bank.gather(np.arange(60)), images)
    assert bank.frozen().search(query, 15).ids.tolist() == small_bank().search(query, 15).ids.tolist()


def test_a_replacement_leaves_the_bank_that_it_came_from_alone() -> None:
    bank = small_bank()
    first = bank.replaced(np.array([3]), np.zeros((1, 1, 2, 2), np.uint8), np.zeros((1, 5), np.float32))
    kept = first.gather(np.arange(60)).copy()
    first.replaced(np.array([3, 4]), np.ones((2, 1, 2, 2), np.uint8), np.ones((2, 5), np.float32))
    assert np.array_equal(first.gather(np.arange(60)), kept) and bank.overlay is None


def test_copies_are_rounded_towards_their_image() -> None:
    images = np.array([[[[100, 100, 100, 0, 255]]]], dtype=np.uint8)
    x_adv = torch.tensor([[[[100.9, 99.1, 99.9, 0.0, 254.4]]]]) / 255
    assert stored_towards(images, x_adv, 255).ravel().tolist() == [100, 100, 100, 0, 255]
    far = torch.tensor([[[[102.5, 97.5, 100, 3.7, 251.2]]]]) / 255
    assert stored_towards(images, far, 255).ravel().tolist() == [102, 98, 100, 3, 252]


@pytest.fixture
def builder(resources) -> BankBuilder:
    spec = spec_of("rmc", "clean")
    task = Digits.load(TaskParams(), None)
    context = Context(0, 0, torch.device("cpu"), resources.cache, resources.artefact(spec.base_key))
    return BankBuilder(BankRecipe((3, 3), 0.05, 0.2), task, resources.of(spec).base(), context)


def test_the_bank_holds_the_training_set_and_copies_in_the_ball(builder: BankBuilder) -> None:
    bank = builder.build()
    task, clean = builder.task, builder.task.facts.train_size
    assert len(bank) == 3 * clean and bank.images.dtype == np.uint8 and bank.clean == clean
    assert np.array_equal(bank.images[:clean], task.train_images)
    assert np.array_equal(bank.labels, np.tile(task.train_labels, 3))
    copies = bank.images[clean:].astype(int).reshape(2, clean, -1)
    distance = np.abs(copies - task.train_images.astype(int).reshape(1, clean, -1)) / task.pixel_scale
    assert 0.1 < distance.max() <= 0.2 and not np.array_equal(copies[0], copies[1])
    rows = np.array([0, clean, 2 * clean + 5])
    expected = features_of(builder.base.network, task.pixels(bank.images[rows]))
    assert np.allclose(bank.index.take(rows), expected, atol=1e-5)
    assert bank.originals(rows).tolist() == [0, 0, 5]


def test_a_copy_of_one_step_is_fgsm_and_the_others_are_pgd(builder: BankBuilder) -> None:
    recipe = BankParams(copies=3, bank_steps="40,1", eps=0.2).bank_recipe()
    assert recipe.steps == (40, 1, 40)
    task, network, rows = builder.task, builder.base.network, np.arange(64)
    made = BankBuilder(recipe, task, builder.base, builder.context)._copies(rows, 1)
    x = task.pixels(task.train_images[rows]).requires_grad_()
    loss = torch.nn.functional.cross_entropy(network(x), torch.from_numpy(task.train_labels[rows]))
    (gradient,) = torch.autograd.grad(loss, x)
    fgsm = (x.detach() + 0.2 * gradient.sign()).clamp(0, 1)
    assert np.array_equal(made, stored_towards(task.train_images[rows], fgsm, task.pixel_scale))


@pytest.mark.parametrize("given", ["", "40,", "0", "40,-1", "many", "1.5"])
def test_steps_of_copies_that_make_no_sense_are_refused(given: str) -> None:
    with pytest.raises(ValueError, match="steps of at least 1"):
        BankParams(bank_steps=given)


def test_steps_for_copies_that_are_not_made_are_refused(builder: BankBuilder) -> None:
    with pytest.raises(BadValue, match=r"defense\.bank_steps is 40,1, but defense\.copies is 1"):
        RMC.validate(RMC.Params(k=10, bank_steps="40,1"), builder.task.facts)


def test_steps_of_copies_are_given_as_a_number_a_list_or_text() -> None:
    given = [40, "40", [40, 1], (40, 1), "40, 1"]
    assert [BankParams(bank_steps=steps).bank_steps for steps in given] == ["40", "40", "40,1", "40,1", "40,1"]


def test_a_bank_from_pieces_is_the_bank_from_one(builder: BankBuilder, tmp_path, monkeypatch) -> None:
    from bench.cache import Cache
    from defenses import bank_builder

    whole = builder.build()
    monkeypatch.setattr(bank_builder, "PIECE", 500)
    parts = BankBuilder(builder.recipe, builder.task, builder.base, replace(builder.context, cache=Cache(tmp_path)))
    assert parts.missing() == ["0", "500", "1000"]
    parts.make_piece("500")
    assert parts.missing() == ["0", "1000"]
    built = parts.build()
    assert np.array_equal(built.images, whole.images) and np.array_equal(
        everything(built.index), everything(whole.index)
    )
    assert parts.missing() == [] and not list((tmp_path / "pieces").glob("*-500"))


def shards_of(tmp_path, features: np.ndarray, kind: str, monkeypatch, rows: int = 64) -> Neighbours:
    """An index on disk of shards of so many rows, written from parts of 50."""
    monkeypatch.setattr(neighbours, "SHARD_BYTES", rows * 4 * features.shape[1])
    write_index(tmp_path, (features[start : start + 50] for start in range(0, len(features), 50)), kind)
    assert len(list(tmp_path.glob("index-*.faiss"))) == -(-len(features) // rows)
    return Neighbours.opened(tmp_path, probes=10**6)


@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_shards_on_disk_are_searched_as_one_index(tmp_path, monkeypatch, kind: str) -> None:
    """With every list looked into, `ivf` is exact too."""
    rng = np.random.default_rng(4)
    features = rng.normal(size=(300, 6)).astype(np.float32)
    index = shards_of(tmp_path, features, kind, monkeypatch)
    assert np.array_equal(everything(index), features)
    mask = rng.random(304) < 0.4
    hidden, shown = np.packbits(mask, bitorder="little"), np.flatnonzero(~mask[:300])
    for query in rng.normal(size=(10, 6)).astype(np.float32):
        assert index.search(query, 40).ids.tolist() == brute_force(features, query, 40)
        assert index.search(query, 40, hidden).ids.tolist() == brute_force(features[shown], query, 40, shown)
        assert index.search(query, 40, below=100).ids.tolist() == brute_force(features[:100], query, 40)


@pytest.mark.parametrize(("dtype", "shape"), [("uint8", (7, 3, 2, 2)), ("float32", (5, 4)), ("int64", (0, 2))])
def test_an_array_is_written_part_by_part_in_any_order(tmp_path, dtype: str, shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    with new_array(tmp_path / "x.npy", dtype, shape) as write:
        for first in (3, 0):
            write(first, array[first : first + 4 if first else 3])
    read = np.load(tmp_path / "x.npy")
    assert read.dtype == array.dtype and np.array_equal(read, array)


def test_few_lists_find_most_neighbours_and_never_others(tmp_path, monkeypatch) -> None:
    rng = np.random.default_rng(5)
    features = rng.normal(size=(2000, 4)).astype(np.float32)
    write_index(tmp_path, iter([features]), "ivf")
    index = Neighbours.opened(tmp_path, probes=6)
    found = [len(set(index.search(q, 20).ids) & set(brute_force(features, q, 20))) for q in features[:30]]
    assert 0.5 < np.mean(found) / 20 < 1  # approximate, as said
    ranked = index.search(features[0], 20)
    assert ranked.ids[0] == 0 and (np.diff(ranked.squared) >= 0).all()


def test_histograms_count_the_labels_of_the_nearest(builder: BankBuilder) -> None:
    bank = builder.build()
    query = features_of(builder.base.network, builder.task.pixels(builder.task.test_images[:1]))[0]
    counted = bank.histograms(query, 50, 10)
    features = everything(bank.index)
    nearest = brute_force(features, query, 50), brute_force(features[: bank.clean], query, 50)
    assert counted["D'"] == np.bincount(bank.labels[nearest[0]], minlength=10).tolist()
    assert counted["D"] == np.bincount(bank.labels[nearest[1]], minlength=10).tolist()


def test_a_smaller_bank_is_a_part_of_a_larger(builder: BankBuilder) -> None:
    def built(size: int) -> Bank:
        recipe = replace(builder.recipe, steps=(3,), size=size)
        return BankBuilder(recipe, builder.task, builder.base, builder.context).build()

    small, large = built(100), built(400)
    assert (small.clean, len(small), large.clean) == (100, 200, 400)
    rows = {image.tobytes() for image in large.images[:400]}
    assert all(image.tobytes() in rows for image in small.images[:100])


def test_a_large_bank_is_made_and_searched_in_bounded_memory(tmp_path) -> None:
    """200 MB of images on disk; what the process itself holds (not the mapped files) stays far below."""
    code = """
        import numpy as np, torch, sys
        from pathlib import Path
        from types import SimpleNamespace
        from bench.cache import Cache
        from bench.contracts import Context
        from bench.data.task import Task, TaskFacts
        from defenses.bank_builder import BankBuilder, BankRecipe

        def held():
            return max(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("RssAnon")) // 1024

        class Folder:  # as a dataset of files: an image exists when it is asked for
            shape = (1000, 3, 224, 224)
            def __len__(self): return 1000
            def __getitem__(self, rows):
                rows = np.asarray(rows)
                return np.stack([np.random.default_rng(int(r)).integers(0, 255, self.shape[1:], dtype=np.uint8)
                                 for r in rows.ravel()])

        class Net(torch.nn.Module):
            def features(self, x): return torch.nn.functional.avg_pool2d(x, 28).flatten(1)
            def forward(self, x): return self.features(x)[:, :10]

        facts = TaskFacts("big", 10, (3, 224, 224), 1000, 10, "x")
        labels = np.arange(1000) % 10
        task = Task(facts, 255, Folder(), labels, Folder(), labels)
        base = SimpleNamespace(network=Net())
        torch.set_num_threads(1)
        context = Context(0, 0, torch.device("cpu"), Cache(Path(sys.argv[1])), "base")
        peak = before = held()
        def watch(line):
            global peak
            peak = max(peak, held())
        context = Context(0, 0, torch.device("cpu"), context.cache, "base", watch)
        bank = BankBuilder(BankRecipe((1,), step_size=0.01, eps=0.03), task, base, context).build()
        watch("")
        bank.search(np.zeros(192, np.float32), 100)
        watch("")
        print(len(bank), bank.images.nbytes // 2**20, peak - before)
    """
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], capture_output=True, text=True, check=True
    )
    rows, on_disk, peak = (int(part) for part in found.stdout.split())
    assert rows == 2000 and on_disk == 287
    assert peak < on_disk * 1.5  # a piece as float32 with its gradients; not the bank, nor a float copy of it (1150 MB)

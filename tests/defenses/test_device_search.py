"""Neighbours and images on a device against faiss and the mapped files; a CPU stands in for the device."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from defenses import device_search
from defenses.bank import Bank
from defenses.device_search import DeviceNeighbours, fits_beside, squared_distances
from defenses.neighbours import Neighbours, write_index
from tests.conftest import spec_of

CPU = torch.device("cpu")


def pair(features: np.ndarray) -> tuple[Neighbours, DeviceNeighbours]:
    index = Neighbours(features)
    return index, DeviceNeighbours(index, CPU)


def test_a_hundred_random_queries_find_what_faiss_finds() -> None:
    rng = np.random.default_rng(0)
    index, device = pair(rng.normal(size=(3000, 24)).astype(np.float32))
    for query in rng.normal(size=(100, 24)).astype(np.float32):
        expected, found = index.search(query, 130), device.search(query, 130)
        assert np.array_equal(found.ids, expected.ids) and found.ids.dtype == np.int64
        assert np.allclose(found.squared, expected.squared, rtol=1e-12)


def test_a_hundred_queries_with_ties_find_what_faiss_finds() -> None:
    """Every image stands four times in the bank, and K cuts through such a group."""
    rng = np.random.default_rng(1)
    index, device = pair(np.tile(rng.normal(size=(500, 12)).astype(np.float32), (4, 1)))
    for query in rng.normal(size=(100, 12)).astype(np.float32):
        expected = index.search(query, 129).ids
        assert np.array_equal(device.search(query, 129).ids, expected)
        assert np.array_equal(np.sort(expected[:4]), expected[:4]) and len({i % 500 for i in expected[:4]}) == 1


def test_long_features_that_are_near_each_other_are_told_apart() -> None:
    """At a distance of 1e4 from the origin |f|^2 - 2 f.q loses every digit of these distances in float32."""
    rng = np.random.default_rng(2)
    features = (1e4 + rng.normal(size=(400, 16))).astype(np.float32)
    query = (1e4 + rng.normal(size=16)).astype(np.float32)
    exact = ((features.astype(np.float64) - query.astype(np.float64)) ** 2).sum(1)
    assert DeviceNeighbours(Neighbours(features), CPU).search(query, 50).ids.tolist() == np.argsort(exact)[:50].tolist()


def test_hidden_rows_and_rows_beyond_a_bound_are_not_found() -> None:
    rng = np.random.default_rng(3)
    index, device = pair(rng.normal(size=(203, 6)).astype(np.float32))
    for number in range(5):
        hidden = np.packbits(rng.random(208) < 0.3 * number, bitorder="little")
        query = rng.normal(size=6).astype(np.float32)
        for _ in range(2):  # the second time with the mask that was kept
            assert np.array_equal(device.search(query, 180, hidden).ids, index.search(query, 180, hidden).ids)
        assert np.array_equal(device.search(query, 20, below=50).ids, index.search(query, 20, below=50).ids)


def test_distances_in_parts_are_those_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    features, query = torch.randn(103, 5), torch.randn(5)
    whole = squared_distances(features, query)
    monkeypatch.setattr(device_search, "CHUNK_BYTES", 400)
    assert torch.equal(squared_distances(features, query), whole) and whole.dtype == torch.float64


def test_an_index_of_several_shards_keeps_the_numbers_of_its_rows(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("defenses.neighbours.SHARD_BYTES", 4 * 6 * 40)
    features = np.random.default_rng(4).normal(size=(150, 6)).astype(np.float32)
    write_index(tmp_path, iter([features]), "flat")
    index = Neighbours.opened(tmp_path)
    device = DeviceNeighbours(index, CPU)
    assert len(index.shards) == 4 and len(device) == 150
    for query in features[::10]:
        assert np.array_equal(device.search(query, 30).ids, index.search(query, 30).ids)
    assert np.array_equal(device.take(np.array([3, 149])), features[[3, 149]])


def test_a_bank_on_a_device_answers_as_before_while_rows_are_replaced() -> None:
    rng = np.random.default_rng(5)
    features = rng.normal(size=(60, 5)).astype(np.float32)
    images = rng.integers(0, 255, (60, 1, 2, 2), dtype=np.uint8)
    bank = Bank(images, np.arange(60) % 10, Neighbours(features), 30, 255)
    device = bank.on_device(CPU, always=True)
    assert isinstance(device.index, DeviceNeighbours) and device.resident is not None and bank.resident is None
    for _ in range(3):
        rows = np.sort(rng.choice(60, 12, replace=False))
        new = (rng.integers(0, 255, (12, 1, 2, 2), dtype=np.uint8), rng.normal(size=(12, 5)).astype(np.float32))
        bank, device = bank.replaced(rows, *new), device.replaced(rows, *new)
        query, asked = rng.normal(size=5).astype(np.float32), rng.choice(60, 20)
        assert np.array_equal(device.search(query, 15).ids, bank.search(query, 15).ids)
        assert torch.equal(device.pixels(asked, CPU), bank.pixels(asked, CPU))
        assert device.histograms(query, 9, 10) == bank.histograms(query, 9, 10)
    assert torch.equal(device.frozen().pixels(asked, CPU), torch.from_numpy(images[asked]).float() / 255)


def test_what_fits_is_a_share_of_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 4000))
    assert fits_beside(250, torch.device("cuda")) and not fits_beside(251, torch.device("cuda"))
    assert not fits_beside(1, CPU)


@pytest.mark.parametrize("name", ["rmc", "rmc-plus", "webnn", "deepnn"])
def test_a_defense_answers_the_same_with_its_bank_on_a_device(resources, name: str) -> None:
    spec = spec_of(name, "clean", n=3)
    x, _ = resources.of(spec).points(spec.indices)
    plain, device = resources.of(spec).fitted().fork(1), resources.of(spec).fitted().fork(1)
    device._bank = device._bank.on_device(CPU, always=True)
    assert torch.equal(device.predict(x), plain.predict(x))
    assert device.neighbour_labels(x) == plain.neighbour_labels(x)
    assert torch.equal(device.proxy()(x), plain.proxy()(x))

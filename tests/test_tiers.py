"""The second tier: artefacts that several machines share come whole or not at all, and are made once."""

from __future__ import annotations

import errno
import json
import re
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench import tiers
from bench.cache import MANIFEST, Cache, dump_tensors
from bench.errors import DiskError
from bench.store.prune import prune_store
from bench.tiers import SharedStore, Unreachable, shared_store
from bench.values import State
from tests.conftest import Bench
from tests.test_cache import build, flip

KEY = "a" * 64


@pytest.fixture(params=["folder", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> SharedStore:
    """A folder, and a bucket as fsspec shows one."""
    return SharedStore(str(tmp_path / "shared") if request.param == "folder" else f"memory://{uuid.uuid4().hex}/b")


def never(folder: Path) -> None:
    raise AssertionError("it was made although the tier has it")


def test_a_folder_is_made_once_for_all_machines(store: SharedStore, tmp_path: Path) -> None:
    first, second = Cache(tmp_path / "1", tier=store), Cache(tmp_path / "2", tier=store)
    assert not second.has("banks", KEY)
    made = first.get_or_build("banks", KEY, build)
    assert second.has("banks", KEY)
    arrived = second.get_or_build("banks", KEY, never)
    for file in ("images.npy", "index/rows.npy", MANIFEST):
        assert (arrived / file).read_bytes() == (made / file).read_bytes()
    assert np.load(arrived / "images.npy", mmap_mode="r")[999] == 999 % 256
    first.drop("banks", KEY)
    assert not store.has(f"banks/{KEY}/{MANIFEST}")
    assert Cache(tmp_path / "2", tier=store).get_or_build("banks", KEY, never) == arrived
    assert store.has(f"banks/{KEY}/{MANIFEST}")  # who has it gives it again


def test_what_lay_here_before_there_was_a_tier_is_given_too(store: SharedStore, tmp_path: Path) -> None:
    Cache(tmp_path / "1").get_or_build("bases", KEY, build)
    Cache(tmp_path / "1", tier=store).get_or_build("bases", KEY, never)
    Cache(tmp_path / "2", tier=store).get_or_build("bases", KEY, never)


def test_files_are_shared_shed_and_dropped(store: SharedStore, tmp_path: Path) -> None:
    first, second = Cache(tmp_path / "1", tier=store), Cache(tmp_path / "2", tier=store)
    first.put_state("b" * 64, State({"w": torch.arange(3)}, {"n": 1}))
    images = first.put_tensors("images", {"images": torch.ones(2)})
    held = second.get_state("b" * 64)
    assert held is not None and held[0].facts == {"n": 1} and second.pull("images", images)
    assert second.find_tensors("images", images)["images"].tolist() == [1, 1]
    second.shed("states")
    assert not (tmp_path / "2" / "states" / ("b" * 64)).exists() and second.has("states", "b" * 64)
    assert (tmp_path / "2" / "images" / images).exists()
    second.drop("states", "b" * 64)
    second.drop("states", "b" * 64)  # what is not there is no error
    assert not store.has(f"states/{'b' * 64}") and second.get_state("b" * 64) is None
    assert not second.pull("images", "c" * 64) and not [p for p in (tmp_path / "2").rglob("*") if ".part" in p.name]


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda folder: flip(folder / "images.npy"), "images.npy holds other bytes"),
        (lambda folder: (folder / "images.npy").write_bytes(b"short"), "other sizes"),
        (lambda folder: (folder / "images.npy").unlink(), "a file is missing"),
        (lambda folder: (folder / MANIFEST).write_text("[1"), "delimiter"),
        (lambda folder: (folder / MANIFEST).write_text('{"made_with": {}}'), "names no files"),
        (lambda folder: (folder / MANIFEST).write_text("3"), "names no files"),
        (lambda folder: (folder / MANIFEST).write_text(json.dumps({"../../out.npy": [1, ""]})), "it names|names the"),
        (lambda folder: (folder / MANIFEST).write_text(json.dumps({"/etc/passwd": [1, ""]})), "names the file"),
    ],
)
def test_what_arrives_damaged_is_made_again_and_replaced(tmp_path: Path, damage: Any, what: str) -> None:
    store = SharedStore(str(tmp_path / "shared"))
    Cache(tmp_path / "1", tier=store).get_or_build("banks", KEY, build)
    damage(tmp_path / "shared" / "banks" / KEY)
    told: list[str] = []
    again = Cache(tmp_path / "2", told.append, store).get_or_build("banks", KEY, build)
    assert len(told) == 1 and "arrived damaged" in told[0] and "made again" in told[0]
    assert re.search(what, told[0]), told[0]
    assert np.load(again / "images.npy")[999] == 999 % 256 and not (tmp_path / "out.npy").exists()
    Cache(tmp_path / "3", tier=store).get_or_build("banks", KEY, never)  # the store has a whole one now


def test_a_damaged_file_of_the_store_is_not_believed(tmp_path: Path) -> None:
    store = SharedStore(str(tmp_path / "shared"))
    (tmp_path / "source").write_bytes(dump_tensors({"w": torch.ones(5)}, {}))
    flip(tmp_path / "source")
    store.put(f"crafts/{KEY}", tmp_path / "source")
    told: list[str] = []
    assert Cache(tmp_path / "1", told.append, store).read("crafts", KEY) is None and "damaged" in told[0]


def test_a_store_that_does_not_answer_is_tried_again_and_then_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SharedStore(str(tmp_path / "shared"))
    (tmp_path / "source").write_bytes(b"x")
    monkeypatch.setattr(tiers, "PAUSE_S", 0.001)
    calls = []
    put_file = store._fs.put_file

    def failing(*args: Any) -> None:
        calls.append(args)
        if len(calls) <= failures:
            raise OSError("the network is down")
        put_file(*args)

    monkeypatch.setattr(store._fs, "put_file", failing)
    failures = tiers.ATTEMPTS - 1
    store.put("images/ab", tmp_path / "source")
    assert store.has("images/ab") and len(calls) == tiers.ATTEMPTS
    calls.clear()
    failures = tiers.ATTEMPTS
    with pytest.raises(Unreachable, match="writing images/cd: OSError: the network is down"):
        store.put("images/cd", tmp_path / "source")
    assert [path.name for path in (tmp_path / "shared" / "images").iterdir()] == ["ab"]


def test_a_full_disk_of_the_store_is_not_tried_again_and_is_no_fault_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SharedStore(str(tmp_path / "shared"))
    (tmp_path / "source").write_bytes(b"x")
    calls = []

    def full(*args: Any) -> None:
        calls.append(args)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store._fs, "put_file", full)
    with pytest.raises(DiskError, match="No space left on device"):
        store.put("images/ab", tmp_path / "source")
    assert len(calls) == 1


@pytest.mark.parametrize(("url", "what"), [("nosuch://x/y", "no folder and no URL"), ("s3://b/x", "not installed")])
def test_a_wrong_store_is_told_before_anything_is_written(bench: Bench, tmp_path: Path, url: str, what: str) -> None:
    done = bench("run", "--defense", "regular", "--attack", "clean", "-n", 2, "--store", url)
    assert done.code == 2 and what in done.err.splitlines()[-1] and "Traceback" not in done.err, done.err
    assert not list(tmp_path.iterdir())


# -- what nothing needs any more ---------------------------------------------------------------------------------------


def in_store(store: SharedStore, tmp_path: Path, *names: str) -> None:
    (tmp_path / "content").write_bytes(bytes(100))
    for name in names:
        store.put(name, tmp_path / "content")


def names_in(store: SharedStore) -> set[str]:
    return {name for name, _, _ in store.files()}


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is written now was written two hours ago."""
    now = time.time() + 7200
    monkeypatch.setattr("bench.store.prune.time.time", lambda: now)


A, B, C = ("a" * 64, "b" * 64, "c" * 64)
UPLOAD = f"images/{C}.part-0123abcd"
WHOLE = {f"bases/{A}/weights", f"bases/{A}/{MANIFEST}", f"states/{A}", f"images/{A}"}
PARTS = {f"banks/{B}/images.npy", f"banks/{B}/rows.npy", UPLOAD, f"bases/{A}/weights.part-0123abcd"}
FOREIGN = {"README.md", f"notes/{'x' * 64}", "states/readme.txt"}


def test_what_came_in_part_goes_after_an_hour_and_all_else_stays(
    store: SharedStore, tmp_path: Path, bench: Bench, later: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_store(store, tmp_path, *WHOLE, *PARTS, *FOREIGN)
    monkeypatch.setattr("bench.tiers.SharedStore", lambda url: store)
    shared_store.cache_clear()
    listed = json.loads(bench("cache", "--store", store.url, "--json").out)
    assert listed["kinds"]["temporary"] == {"count": 3, "bytes": 400} and listed["free"] is None
    assert listed["kinds"]["bases"] == {"count": 1, "bytes": 200} and listed["bytes"] == 800
    prune = ("cache", "prune", "--store", store.url)
    assert "3 would be removed" in bench(*prune, "--dry-run").out
    assert names_in(store) == WHOLE | PARTS | FOREIGN
    done = bench(*prune)
    assert done.code == 0 and "3 removed" in done.out and "images stay" in done.out
    assert names_in(store) == WHOLE | FOREIGN
    refused = bench(*prune, "--kind", "images")
    assert refused.code == 2 and "Images cannot be pruned" in refused.err
    assert bench(*prune, "--kind", "states", "--older-than", 1).code == 0 and names_in(store) == WHOLE | FOREIGN
    assert bench(*prune, "--kind", "bases").code == 0
    assert names_in(store) == {f"states/{A}", f"images/{A}"} | FOREIGN
    assert bench(*prune, "--kind", "basses").code == 2
    shared_store.cache_clear()


def test_what_was_just_written_is_not_pruned(store: SharedStore, tmp_path: Path) -> None:
    in_store(store, tmp_path, *WHOLE, *PARTS)
    for kind in ("", "states", "bases", "temporary"):
        assert prune_store(store, kind).removed == []
    assert names_in(store) == WHOLE | PARTS


def test_a_store_that_is_not_there_has_nothing_and_one_that_fails_is_told(
    store: SharedStore, tmp_path: Path, later: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(store.files()) == [] and prune_store(store).removed == []
    in_store(store, tmp_path, UPLOAD)

    def drop(name: str) -> None:
        raise Unreachable("it is away")

    monkeypatch.setattr(store, "drop", drop)
    done = prune_store(store)
    assert done.removed == [] and done.failed == [(Path(UPLOAD), "it is away")]


def test_a_file_whose_time_is_not_known_counts_as_in_use(
    store: SharedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_store(store, tmp_path, UPLOAD)
    find = store._fs.find

    def timeless(*args: object, **kwargs: object) -> dict[str, dict[str, Any]]:
        return {path: {"size": about["size"]} for path, about in find(*args, **kwargs).items()}

    def unknown(path: str) -> None:
        raise NotImplementedError  # as fsspec does for a kind of store that keeps no times

    monkeypatch.setattr(store._fs, "find", timeless)
    monkeypatch.setattr(store._fs, "modified", unknown)
    assert [when > time.time() - 60 for _, _, when in store.files()] == [True]

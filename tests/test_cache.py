"""The cache: what is damaged is noticed before it is used, set aside in one line, and made again."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bench as lib
from bench import cache as cache_module
from bench.cache import MANIFEST, Cache, damage, damage_of, dump_tensors, parse_tensors
from bench.errors import DiskError
from bench.game.identity import hold_against, kept
from bench.rows import Cost
from bench.values import State
from tests.conftest import Bench
from tests.hostile.places import as_user

KEY = "a" * 64


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def cache(tmp_path: Path, told: list[str]) -> Cache:
    return Cache(tmp_path, told.append)


def build(folder: Path) -> None:
    np.save(folder / "images.npy", np.arange(1000, dtype=np.uint8))
    (folder / "index").mkdir()
    np.save(folder / "index" / "rows.npy", np.arange(10))
    (folder / "index" / "none").touch()


def flip(path: Path, at: int = -1) -> None:
    """Change one byte of a file, and leave its size."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def link(path: Path) -> None:
    """Move a file or a folder out of the cache, and leave a link to it."""
    elsewhere = path.parents[2 if path.name == KEY else 3] / f"elsewhere-{path.name}"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a flipped byte": (lambda folder: flip(folder / "images.npy"), "images.npy holds other bytes"),
    "a flipped byte of the index": (lambda folder: flip(folder / "index" / "rows.npy"), "rows.npy holds other bytes"),
    "a shorter file": (lambda folder: shorten(folder / "images.npy"), "other sizes"),
    "an empty file": (lambda folder: (folder / "images.npy").write_bytes(b""), "other sizes"),
    "a missing file": (lambda folder: (folder / "images.npy").unlink(), "other sizes"),
    "a file more": (lambda folder: (folder / "more.npy").touch(), "other sizes"),
    "no manifest": (lambda folder: (folder / MANIFEST).unlink(), "no manifest"),
    "a manifest with an endless size": (
        lambda folder: (folder / MANIFEST).write_text('{"images.npy": [Infinity, ""]}'),
        "no manifest",
    ),
    "a manifest nested for ever": (lambda folder: (folder / MANIFEST).write_text("[" * 9999), "no manifest"),
    "a pipe instead of an empty file": (
        lambda folder: ((folder / "index" / "none").unlink(), os.mkfifo(folder / "index" / "none")),
        "index/none holds other bytes",
    ),
    "a pipe instead of a manifest": (
        lambda folder: ((folder / MANIFEST).unlink(), os.mkfifo(folder / MANIFEST)),
        "no manifest",
    ),
    "a link to the same bytes": (lambda folder: link(folder / "images.npy"), "images.npy is a link"),
    "a link instead of a folder in it": (lambda folder: link(folder / "index"), "index is a link"),
    "a link instead of a manifest": (lambda folder: link(folder / MANIFEST), "manifest.json is a link"),
    "a manifest that is none": (lambda folder: (folder / MANIFEST).write_text("[1]"), "no manifest"),
    "a link": (link, "a link"),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_folder_is_set_aside_named_and_made_again(
    cache: Cache, told: list[str], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, words = DAMAGES[what]
    folder = cache.get_or_build("banks", KEY, build)
    change(folder)
    monkeypatch.setattr(cache_module, "_compared", {})  # as in another process
    assert words in damage(folder)
    again = cache.get_or_build("banks", KEY, build)
    assert again == folder and damage(folder) == ""
    assert np.array_equal(np.load(folder / "images.npy"), np.arange(1000, dtype=np.uint8))
    (line,) = told
    assert words in line and str(folder) in line and "\n" not in line
    assert folder.with_name(f"{KEY}.damaged").exists()


def test_contents_are_compared_once_per_process_and_again_after_a_change(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = cache.get_or_build("banks", KEY, build)
    monkeypatch.setattr(cache_module, "_compared", {})
    hashed: list[Path] = []
    sha256 = cache_module._sha256
    monkeypatch.setattr(cache_module, "_sha256", lambda path: hashed.append(path) or sha256(path))
    for _ in range(3):
        assert cache.get_or_build("banks", KEY, build) == folder
    assert len(hashed) == 3
    os.utime(folder / "images.npy", ns=(0, 0))
    assert damage(folder) == "" and len(hashed) == 6


def nested(path: Path) -> None:
    """A header that no reader of JSON gets to the end of."""
    path.write_bytes((100_000).to_bytes(8, "little") + b"[" * 100_000)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "change",
    [flip, shorten, lambda path: flip(path, 3), lambda path: path.write_bytes(b""), nested, pipe, folder],
)
def test_a_damaged_state_is_not_restored(cache: Cache, told: list[str], change: Callable[[Path], Any]) -> None:
    state = State({"weights": torch.rand(20)}, {"count": 3})
    cache.put_state(KEY, state, Cost(2, 1, 0.5, (0.25, 0.25)))
    stored = cache.get_state(KEY)
    assert stored is not None and torch.equal(stored[0].tensors["weights"], state.tensors["weights"])
    assert stored[0].facts == {"count": 3} and stored[1].steps == 1
    change(cache.path("states", KEY))
    assert cache.get_state(KEY) is None and len(told) == 1 and not cache.has("states", KEY)


READER, OWNER, OTHER, GROUP = 60001, 60002, 60003, 60009


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that every user can read, with a cache of the user OWNER in it."""
    if os.geteuid() != 0:  # the system lets nobody else, and what these tests show is about files of others
        pytest.skip("only root can give files to other users")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        root = Path(folder) / "cache"
        cache = Cache(root)
        cache.get_or_build("banks", KEY, build)
        cache.put_state(KEY, State({"weights": torch.rand(20)}, {}))
        hold_against(cache, KEY, "it", torch.ones(3))
        yield root


@pytest.mark.parametrize("reader", [0, READER], ids=["root", "a user"])
@pytest.mark.parametrize(
    ("mode", "uid", "gid", "taken"),
    [
        (0o755, OWNER, OTHER, True),
        (0o755, 0, OTHER, True),
        (0o755, OTHER, OTHER, False),
        (0o755, OTHER, GROUP, False),
        (0o2775, OTHER, GROUP, True),
        (0o2775, OTHER, OTHER, False),
        (0o777, OTHER, OTHER, False),
    ],
)
def test_whose_files_count(
    shared: Path, told: list[str], reader: int, mode: int, uid: int, gid: int, taken: bool
) -> None:
    """Those of the user, of root, of the owner of the cache, and of its group where that may write there."""
    for path in (shared, *shared.rglob("*")):
        os.chown(path, OWNER, GROUP)
    shared.chmod(mode)
    strange = [shared / "banks" / KEY / "images.npy", shared / "states" / KEY, shared / "fits" / KEY]
    for path in strange:
        os.chown(path, uid, gid)
    with as_user(reader):
        assert bool(kept(Cache(shared), KEY)) is taken
        for path in strange[:2]:
            found = damage_of(path.relative_to(shared).parts[0], path if path.name == KEY else path.parent)
            assert (found == "") is taken and (taken or f"belongs to the user {OTHER}, who is neither you" in found)
    if taken or reader == 0:  # who may write there
        cache = Cache(shared, told.append)
        assert cache.get_or_build("banks", KEY, build).stat().st_uid == (OWNER if taken else 0)
        assert (cache.get_state(KEY) is not None) is taken and len(told) == (0 if taken else 2)
    else:
        with as_user(reader), pytest.raises(DiskError, match=r"belongs to the user 60003.* cannot be set aside"):
            Cache(shared, told.append).get_or_build("banks", KEY, build)


def test_a_file_that_is_named_by_its_content_may_be_anybodys(shared: Path) -> None:
    cache = Cache(shared)
    key = cache.put_tensors("images", {"images": torch.ones(2)})
    os.chown(cache.path("images", key), OTHER, OTHER)
    os.chown(shared, OWNER, OWNER)
    assert torch.equal(cache.find_tensors("images", key)["images"], torch.ones(2))


@pytest.mark.parametrize("kind", ["states", "images", "fits"])
def test_a_link_or_a_pipe_in_place_of_a_file_is_neither_read_nor_waited_for(
    cache: Cache, tmp_path: Path, kind: str
) -> None:
    tensors = {"images": torch.ones(2)}
    key = cache.put_tensors(kind, tensors)
    path, elsewhere = cache.path(kind, key), tmp_path / "elsewhere"
    path.rename(elsewhere)
    for number in range(2):
        os.mkfifo(path) if number else path.symlink_to(elsewhere)
        assert damage_of(kind, path) in ("it is a link", "it is no file")
        if kind == "fits":
            assert kept(cache, key) == ""
            hold_against(cache, key, "it", torch.ones(3))
            assert kept(cache, key)
        else:
            assert cache.find_tensors(kind, key) == {} and not path.exists()
            assert cache.put_tensors(kind, tensors) == key
            assert torch.equal(cache.find_tensors(kind, key)["images"], tensors["images"])
        path.unlink()
    for make in (
        lambda: path.symlink_to(elsewhere),
        lambda: os.mkfifo(path),
    ):  # nobody has read it before it is written
        make()
        assert cache.put_tensors(kind, tensors) == key and path.is_file() and not path.is_symlink()
        path.unlink()
    assert elsewhere.is_file()


def test_what_stands_where_an_artefact_is_made_or_set_aside_gives_way(cache: Cache, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    (tmp_path / "banks").mkdir()
    for name in (f"{KEY}.part", f"{KEY}.damaged"):
        (tmp_path / "banks" / name).symlink_to(tmp_path / "kept")
    folder = cache.get_or_build("banks", KEY, build)
    flip(folder / "images.npy")
    os.utime(folder / "images.npy", ns=(0, 0))
    assert damage(cache.get_or_build("banks", KEY, build)) == "" and (tmp_path / "kept" / "file").exists()
    assert (folder.with_name(f"{KEY}.damaged") / "images.npy").exists()


def test_facts_are_part_of_what_is_proven() -> None:
    data = dump_tensors({"x": torch.ones(2)}, {"steps": "1"})
    assert parse_tensors(data)[1] == {"steps": "1"}
    with pytest.raises(ValueError, match="other bytes than were written"):
        parse_tensors(data.replace(b'"steps":"1"', b'"steps":"2"'))


def test_images_are_known_by_their_name_and_damaged_ones_are_written_anew(cache: Cache) -> None:
    from safetensors.torch import save

    old = save({"images": torch.ones(1, 2)})  # as an earlier version wrote them: without a sha256 inside
    key = hashlib.sha256(old).hexdigest()
    (cache.root / "images").mkdir()
    (cache.root / "images" / key).write_bytes(old)
    assert torch.equal(cache.find_tensors("images", key)["images"], torch.ones(1, 2))
    key = cache.put_tensors("images", {"images": torch.zeros(3)})
    flip(cache.path("images", key))
    assert cache.put_tensors("images", {"images": torch.zeros(3)}) == key
    assert torch.equal(cache.find_tensors("images", key)["images"], torch.zeros(3))


def test_a_damaged_base_bank_or_craft_changes_no_row(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bench: Bench
) -> None:
    """Each file that shapes the rows gets a flipped byte in its middle; a new play gives the rows of before."""
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "kept"))
    request: dict[str, Any] = {
        "n": 4, "workers": 1,
        "sets": {"base.epochs": 3, "defense.k": 64, "defense.epochs": 1, "defense.bank_steps": 2},
    }  # fmt: skip
    first = lib.run("rmc", "pgd", db="a.db", **request)
    files = [
        path for kind in ("bases", "banks", "crafts", "states") for path in (tmp_path / "kept").rglob(f"{kind}/**/*")
    ]
    shaping = [path for path in files if path.is_file() and path.name != MANIFEST and path.suffix != ".lock"]
    assert {path.relative_to(tmp_path / "kept").parts[0] for path in shaping} >= {"bases", "banks", "crafts"}
    for path in shaping:
        flip(path, path.stat().st_size // 2)
    monkeypatch.setattr(cache_module, "_compared", {})
    (tmp_path / "kept" / "banks" / KEY).symlink_to("elsewhere")
    told = " ".join(bench("doctor", "--deep", "--db", "a.db").out.split())
    assert f"{KEY} is a link, which no run follows" in told
    assert f"bases/{next((tmp_path / 'kept' / 'bases').glob('?' * 64)).name} is damaged" in told
    assert re.search(r"contents: \d+ of \d+ artefacts hold", told)
    second = lib.run("rmc", "pgd", db="b.db", **request)
    assert (second.status, second.run) == ("DONE", first.run)
    facts = [[row["attacked_answer"], row["distance"], row["adv_sha256"]] for row in first.rows()]
    assert [[row["attacked_answer"], row["distance"], row["adv_sha256"]] for row in second.rows()] == facts
    assert list((tmp_path / "kept" / "bases").glob("*.damaged"))


def test_a_manifest_says_what_an_artefact_was_made_from_and_with(tmp_path: Path, told: list[str]) -> None:
    cache = Cache(tmp_path, told.append, made_with={"torch": "2"})
    folder = cache.get_or_build("banks", KEY, build, {"seed": 3})
    known = json.loads((folder / MANIFEST).read_bytes())
    assert known["made_with"] == {"torch": "2"} and known["inputs"] == {"seed": 3}
    assert set(known["files"]) == {"images.npy", "index/none", "index/rows.npy"}
    (folder / MANIFEST).write_text(json.dumps(known["files"]))  # as an older version wrote it
    assert damage(folder) == "" and not told
    for broken in ({"made_with": {}}, [], 3, None):
        (folder / MANIFEST).write_text(json.dumps(broken))
        assert damage(folder) == "it has no manifest"

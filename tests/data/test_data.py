import gzip
import hashlib
import http.server
import struct
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.data import files, mnist
from bench.data.digits import Digits
from bench.data.mnist import Mnist, read_idx
from bench.data.task import Task, TaskParams, checked_task, fixed_order
from bench.errors import BadValue, BrokenPlugin, DataError


def test_digits_are_sklearns_and_split_once_for_all() -> None:
    from sklearn.datasets import load_digits

    task = Digits.load(TaskParams(), None)
    assert task.facts == Digits.facts(TaskParams(), None)
    assert (task.facts.train_size, task.facts.test_size, task.facts.image_shape) == (1297, 500, (1, 8, 8))
    whole = np.sort(np.concatenate([task.train_images, task.test_images]).reshape(1797, -1), axis=0)
    assert np.array_equal(whole, np.sort(load_digits().images.reshape(1797, -1).astype(int) * 15, axis=0))
    x, y = task.test_points([0, 3])
    assert x.shape == (2, 1, 8, 8) and float(x.max()) <= 1 and y.dtype.is_signed
    assert np.array_equal(np.unique(task.pixels(task.train_images).numpy() * 16 % 1), [0.0])


def test_a_smaller_training_set_is_part_of_a_larger_and_changes_the_content() -> None:
    small, large = Digits.load(TaskParams(train_size=100), None), Digits.load(TaskParams(train_size=200), None)
    rows = {image.tobytes() for image in large.train_images}
    assert len(small.train_labels) == 100 and all(image.tobytes() in rows for image in small.train_images)
    assert small.facts.content != large.facts.content
    with pytest.raises(BadValue, match="1297 training points"):
        Digits.load(TaskParams(train_size=5000), None)


def test_the_validation_split_is_held_out_of_training() -> None:
    task = Digits.load(TaskParams(split="validation"), None)
    test = Digits.load(TaskParams(), None)
    assert task.facts.test_size == 1297 // 6 and task.facts.train_size == 1297 - 1297 // 6
    assert np.array_equal(
        np.sort(np.concatenate([task.train_images, task.test_images]).reshape(1297, -1), axis=0),
        np.sort(test.train_images.reshape(1297, -1), axis=0),
    )


def test_the_fixed_order_never_changes() -> None:
    assert fixed_order("a", 5).tolist() == fixed_order("a", 5).tolist() != fixed_order("b", 5).tolist()
    # written down: a change here would change every task
    assert fixed_order("digits split", 1797)[:4].tolist() == [108, 1187, 460, 444]


def idx(array: np.ndarray) -> bytes:
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def test_idx_files_are_read_as_published_and_damage_is_told(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(idx(array)))
    assert np.array_equal(read_idx(path), array)
    whole = path.read_bytes()
    for data, message in (
        (whole[:-9], "damaged"),
        (b"no gzip", "damaged"),
        (gzip.compress(b"\1\2\3\4"), "no idx file"),
        (gzip.compress(idx(array)[:-3]), "truncated"),
        (gzip.compress(idx(array)[:9]), "truncated"),
        (gzip.compress(b"\0\0\x08\xff" + idx(array)[4:]), "holds 255 dimensions"),
        (gzip.compress(b"\0\0\x08\0\7"), "holds 0 dimensions"),
        (gzip.compress(b"\0\0\x08\3" + struct.pack(">3I", 2**31, 2**31, 4)), "truncated"),  # 2**64 bytes: 0, wrapped
    ):
        path.write_bytes(data)
        with pytest.raises(DataError, match=message):
            read_idx(path)


def test_a_named_folder_is_read_and_never_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="does not exist"):
        files.data_dir(str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"train-images.*missing.*--data-dir"):
        Mnist.facts(TaskParams(), tmp_path)
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "train-images-idx3-ubyte.gz").write_bytes(b"<html>")
    with pytest.raises(DataError, match="md5"):
        Mnist.facts(TaskParams(), tmp_path)
    assert len(list((tmp_path / "mnist").iterdir())) == 1
    monkeypatch.setenv("BENCH_DATA", str(tmp_path))
    assert files.data_dir(None) == tmp_path


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A file server that keeps its log out of what the tests read."""

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A web server on this machine with tiny MNIST files, whose checksums stand for the published ones."""
    site, cache = tmp_path / "site", tmp_path / "user-cache"
    site.mkdir()
    sizes = {"train-images": (50, 28, 28), "train-labels": (50,), "t10k-images": (20, 28, 28), "t10k-labels": (20,)}
    published = {}
    for name, shape in sizes.items():
        file = f"{name}-idx{len(shape)}-ubyte.gz"
        data = gzip.compress(idx(np.arange(np.prod(shape), dtype=np.uint64).astype(np.uint8).reshape(shape) % 10))
        (site / file).write_bytes(data)
        published[file] = hashlib.md5(data).hexdigest()
    handler = partial(Quiet, directory=str(site))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr(mnist, "FILES", published)
    monkeypatch.setattr(mnist, "MIRRORS", ("http://127.0.0.1:1/", f"http://127.0.0.1:{server.server_port}/"))
    monkeypatch.setattr(mnist, "TRAIN_SIZE", 50)
    yield site, cache
    server.shutdown()


def test_without_a_folder_files_are_downloaded_verified_and_kept(mirror) -> None:
    site, cache = mirror
    task = Mnist.load(TaskParams(), None)
    assert task.train_images.shape == (50, 1, 28, 28) and task.test_labels.shape == (20,)
    for file in site.iterdir():
        file.unlink()
    assert Mnist.load(TaskParams(), None).facts == task.facts  # from the cache: the server has nothing left
    assert len(list(cache.rglob("*.gz"))) == 4


def test_a_download_with_the_wrong_checksum_is_not_kept(mirror, bench) -> None:
    site, cache = mirror
    (site / "train-labels-idx1-ubyte.gz").write_bytes(b"<html>not found</html>")
    with pytest.raises(DataError, match="could not be downloaded"):
        Mnist.facts(TaskParams(), None)
    done = bench("run", "--defense", "regular", "--attack", "clean", "--dataset", "mnist")
    assert done.code == 2 and done.err.count("\n") == 1 and "--data-dir" in done.err
    assert not list(cache.rglob("train-labels*"))


def test_the_real_mnist_is_the_published_one(mnist_dir: Path) -> None:
    task = Mnist.load(TaskParams(), mnist_dir)
    assert task.train_images.shape == (60000, 1, 28, 28) and task.test_images.shape == (10000, 1, 28, 28)
    assert np.bincount(task.test_labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_labels_of_any_whole_type_are_taken() -> None:
    task = Digits.load(TaskParams(), None)
    given = replace(
        task, test_labels=task.test_labels.astype(np.uint8), train_labels=task.train_labels.astype(np.int32)
    )
    checked = checked_task(given, "mine")
    assert checked.test_labels.dtype == checked.train_labels.dtype == np.int64
    assert np.array_equal(checked.test_labels, task.test_labels)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda task: {"test_labels": task.test_labels.astype(float)},
            r"test labels of shape \(500,\) and type float64",
        ),
        (lambda task: {"train_labels": task.train_labels[1:]}, r"train labels of shape \(1296,\)"),
        (lambda task: {"test_labels": task.test_labels + 1}, r"test labels from 1 to 10; 10 classes are 0 to 9"),
        (lambda task: {"test_images": task.test_images[:, 0]}, r"test images of shape \(500, 8, 8\); its facts say"),
        (lambda task: {"train_images": task.train_images.astype(np.float32)}, "train images of type float32"),
        (lambda task: {"test_images": task.test_images.astype(np.int64)}, "test images of type int64"),
    ],
)
def test_a_dataset_that_is_not_what_its_facts_say_is_refused(change: Callable[[Task], Any], words: str) -> None:
    task = Digits.load(TaskParams(), None)
    with pytest.raises(BrokenPlugin, match=f"The dataset 'mine' has {words}"):
        checked_task(replace(task, **change(task)), "mine")
    with pytest.raises(BrokenPlugin, match=r"loaded a dict; its load must return a bench\.data\.task\.Task"):
        checked_task({}, "mine")

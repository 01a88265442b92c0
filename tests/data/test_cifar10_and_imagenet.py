"""CIFAR-10's pickles and ImageNet's folders: small ones made here, and the real ones where they lie."""

from __future__ import annotations

import hashlib
import http.server
import io
import os
import pickle
import tarfile
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.data import cifar10, files
from bench.data.cifar10 import Cifar10, read_batch
from bench.data.imagenet import ImageNet, ImageNetParams, JpegFiles, decode, synsets
from bench.data.pickles import read_arrays
from bench.data.task import TaskParams
from bench.errors import BadValue, DataError, UnknownName
from tests.conftest import ROOT, Bench
from tests.data.test_data import Quiet

CLASSES = ("n01440764", "n02102040", "n03000684")


def batch(count: int, seed: int) -> bytes:
    """A batch file as CIFAR-10 has them: a pickled dict with bytes for keys."""
    rng = np.random.default_rng(seed)
    value = {b"data": rng.integers(0, 255, (count, 3072), dtype=np.uint8), b"labels": [i % 10 for i in range(count)]}
    return pickle.dumps(value, protocol=4)


@pytest.fixture
def cifar_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with small batches, whose checksums stand for the published ones."""
    folder = tmp_path / "data" / cifar10.FOLDER
    folder.mkdir(parents=True)
    published = {}
    for seed, name in enumerate(cifar10.FILES):
        data = batch(20, seed)
        (folder / name).write_bytes(data)
        published[name] = hashlib.md5(data).hexdigest()
    monkeypatch.setattr(cifar10, "FILES", published)
    monkeypatch.setattr(cifar10, "TRAIN_SIZE", 100)
    monkeypatch.setattr(cifar10, "TEST_SIZE", 20)
    return tmp_path / "data"


def test_batches_become_images_in_their_order(cifar_dir: Path) -> None:
    task = Cifar10.load(TaskParams(), cifar_dir)
    assert task.train_images.shape == (100, 3, 32, 32) and task.test_images.shape == (20, 3, 32, 32)
    raw = np.random.default_rng(1).integers(0, 255, (20, 3072), dtype=np.uint8)  # of data_batch_2
    assert np.array_equal(task.train_images[[23]].ravel(), raw[3]) and task.train_labels[23] == 3
    assert Cifar10.facts(TaskParams(), cifar_dir) == task.facts
    assert len(Cifar10.load(TaskParams(train_size=30), cifar_dir).train_labels) == 30


def test_a_truncated_batch_is_refused_before_anything_is_run(cifar_dir: Path, bench: Bench, tmp_path: Path) -> None:
    path = cifar_dir / cifar10.FOLDER / "data_batch_3"
    path.write_bytes(path.read_bytes()[:-100])
    done = bench("run", "--defense", "regular", "--attack", "clean", "--dataset", "cifar10", "--data-dir", cifar_dir)
    assert done.code == 2 and done.err.count("\n") == 1
    assert "data_batch_3 has the md5" in done.err and "fetch it again" in done.err
    assert not (tmp_path / "results").exists()


class Runs:
    """A pickle that writes a file when an ordinary unpickler reads it."""

    def __reduce__(self):
        return os.system, ("touch executed",)


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps(Runs(), protocol=4),
        pickle.dumps({b"data": Runs()}, protocol=4),
        batch(5, 0)[:200],
        b"",
        b"hello",
        b"\x80\x04\x95" + b"\xff" * 8 + b".",
    ],
)
def test_a_pickle_that_is_more_than_arrays_is_refused_and_runs_nothing(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "data_batch_1"
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"data_batch_1 is no pickle of plain arrays .*fetch it again"):
        read_arrays(path)
    assert not (tmp_path / "executed").exists() and not Path("executed").exists()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x80\x02Nr\xff\xff\xff\x3f.", "it numbers a value 1073741823"),
        (b"N(lp-1\n.", "it numbers a value -1"),
        (b"cnumpy\nndarray\n(I99999999999\ntR.", "not callable"),
        (
            b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I99999999999\ntS'b'\ntR.",
            "it begins an array of the shape (99999999999,)",
        ),
    ],
)
def test_a_small_pickle_takes_little_memory(tmp_path: Path, data: bytes, words: str) -> None:
    """A number in it is asked about before memory of that size is taken."""
    path = tmp_path / "data_batch_1"
    path.write_bytes(data)
    with pytest.raises(DataError) as told:
        read_arrays(path)
    assert words in str(told.value)


@pytest.mark.parametrize(
    "value",
    [[1, 2], {b"data": np.zeros((2, 3072), np.uint8)}, {b"data": np.zeros((2, 10), np.uint8), b"labels": [1, 2]},
     {b"data": np.zeros((2, 3072)), b"labels": [1, 2]}, {b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]},
     {b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, "x"]},
     {b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 2**80]},
     {b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 10]}],
)  # fmt: skip
def test_a_pickle_that_is_no_batch_is_refused(tmp_path: Path, value: object) -> None:
    path = tmp_path / "data_batch_1"
    path.write_bytes(pickle.dumps(value, protocol=4))
    with pytest.raises(DataError, match="is no batch of CIFAR-10"):
        read_batch(path)


def test_the_archive_is_downloaded_verified_and_unpacked(
    cifar_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    with tarfile.open(site / cifar10.ARCHIVE, "w:gz") as archive:
        for path in sorted((cifar_dir / cifar10.FOLDER).iterdir()):
            archive.add(path, f"{cifar10.FOLDER}/{path.name}")
        info = tarfile.TarInfo("../outside")
        info.size = 4
        archive.addfile(info, io.BytesIO(b"evil"))
    digest = hashlib.md5((site / cifar10.ARCHIVE).read_bytes()).hexdigest()
    monkeypatch.setattr(cifar10, "ARCHIVE_MD5", digest)
    monkeypatch.setattr(files, "cache_dir", lambda: tmp_path / "user-cache")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    request.addfinalizer(server.shutdown)
    monkeypatch.setattr(cifar10, "MIRRORS", (f"http://127.0.0.1:{server.server_port}/",))
    task = Cifar10.load(TaskParams(), None)
    assert len(task.train_labels) == 100
    assert not list(tmp_path.rglob("outside"))  # only the named members are unpacked
    server.shutdown()
    assert len(Cifar10.load(TaskParams(), None).train_labels) == 100  # from the cache


def test_without_a_mirror_the_message_says_what_to_do(
    cifar_dir: Path, monkeypatch, tmp_path: Path, bench: Bench
) -> None:
    monkeypatch.setattr(files, "cache_dir", lambda: tmp_path / "user-cache")
    monkeypatch.setattr(cifar10, "MIRRORS", ("http://127.0.0.1:1/",))
    done = bench("run", "--defense", "regular", "--attack", "clean", "--dataset", "cifar10")
    assert done.code == 2 and done.err.count("\n") == 1
    assert "a folder that holds cifar-10-batches-py/ with its files with --data-dir" in done.err


def test_the_real_cifar10_is_the_published_one(cifar10_dir: Path) -> None:
    task = Cifar10.load(TaskParams(), cifar10_dir)
    assert task.train_images.shape == (50000, 3, 32, 32) and np.bincount(task.train_labels).tolist() == [5000] * 10
    assert np.bincount(task.test_labels).tolist() == [1000] * 10
    mean = [float(task.train_images[:, channel].mean() / 255) for channel in range(3)]
    assert mean == pytest.approx([0.4914, 0.4822, 0.4465], abs=1e-4)


# -- ImageNet --------------------------------------------------------------------------------------------------------


def write_image(path: Path, size: tuple[int, int], colour: tuple[int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, quality=95)


@pytest.fixture
def image_dir(tmp_path: Path) -> Path:
    """Three class folders with a few images of one colour each."""
    for split, count in (("train", 4), ("val", 2)):
        for label, name in enumerate(CLASSES):
            for i in range(count):
                write_image(
                    tmp_path / "data" / "imagenet" / split / name / f"{name}_{i}.JPEG",
                    (300 + 10 * i, 260),
                    (label * 100, 10 * i, 5),
                )
    return tmp_path / "data"


def test_folders_become_a_task_of_their_classes(image_dir: Path) -> None:
    facts = ImageNet.facts(ImageNetParams(), image_dir)
    assert (facts.num_classes, facts.image_shape, facts.train_size, facts.test_size) == (3, (3, 224, 224), 12, 6)
    assert [synsets()[place] for place in facts.outputs] == list(CLASSES) and facts.all_classes == 1000
    task = ImageNet.load(ImageNetParams(), image_dir)
    assert task.facts == facts and task.test_labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert isinstance(task.train_images, JpegFiles) and task.train_images.shape == (12, 3, 224, 224)
    images = task.test_images[[0, 5]]
    assert images.dtype == np.uint8 and images.shape == (2, 3, 224, 224)
    assert abs(int(images[1, 0].mean()) - 200) < 3 and abs(int(images[1, 1].mean()) - 10) < 3
    assert (
        np.array_equal(task.train_images[2:4], task.train_images[np.array([2, 3])]) and len(task.train_images[[]]) == 0
    )


def test_a_part_of_the_classes_and_of_the_images(image_dir: Path) -> None:
    two = ImageNet.facts(ImageNetParams(classes=f"{CLASSES[2]}, {CLASSES[0]}"), image_dir)
    assert two.num_classes == 2 and [synsets()[place] for place in two.outputs] == [CLASSES[0], CLASSES[2]]
    assert two.content != ImageNet.facts(ImageNetParams(), image_dir).content
    part = ImageNet.load(ImageNetParams(train_size=5, split="validation"), image_dir)
    assert len(part.train_images) == 5 and len(part.test_images) == 2  # a sixth of the folder train
    with pytest.raises(UnknownName, match=r"No class folder in .* is called 'n01440765'. Did you mean 'n01440764'"):
        ImageNet.facts(ImageNetParams(classes="n01440765,n02102040"), image_dir)
    with pytest.raises(BadValue, match="name at least two"):
        ImageNet.facts(ImageNetParams(classes=CLASSES[0]), image_dir)


def test_classes_that_are_not_imagenets_have_a_network_of_their_own(image_dir: Path) -> None:
    for split in ("train", "val"):
        (image_dir / "imagenet" / split / CLASSES[0]).rename(image_dir / "imagenet" / split / "my-class")
    facts = ImageNet.facts(ImageNetParams(), image_dir)
    assert facts.num_classes == 3 and facts.outputs == ()


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("size", [(224, 224), (500, 300), (30, 400)])
def test_images_of_any_mode_and_size_are_resized_and_cut(tmp_path: Path, mode: str, size: tuple[int, int]) -> None:
    path = tmp_path / "x.jpg"
    Image.new(mode, size).save(path)
    assert decode(path).shape == (3, 224, 224)


def test_an_image_that_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.new("RGB", (300, 300)).save(tmp_path / "x.png")
    with pytest.raises(DataError, match="does not decode"):
        decode(tmp_path / "x.png")


def test_the_order_in_which_classes_are_named_does_not_matter(image_dir: Path) -> None:
    one, other = ImageNetParams(classes="b, a"), ImageNetParams(classes="a,b,")
    assert one == other and one.classes == "a,b"


def test_the_centre_is_cut_from_the_resized_image(tmp_path: Path) -> None:
    """A bright square in the middle half of a wide image, by hand: short side to 256, then 16 pixels off each side."""
    image = Image.new("RGB", (1024, 512))
    image.paste((255, 255, 255), (384, 128, 640, 384))  # 256 x 256 in the centre: 128 x 128 after halving
    image.save(tmp_path / "x.png")
    bright = decode(tmp_path / "x.png")[0] > 127
    rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (48, 175, 48, 175)


def test_a_jpeg_that_does_not_decode_fails_its_run_in_one_line_and_no_other(image_dir: Path, bench: Bench) -> None:
    broken = image_dir / "imagenet" / "val" / CLASSES[1] / f"{CLASSES[1]}_0.JPEG"
    broken.write_bytes(broken.read_bytes()[:200])
    factory = Path("tiny.py")
    factory.write_text(TINY)
    options = ["--data-dir", image_dir, "--set", "base.model=tiny.py:build", "--set", "base.epochs=1", "--in-process"]
    done = bench("run", "--defense", "regular", "--attack", "clean", "--dataset", "imagenet", "--dataset", "digits",
                 "-n", "6", "--json", *options[:2], *options[4:])  # fmt: skip
    assert done.code == 2 and "No network is the default for 'imagenet'" in done.err
    done = bench(
        "run", "--defense", "regular", "--attack", "clean", "--dataset", "imagenet", "-n", "6", "--json", *options
    )
    assert done.code == 1
    (failed,) = done.runs
    assert failed["status"] == "FAILED" and "does not decode" in failed["reason"] and str(broken) in failed["reason"]
    with pytest.raises(DataError, match="does not decode"):
        ImageNet.check(image_dir)
    write_image(broken, (300, 260), (100, 0, 5))
    again = bench("run", "--defense", "regular", "--attack", "clean", "--dataset", "imagenet", "-n", "6", "--json",
                  "--rerun", "failed", *options)  # fmt: skip
    assert again.code == 0 and again.runs[0]["status"] == "DONE"


def test_a_class_folder_without_images_is_refused(image_dir: Path, bench: Bench, tmp_path: Path) -> None:
    for path in (image_dir / "imagenet" / "train" / CLASSES[1]).iterdir():
        path.rename(path.with_suffix(".txt"))
    done = bench("run", "--defense", "regular", "--attack", "clean", "--dataset", "imagenet", "--data-dir", image_dir)
    assert done.code == 2 and done.err.count("\n") == 1
    assert f"{CLASSES[1]} has no image" in done.err and not (tmp_path / "results").exists()


def test_a_class_in_one_split_only_and_a_missing_split_are_refused(image_dir: Path) -> None:
    write_image(image_dir / "imagenet" / "val" / "n09999999" / "x.JPEG", (300, 300), (0, 0, 0))
    with pytest.raises(DataError, match=r"'n09999999' is only in one of"):
        ImageNet.facts(ImageNetParams(), image_dir)
    with pytest.raises(DataError, match=r"imagenet/train is missing; ImageNet cannot be downloaded freely"):
        ImageNet.facts(ImageNetParams(), image_dir.parent)


TINY = """
from torch import nn


def build(num_classes, image_shape):
    return nn.Sequential(nn.Conv2d(image_shape[0], 4, 8, stride=8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(4, num_classes))
"""


def test_a_runtime_defense_on_folders_of_images(image_dir: Path, bench: Bench) -> None:
    """Bases, banks and games on lazily decoded images, through the command line."""
    Path("tiny.py").write_text(TINY)
    done = bench(
        "run", "--defense", "rmc", "--defense", "webnn", "--attack", "pgd", "--dataset", "imagenet", "-n", "3",
        "--json", "--data-dir", image_dir, "--in-process",
        "--set", "base.model=tiny.py:build", "--set", "base.epochs=1",
        "--set", "defense.k=8", "--set", "defense.bank_steps=2", "--set", "attack.steps=2",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert [run["status"] for run in done.runs] == ["DONE", "DONE"] and not any(run["violations"] for run in done.runs)


def test_the_real_classes_and_weights_give_the_measured_accuracy(imagenet_dir: Path, bench: Bench) -> None:
    """SqueezeNet 1.1 on 60 of the validation images, among the ten classes: 94 % on all 400."""
    weights = imagenet_dir / "imagenet" / "weights" / "squeezenet1_1.safetensors"
    example = ROOT / "examples" / "squeezenet.py"
    done = bench(
        "run", "--defense", "regular", "--attack", "clean", "--dataset", "imagenet", "-n", "60", "--json",
        "--workers", "1", "--data-dir", imagenet_dir,
        "--set", f"base.model={example}:build", "--set", f"base.weights={weights}",
        "--set", "base.epochs=0",
    )  # fmt: skip
    assert done.code == 0 and done.runs[0]["clean_accuracy"]["value"] >= 0.85

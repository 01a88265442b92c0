"""Folders of images with what is no image in them: one line at planning, or when the image is decoded."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.data.files import data_dir, verify
from bench.data.imagenet import LONGEST, ImageNet, ImageNetParams, decode
from bench.errors import DataError
from tests.conftest import Bench

PLAN = ("run", "--defense", "regular", "--attack", "clean", "--dataset", "imagenet", "--data-dir")
#: a user who owns nothing
NOBODY = 65534


def folders(root: Path) -> Path:
    """A data folder with two classes of two images each."""
    for split in ("train", "val"):
        for name in ("a", "b"):
            (root / "imagenet" / split / name).mkdir(parents=True)
            for number in range(2):
                Image.new("RGB", (8, 9)).save(root / "imagenet" / split / name / f"{number}.png")
    return root


def bound(path: Path) -> None:
    """A socket in a folder; the names of sockets are short, so it is made elsewhere and moved."""
    with tempfile.TemporaryDirectory(dir="/tmp") as near, socket.socket(socket.AF_UNIX) as made:
        made.bind(f"{near}/s")
        shutil.move(f"{near}/s", path)


#: what is put where, and what the line says of it
AT_PLANNING: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "pipe": ("train/a/x.jpg", os.mkfifo, "is a pipe, a socket or a device and no image file; remove it"),
    "socket": ("train/a/x.jpg", bound, "is a pipe, a socket or a device and no image file; remove it"),
    "folder": ("val/b/x.JPEG", Path.mkdir, "is a folder and no image file; remove it"),
    "empty": ("val/b/x.png", Path.touch, "is empty; fetch it again, or remove it"),
    "link to nothing": ("train/b/x.png", lambda p: p.symlink_to("nosuch.png"), "is a link that leads nowhere (No such"),
    "link in a loop": ("train/b/x.png", lambda p: p.symlink_to(p), "is a link that leads nowhere (Too many"),
    "link to a pipe": ("val/a/x.png", lambda p: (os.mkfifo(p.parent / "f"), p.symlink_to("f")), "is a pipe, a socket"),
    "class that is a link to nothing": ("val/c", lambda p: p.symlink_to("nosuch"), "is a link that leads nowhere"),
    "class that is a link in a loop": ("train/c", lambda p: p.symlink_to(p), "is a link that leads nowhere"),
    "class that is a pipe": ("train/c", lambda p: (os.mkfifo(p), (p.parents[1] / "val/c").mkdir()), "'c' is only in"),
    "class that is empty": ("train/c", lambda p: (p.mkdir(), (p.parents[1] / "val/c").mkdir()), "c has no image"),
}


@pytest.mark.parametrize("case", AT_PLANNING)
def test_what_is_no_image_file_is_one_line_at_planning(bench: Bench, tmp_path: Path, case: str) -> None:
    where, make, words = AT_PLANNING[case]
    root = folders(tmp_path / "data")
    make(root / "imagenet" / where)
    told = bench(*PLAN, root)
    assert told.code == 2 and told.err.startswith("bench: ") and told.err.count("\n") == 1, told
    assert words in told.err and not (tmp_path / "results").exists()


def test_what_a_folder_may_hold_besides(tmp_path: Path) -> None:
    """Links to images and to classes, files of other kinds, and names that are no UTF-8."""
    plain, root = folders(tmp_path / "plain"), folders(tmp_path / "data")
    train = root / "imagenet" / "train"
    os.mkfifo(train / "a" / "no image")
    (train / "notes.txt").write_text("about the images")
    assert ImageNet.facts(ImageNetParams(classes="a,b"), root) == ImageNet.facts(ImageNetParams(classes="a,b"), plain)
    (train / "a" / "link.png").symlink_to("0.png")
    Path(os.fsdecode(os.fsencode(train / "a") + b"/\xff.png")).write_bytes((train / "a" / "0.png").read_bytes())
    for split in ("train", "val"):
        (root / "imagenet" / split / "c").symlink_to("a")
    task = ImageNet.load(ImageNetParams(), root)
    assert (task.facts.num_classes, task.facts.train_size, task.facts.test_size) == (3, 10, 6)
    assert task.train_images[list(range(10))].shape == (10, 3, 224, 224)


def saved(path: Path, size: tuple[int, int], kind: str = "JPEG") -> None:
    Image.effect_noise(size, 50).convert("RGB").save(path, kind)


def cut(path: Path, share: float, kind: str = "JPEG") -> None:
    saved(path, (64, 64), kind)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


AT_DECODING: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (lambda p: cut(p, 0.5), "does not decode (image file is truncated"),
    "truncated PNG": (lambda p: cut(p, 0.5, "PNG"), "does not decode"),
    "a few bytes": (lambda p: cut(p, 0.02), "does not decode"),
    "empty": (Path.touch, "does not decode (cannot identify image file"),
    "text": (lambda p: p.write_text("<html>not found</html>"), "does not decode (cannot identify image file"),
    "another format": (lambda p: saved(p, (64, 64), "GIF"), "does not decode (cannot identify image file"),
    "a program for a printer": (
        lambda p: p.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"),
        "does not decode (cannot identify image file",
    ),
    "very narrow": (lambda p: saved(p, (1, 20_000)), "has 1 x 20000 pixels, and its long side is more than 50 times"),
    "very flat": (lambda p: saved(p, (60_000, 2), "PNG"), "has 60000 x 2 pixels, and its long side is more than 50"),
    "very large": (lambda p: Image.new("1", (10_000, 10_000)).save(p, "PNG"), "does not decode (Image size (100000000"),
    "far too large": (lambda p: Image.new("1", (15_000, 15_000)).save(p, "PNG"), "does not decode (Image size (225000"),
}


@pytest.mark.parametrize("case", AT_DECODING)
def test_what_does_not_decode_is_one_line(tmp_path: Path, case: str) -> None:
    make, words = AT_DECODING[case]
    path = tmp_path / "x.jpg"
    make(path)
    with pytest.raises(DataError) as told:
        decode(path)
    assert str(told.value).startswith(f"{path} {words}") and "\n" not in str(told.value)


def test_an_image_as_narrow_as_may_be_is_decoded(tmp_path: Path) -> None:
    for size in ((LONGEST, 1), (2, 2 * LONGEST)):
        saved(tmp_path / "x.png", size, "PNG")
        assert decode(tmp_path / "x.png").shape == (3, 224, 224)


def test_a_verified_folder_names_the_image_that_does_not_decode(bench: Bench, tmp_path: Path) -> None:
    root = folders(tmp_path / "data")
    cut(root / "imagenet" / "val" / "b" / "1.png", 0.5)
    told = bench("data", "imagenet", "--data-dir", root)
    assert told.code == 2 and told.err.count("\n") == 1
    assert "imagenet/val/b/1.png does not decode (image file is truncated" in told.err


@contextmanager
def ordinary_user(folder: Path) -> Iterator[None]:
    """For root, who may read everything: this process is nobody's for a while, and the folder too."""
    if os.geteuid() != 0:
        yield
        return
    for path in (folder, *folder.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def everybodys() -> Iterator[Path]:
    """A data folder under a path that every user may enter, which the folders of tests are not."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield folders(Path(folder) / "data")
        for path in Path(folder).rglob("*"):
            path.chmod(0o755)


def images(root: Path) -> np.ndarray:
    return ImageNet.load(ImageNetParams(), root).train_images[[0, 1, 2, 3]]


UNREADABLE: list[tuple[str, int, Callable[[Path], object], str]] = [
    ("imagenet/train/a", 0o000, images, "imagenet/train/a cannot be read: Permission denied; make it readable"),
    ("imagenet/train/a", 0o600, images, "0.png cannot be looked at (Permission denied)"),
    ("imagenet/val", 0o000, images, "imagenet/val cannot be read: Permission denied"),
    ("imagenet", 0o000, images, "imagenet/train cannot be looked at: Permission denied"),
    ("imagenet/train/b/1.png", 0o000, images, "train/b/1.png does not decode ([Errno 13] Permission denied"),
    ("", 0o000, images, "imagenet/train cannot be looked at: Permission denied"),
    ("", 0o000, lambda root: data_dir(str(root / "imagenet")), "imagenet cannot be looked at: Permission denied"),
    ("imagenet", 0o000, lambda root: verify(root / "imagenet/x", ""), "x cannot be looked at: Permission denied"),
    (
        "imagenet/val/a/0.png",
        0o000,
        lambda root: verify(root / "imagenet/val/a/0.png", ""),
        "0.png cannot be read: Per",
    ),
]


@pytest.mark.parametrize(("where", "mode", "ask", "words"), UNREADABLE)
def test_what_may_not_be_read_is_one_line(
    everybodys: Path, where: str, mode: int, ask: Callable[[Path], object], words: str
) -> None:
    images(everybodys.rename(everybodys.with_name("before")))  # also: what reads is imported
    root = everybodys.with_name("before").rename(everybodys)
    with ordinary_user(root):
        (root / where).chmod(mode)
        with pytest.raises(DataError) as told:
            ask(root)
    assert words in str(told.value) and "\n" not in str(told.value)

"""`imagenet`: folders of JPEG files per class, `imagenet/{train,val}/<synset>/*`, any subset of the classes.

Images are decoded when they are asked for and never held all in memory: the short side is resized to 256 (bilinear),
then the centre of 224 x 224 is cut out. JPEG and PNG are read, whatever a file's ending says. Labels count the classes
of the task in the order of their names. A task of some classes of ImageNet-1k knows which of the thousand they are, so
that a network for all of them can be asked about these alone.

The images cannot be downloaded freely: name a folder that holds them with `--data-dir` or BENCH_DATA. The content hash
of a task is over the names and sizes of the files, not over their bytes (there are 140 GB of them).

Source: Deng et al., ImageNet: A Large-Scale Hierarchical Image Database, CVPR 2009; the synsets of ILSVRC 2012.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import struct
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import field_validator

from bench.data.files import READABLE, cache_dir, looked_at
from bench.data.task import Task, TaskFacts, TaskParams, content_hash, select
from bench.errors import BadValue, DataError, UnknownName, one_line

SIDE, SHORT_SIDE = 224, 256
SUFFIXES = (".jpeg", ".jpg", ".png")
#: other formats have more readers, some of which start programs
FORMATS = ("JPEG", "PNG")
#: how many times as long as its short side an image may be: it is resized as a whole before its centre is cut out
LONGEST = 50
#: what a decoder raises for bytes that it cannot read
_UNDECODED = (OSError, SyntaxError, ValueError, EOFError, struct.error)
#: images that `bench data imagenet` decodes at most, evenly spaced
DECODED_BY_CHECK = 5000


class ImageNetParams(TaskParams):
    """classes: names of class folders, with commas; empty: all that there are."""

    classes: str = ""

    @field_validator("classes")
    @classmethod
    def _in_order(cls, given: str) -> str:
        return ",".join(sorted({name.strip() for name in given.split(",") if name.strip()}))


class ImageNet:
    """ImageNet, or a part of its classes."""

    Params = ImageNetParams
    downloads = False

    @staticmethod
    def facts(params: ImageNetParams, data_dir: Path | None) -> TaskFacts:
        return _facts(params, _listing(_root(data_dir), params.classes))

    @staticmethod
    def load(params: ImageNetParams, data_dir: Path | None) -> Task:
        listing = _listing(_root(data_dir), params.classes)
        facts = _facts(params, listing)
        chosen = select("imagenet", params, len(listing.train))
        source = listing.train if chosen.source == "train" else listing.val
        test = np.arange(len(source)) if chosen.test is None else chosen.test
        return Task(facts, 255, *_images(listing.train, chosen.train), *_images(source, test))

    @staticmethod
    def files(data_dir: Path | None) -> list[Path]:
        return [(data_dir or cache_dir()) / "imagenet" / split for split in ("train", "val")]

    @staticmethod
    def check(data_dir: Path | None) -> list[str]:
        root = _root(data_dir)
        listing = _listing(root, "")
        lines = []
        for split, files in (("train", listing.train), ("val", listing.val)):
            step = -(-len(files) // DECODED_BY_CHECK)
            for path, _ in files[::step]:
                decode(path)
            shown = "all" if step == 1 else f"every {step}th"
            lines.append(f"{root / split}: {len(files)} images of {len(listing.classes)} classes, {shown} decoded")
        return lines


class _Listing:
    """The class folders that are used, and (path, label) of their images, in the order of their names."""

    def __init__(self, classes: tuple[str, ...], splits: dict[str, list[tuple[Path, int]]], digest: str) -> None:
        self.classes = classes
        self.train, self.val = splits["train"], splits["val"]
        self.digest = digest


def _root(data_dir: Path | None) -> Path:
    root = (data_dir or cache_dir()) / "imagenet"
    for split in ("train", "val"):
        if not looked_at(root / split, Path.is_dir):
            raise DataError(
                f"{root / split} is missing; ImageNet cannot be downloaded freely, so name a folder that holds "
                f"imagenet/train/<class>/*.JPEG and imagenet/val/<class>/*.JPEG with --data-dir or BENCH_DATA."
            )
    return root


@lru_cache(maxsize=4)
def _listing(root: Path, classes: str) -> _Listing:
    wanted = classes.split(",") if classes else []
    there = {split: _class_folders(root / split) for split in ("train", "val")}
    for split, names in there.items():
        for name in wanted:
            if name not in names:
                raise UnknownName(f"class folder in {root / split}", name, names)
    if not wanted and there["train"] != there["val"]:
        odd = sorted(set(there["train"]) ^ set(there["val"]))[0]
        raise DataError(
            f"The class folder {odd!r} is only in one of {root}/train and {root}/val; add the other, or name "
            f"the classes to use: dataset.classes=A,B."
        )
    chosen = tuple(sorted(wanted or there["val"]))
    if len(chosen) < 2:
        raise BadValue(f"{root} gives {len(chosen)} classes to tell apart; name at least two in dataset.classes.")
    splits, whole = {}, hashlib.sha256()
    for split in ("train", "val"):
        files = []
        for label, name in enumerate(chosen):
            own = [path for path in _held(root / split / name) if path.suffix.lower() in SUFFIXES]
            if not own:
                raise DataError(
                    f"The class folder {root / split / name} has no image ({', '.join(SUFFIXES)}); add some, or leave "
                    f"the class out of dataset.classes."
                )
            for path in own:
                whole.update(os.fsencode(f"{split}/{name}/{path.name} {_size(path)}\n"))
                files.append((path, label))
        splits[split] = files
    return _Listing(chosen, splits, whole.hexdigest())


def _class_folders(split: Path) -> list[str]:
    """Names of the class folders, in order; other files that lie there are none of the data."""
    return [path.name for path in _held(split) if stat.S_ISDIR(_status(path).st_mode)]


def _held(folder: Path) -> list[Path]:
    """What lies in a folder, in the order of the names."""
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}; {READABLE}.") from None


def _status(path: Path) -> os.stat_result:
    """Mode and size of a file, or of what a link leads to."""
    try:
        return path.stat()
    except OSError as error:
        nowhere = error.errno in (errno.ENOENT, errno.ELOOP)  # it was listed, so it is there
        what = "is a link that leads nowhere" if nowhere else "cannot be looked at"
        raise DataError(f"{path} {what} ({error.strerror}); correct it, or remove it.") from None


def _size(path: Path) -> int:
    """Bytes of an image file: it must be one, and hold something."""
    status = _status(path)
    if not stat.S_ISREG(status.st_mode):
        what = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, a socket or a device"
        raise DataError(f"{path} is {what} and no image file; remove it.")
    if not status.st_size:
        raise DataError(f"{path} is empty; fetch it again, or remove it.")
    return status.st_size


def _facts(params: ImageNetParams, listing: _Listing) -> TaskFacts:
    chosen = select("imagenet", params, len(listing.train))
    places = {name: place for place, name in enumerate(synsets())}
    known = all(name in places for name in listing.classes) and len(listing.classes) < len(places)
    return TaskFacts(
        name="imagenet",
        num_classes=len(listing.classes),
        image_shape=(3, SIDE, SIDE),
        train_size=len(chosen.train),
        test_size=len(listing.val) if chosen.test is None else len(chosen.test),
        content=content_hash(listing.digest, params),
        outputs=tuple(places[name] for name in listing.classes) if known else (),
        all_classes=len(places),
    )


@lru_cache(maxsize=1)
def synsets() -> tuple[str, ...]:
    """The thousand synsets of ILSVRC 2012, in the order of a classifier's outputs."""
    return tuple(Path(__file__).with_name("imagenet_synsets.txt").read_text(encoding="ascii").split())


def _images(files: list[tuple[Path, int]], rows: NDArray[np.int64]) -> tuple[JpegFiles, NDArray[np.int64]]:
    chosen = [files[row] for row in rows]
    return JpegFiles([path for path, _ in chosen]), np.array([label for _, label in chosen], np.int64)


class JpegFiles:
    """Images (N, 3, 224, 224) uint8 that are decoded when they are asked for."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self._paths), 3, SIDE, SIDE)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, rows: Any) -> NDArray[np.uint8]:
        chosen = self._paths[rows] if isinstance(rows, slice) else [self._paths[int(row)] for row in rows]
        if not chosen:
            return np.empty((0, 3, SIDE, SIDE), np.uint8)
        return np.stack([decode(path) for path in chosen])


def decode(path: Path) -> NDArray[np.uint8]:
    """The centre of an image file: (3, 224, 224) uint8; `DataError` if it does not decode."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)  # 89 million pixels and more
            with Image.open(path, formats=FORMATS) as file:
                _check_shape(path, *file.size)
                image = file.convert("RGB")
    except (*_UNDECODED, Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise DataError(f"{path} does not decode ({one_line(error)}); fetch it again, or remove it.") from None
    width, height = image.size
    scale = SHORT_SIDE / min(width, height)
    size = (SHORT_SIDE, int(SHORT_SIDE * height / width)) if width <= height else (int(width * scale), SHORT_SIDE)
    image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = round((image.width - SIDE) / 2), round((image.height - SIDE) / 2)
    pixels = np.asarray(image.crop((left, top, left + SIDE, top + SIDE)), np.uint8)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _check_shape(path: Path, width: int, height: int) -> None:
    if max(width, height) > LONGEST * min(width, height):
        raise DataError(
            f"{path} has {width} x {height} pixels, and its long side is more than {LONGEST} times the short one; cut "
            f"it, or remove it."
        )

"""Every parser of foreign bytes, given what nobody wrote: it answers as documented, or raises as documented.

In the ordinary run each property is tried on a few examples, which are the same each time. `make fuzz` tries many new
ones for some minutes.
"""

from __future__ import annotations

import gzip
import io
import json
import pickle
import shutil
import tomllib
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from functools import cache as kept
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from bench import config, registry
from bench.cache import Cache, damage, dump_tensors, parse_tensors
from bench.cli.options import parse_sets
from bench.data.cifar10 import read_batch
from bench.data.imagenet import decode
from bench.data.mnist import read_idx
from bench.data.task import TaskFacts, TaskParams
from bench.deadline import parse_duration
from bench.errors import BadValue, BenchError, DataError, StoreError
from bench.execution.session import Session, take_runner
from bench.models.sources import fits, load_weights
from bench.planning.plan import plan
from bench.planning.requests import Request, suite_requests
from bench.planning.spec import RunSpec
from bench.rows import NO_COST
from bench.store import files_of
from bench.store.schema import engine_of, file_of, parse_url, shown
from bench.threat import ThreatModel, parse_number
from bench.values import Params, State
from tests.hostile.mutations import json_values, mutated, paths_of, texts, toml_of, toml_values

#: examples of each property in the ordinary run
FEW = 25


@dataclass(frozen=True)
class Property:
    """What holds for every example; many: the examples that `make fuzz` tries, fewer of what is slow."""

    examples: st.SearchStrategy[Any]
    holds: Callable[[Any], None]
    many: int


# -- text: bench.toml, --set, URLs, numbers ----------------------------------------------------------------------------

CELLS = [
    ("regular", "pgd"), ("rmc", "pgd-skip"), ("rmc-plus", "pgd-skip-partial"), ("tent", "dia"), ("webnn", "square"),
    ("regular", "transfer"), ("squeeze-detect", "eot:pgd"), ("hedge", "autoattack"), ("pgd-at", "cw-l2"),
]  # fmt: skip


def facts(name: str, params: TaskParams) -> TaskFacts:
    """Facts of any dataset, without its files."""
    return TaskFacts(name, 10, (3, 32, 32) if name == "cifar10" else (1, 8, 8), 1000, 500, "content")


def planned(requests: list[Request], session: Session) -> None:
    """Plan as `bench run` does, and store and read what was planned."""
    runner: dict[str, Any] = {}
    for request in requests:
        runner |= take_runner(dict(request.sets))
    asked = [
        replace(request, sets={k: v for k, v in request.sets.items() if k[:7] != "runner."}) for request in requests
    ]
    for one in plan(asked, session.config, facts):
        text = json.dumps(one.spec.to_dict(), allow_nan=False)
        assert RunSpec.from_dict(json.loads(text)).key == one.spec.key
    session.settings("x.db", None, "cpu", None, runner)


@kept
def defaults() -> bytes:
    return pickle.dumps(tomllib.loads(config.DEFAULTS.read_text(encoding="utf-8")))


@pytest.fixture(autouse=True)
def _defaults_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take longer than all that is tried. Plug-ins are loaded before anything is drawn."""
    for cell in CELLS:
        keys_of(*cell)
    read = config.read_toml
    monkeypatch.setattr(
        config, "read_toml", lambda path: pickle.loads(defaults()) if path == config.DEFAULTS else read(path)
    )


@kept
def session() -> Session:
    return Session(config.load(None), None)


def configured(text: str | bytes) -> None:
    """A bench.toml, read, and used for runs and for the suites that it changes."""
    path = Path("fuzzed.toml")
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    try:
        read = Session(config.load(path), path)
        planned([Request((defense,), (attack,)) for defense, attack in CELLS[:3]], read)
        for name, suite in read.config.suite.items():
            if suite.model_dump() != session().config.suite.get(name, config.Suite()).model_dump():
                planned(suite_requests(name, read.config.suite, Request((), ())), read)
    except BenchError as error:
        one_line(error)


def one_line(error: Exception) -> None:
    assert str(error).strip() and "Traceback" not in str(error)


def settable(given: tuple[tuple[str, str], list[tuple[str, str]]]) -> None:
    """`--set` values of a command."""
    (defense, attack), sets = given
    try:
        values = parse_sets(tuple(f"{key}={value}" for key, value in sets))
        planned([Request((defense,), (attack,), sets=values)], session())
    except BenchError as error:
        one_line(error)


numbers = st.from_regex(r"[-+]?[0-9_.e]{1,8}(/[-+0-9_.e]{1,6})?|[-+]?(inf|nan)|[0-9]{1,400}", fullmatch=True)
words = st.sampled_from(["true", "False", "none", "[]", "{}", "1e999", "a.py:b", "zoo:", "l2", "same", "other", "auto"])
typed = st.integers(0, 300).map(str) | st.floats(0, 1).map(str) | numbers | texts | words


def told_apart(model: type[Params]) -> list[tuple[str, list[str]]]:
    """The keys of a plug-in, each with the words that it takes."""
    return [(name, [str(word) for word in get_args(field.annotation)]) for name, field in model.model_fields.items()]


@kept
def keys_of(defense: str, attack: str) -> list[tuple[str, list[str]]]:
    """The dotted keys that a cell may have, each with the words that it takes."""
    entry = registry.attacks[attack].resolved()
    names = [field.name for field in fields(ThreatModel)]
    takes = get_type_hints(ThreatModel)
    found = [(f"threat.{name}", [str(word) for word in get_args(takes[name])]) for name in entry.free or names]
    for section, model in (
        ("base", registry.defenses["regular"].load().Params), ("defense", registry.defenses[defense].load().Params),
        ("attack", registry.attacks[attack].load().Params), ("dataset", registry.datasets.load("digits").Params),
        ("game", registry.protocols.load(entry.protocol or "stream").Params), ("runner", config.RunnerSection),
    ):  # fmt: skip
        found += [(f"{section}.{name}", words) for name, words in told_apart(model)]
    return [*found, ("game.protocol", [entry.name for entry in registry.protocols]), ("base.seed", [])]


@st.composite
def sets(draw: st.DrawFn) -> tuple[tuple[str, str], list[tuple[str, str]]]:
    """A cell and what is set for it: mostly keys that it has."""
    cell = draw(st.sampled_from(CELLS))
    chosen = []
    for _ in range(draw(st.integers(1, 3))):
        key, takes = draw(st.sampled_from(keys_of(*cell)))
        if not draw(st.integers(0, 15)):
            key = draw(texts | texts.map(lambda name: f"attack.{name}"))
        chosen.append((key, draw(st.sampled_from(takes) | typed if takes else typed)))
    return cell, chosen


@st.composite
def changes(draw: st.DrawFn) -> str:
    """A bench.toml of one or two keys: mostly those of the defaults, some with a value that another key has."""
    known = pickle.loads(defaults())
    paths = paths_of(known)
    used = [path for path in paths if not {"imagenet", "cifar10", "suite"} & set(path)]
    chosen = {}
    for _ in range(draw(st.integers(1, 2))):
        path = draw(st.sampled_from(used) | st.sampled_from(used) | st.sampled_from(paths))
        if not draw(st.integers(0, 9)):
            path = (*path[: draw(st.integers(0, 1)) - 1], draw(texts))
        chosen[path] = draw(toml_values | st.sampled_from(used).map(lambda path: value_of(known, path)))
    if draw(st.booleans()):
        chosen["suite", "x"] = draw(suites)
    return toml_of(chosen)


def value_of(table: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        table = table[name]
    return table


some = st.sampled_from(["rmc", "regular", "tent", "pgd", "pgd-skip", "clean", "digits", "cifar10", "dia"]) | toml_values
lists = st.lists(toml_values, max_size=2)
names = st.lists(some, max_size=2)
cells = st.fixed_dictionaries(
    {"defense": st.just(["rmc"]) | names, "attack": st.just(["pgd"]) | names},
    optional={
        "base": names,
        "dataset": names,
        "eps": lists,
        "norm": some,
        "seed": lists,
        "n": toml_values,
        "set": st.dictionaries(
            st.sampled_from(["attack.steps", "game.p", "defense.k"]) | texts, toml_values, max_size=2
        ),
        "cross": st.dictionaries(st.just("attack.steps") | texts, lists, max_size=2),
    },
)
suites = st.fixed_dictionaries(
    {"cells": st.lists(cells, min_size=1, max_size=2)},
    optional={
        "cells_of": st.sampled_from(["x", "smoke"]) | texts,
        "where": st.dictionaries(st.sampled_from(["eps", "threat.delay"]), toml_values),
        "over": cells,
        "table": toml_values,
        "table_of": texts,
        "summary": toml_values,
    },
)
SMALL = b"""[run]
n = 10
[defense.rmc]
k = 64
recipe = "fast"
[dataset.digits.eps]
linf = "8/255"
[[suite.x.cells]]
defense = ["rmc"]
attack = ["pgd"]
eps = [0.1, "1/8"]
cross = {"attack.steps" = [1, 2]}
"""
TOML_WORDS = [b"[", b"]", b"[[", b"=", b'"""', b"\\", b"{", b"true", b"inf", b"1979-05-27", b"0x", b"#", b"[game]\n"]


def url(text: str) -> None:
    """A database URL up to the driver, which connects to nothing."""
    try:
        parsed = parse_url(text)
        assert shown(parsed)
        file_of(parsed)
        engine_of(parsed).dispose()
        files_of(text)
    except StoreError as error:
        one_line(error)


schemes = st.sampled_from(["sqlite", "postgresql", "postgresql+psycopg", "mysql", "sqlite+pysqlite", "SQLite", "x", ""])
parts = texts | st.sampled_from(
    [":", "@", "[", "]", "/", "?", "%", "%00", "::1", "99999", "-1", "=", "&", "#", "timeout"]
)
urls = st.tuples(schemes, st.lists(parts, max_size=6)).map(lambda two: f"{two[0]}://{''.join(two[1])}") | st.text()


def number(text: str) -> None:
    for parse in (parse_number, parse_duration):
        try:
            assert abs(parse("x.y", text)) < float("inf")
        except BadValue as error:
            assert str(error).startswith("x.y is ")


# -- what is stored of a run -------------------------------------------------------------------------------------------


@kept
def runs() -> list[dict[str, Any]]:
    """What the database holds of some runs."""
    made = [plan([Request((defense,), (attack,))], session().config, facts) for defense, attack in CELLS[:6]]
    return [json.loads(json.dumps(cell[0].spec.to_dict())) for cell in made]


@st.composite
def changed_runs(draw: st.DrawFn) -> dict[str, Any]:
    """A stored run with up to two changes: a value replaced, removed, or added."""
    run = json.loads(json.dumps(draw(st.sampled_from(runs()))))
    for _ in range(draw(st.integers(1, 2))):
        *above, name = draw(st.sampled_from(paths_of(run)))
        table = value_of(run, tuple(above))
        if isinstance(table, dict):
            change = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
            table.pop(name, None) if change == "remove" else None
            if change != "remove":
                new = st.sampled_from([2**63, -1, 0, 10**400, 1e308, float("nan"), True, None, "", "nosuch", [], {}])
                table[name if change == "replace" else draw(texts)] = draw(new | json_values)
    return run


def stored_run(values: dict[str, Any]) -> None:
    """It is a run that can be described, with a key; or one line says what is wrong."""
    try:
        run = RunSpec.from_dict(values)
    except BadValue as error:
        one_line(error)
        assert "\n" not in str(error)
        return
    assert len(run.key) == 64 and run.game.games >= 1 and run.threat.card() and run.n <= run.test_size < 2**31 + 1
    assert RunSpec.from_dict(json.loads(json.dumps(run.to_dict(), allow_nan=False))).key == run.key


# -- files of the cache ------------------------------------------------------------------------------------------------

TENSORS = {"images": torch.arange(24.0).reshape(2, 3, 4), "labels": torch.tensor([3, 1]), "none": torch.empty(0, 2)}
FACTS = {"state": json.dumps({"facts": {"a": 1}, "cost": asdict(NO_COST)})}
TENSOR_WORDS = [
    b'"dtype":"BOOL"', b'"dtype":"F8_E4M3"', b'"shape":[]', b"[9223372036854775807]", b'"data_offsets":[0,0]',
    b'"__metadata__":', b"null", b"[" * 2000, b'"sha256"',
]  # fmt: skip


@kept
def whole() -> bytes:
    return dump_tensors(TENSORS, FACTS)


def same(tensors: dict[str, torch.Tensor]) -> bool:
    return tensors.keys() == TENSORS.keys() and all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


def tensors(data: bytes) -> None:
    """What was changed is noticed; bytes that are said to be proven may be read as anything, but are read."""
    try:
        found, told = parse_tensors(data)
        assert same(found) and told == FACTS
    except ValueError as error:
        assert str(error).startswith("it ")
    try:
        parse_tensors(data, proven=True)
    except ValueError as error:
        assert str(error).startswith("it ")


def stored(data: bytes) -> None:
    """A file of the cache that others changed is set aside and reported, and what was asked for is made again."""
    told: list[str] = []
    cache = Cache(Path("cache"), told.append)
    path = cache.path("states", "0123")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    found = cache.get_state("0123")
    assert (found is None and len(told) == 1 and not path.exists()) or (found is not None and same(found[0].tensors))
    cache.put_state("0123", State(TENSORS, {"a": 1}))
    again = cache.get_state("0123")
    assert again is not None and same(again[0].tensors) and again[0].facts == {"a": 1}


@st.composite
def headers(draw: st.DrawFn) -> bytes:
    """A file of tensors whose header is any JSON."""
    entry = st.fixed_dictionaries(
        {"dtype": st.sampled_from(["F32", "I64", "BOOL", "F8_E4M3", "C64", "x"]) | json_values,
         "shape": st.lists(st.integers(-1, 2**64), max_size=3) | json_values,
         "data_offsets": st.lists(st.integers(-1, 40), min_size=2, max_size=2) | json_values}
    )  # fmt: skip
    header = draw(st.dictionaries(texts | st.sampled_from(["__metadata__", "images"]), entry | json_values, max_size=3))
    if draw(st.booleans()):
        header["__metadata__"] = draw(st.dictionaries(texts | st.just("sha256"), texts, max_size=2) | json_values)
    text = json.dumps(header).encode()
    length = draw(st.just(len(text)) | st.integers(0, 2**64 - 1))
    return length.to_bytes(8, "little") + text + draw(st.binary(max_size=40))


def made(folder: Path) -> None:
    np.save(folder / "images.npy", np.arange(60, dtype=np.uint8).reshape(5, 3, 2, 2))
    np.save(folder / "features.npy", np.arange(10.0, dtype=np.float32).reshape(5, 2))


@kept
def bank() -> dict[str, bytes]:
    """The files of a bank, by name."""
    folder = Cache(Path("kept").absolute()).get_or_build("banks", "0123", made)
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def banked(given: tuple[str, bytes]) -> None:
    """A bank with one changed file is set aside and made again; one with the same bytes is taken as it is."""
    name, data = given
    told: list[str] = []
    cache = Cache(Path("cache"), told.append)
    folder = cache.path("banks", "0123")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for file, content in bank().items():
        (folder / file).write_bytes(data if file == name else content)
    found = damage(folder)
    if name != "manifest.json":
        assert bool(found) == (data != bank()[name])
    assert cache.get_or_build("banks", "0123", made) == folder and len(told) == bool(found)
    assert not damage(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"} == {
        file: content for file, content in bank().items() if file != "manifest.json"
    }


banks = st.deferred(
    lambda: st.sampled_from(sorted(bank())).flatmap(
        lambda name: st.tuples(
            st.just(name),
            mutated([bank()[name]])
            | st.binary(max_size=40)
            | json_values.map(lambda value: json.dumps(value).encode()),
        )
    )
)
manifests = st.deferred(
    lambda: st.dictionaries(
        st.sampled_from([*bank(), "../x", "/", "", "."]) | texts,
        st.tuples(st.integers(0, 200) | json_values, st.just("0" * 64) | json_values) | json_values,
        max_size=3,
    ).map(lambda value: ("manifest.json", json.dumps(value).encode()))
)


# -- files of data -----------------------------------------------------------------------------------------------------


def written(name: str, data: bytes) -> Path:
    path = Path(name)
    path.write_bytes(data)
    return path


def refused(read: Callable[[Path], Any], path: Path) -> Any:
    """What was read; None where the file is refused in a line that names it."""
    try:
        return read(path)
    except DataError as error:
        assert str(error).startswith(f"{path} ") and "\n" not in str(error)
        return None


def idx(data: bytes) -> None:
    array = refused(read_idx, written("idx.gz", gzip.compress(data, 1)))
    assert array is None or array.dtype == np.uint8


def zipped(data: bytes) -> None:
    refused(read_idx, written("idx.gz", data))


IDX = [
    b"\0\0\x08\x03" + b"".join(size.to_bytes(4, "big") for size in (2, 3, 3)) + bytes(range(18)),
    b"\0\0\x08\x01" + (4).to_bytes(4, "big") + b"\1\2\3\4",
]
IDX_WORDS = [b"\0\0\x08\xff", b"\0\0\x08\0", b"\0\0\x10\0", b"\xff\xff\xff\xff", b"\0\0\0\0"]


def batch(data: bytes) -> None:
    found = refused(read_batch, written("data_batch_1", data))
    if found is not None:
        images, labels = found
        assert images.shape == (len(labels), 3, 32, 32) and images.dtype == np.uint8 and labels.dtype == np.int64


@kept
def batches() -> list[bytes]:
    value = {
        b"batch_label": b"1",
        b"labels": [3, 4],
        b"data": np.zeros((2, 3072), np.uint8),
        b"filenames": [b"a", b"b"],
    }
    return [pickle.dumps(value, protocol=protocol) for protocol in (2, 4)]


#: opcodes, and names and sizes that are asked for
PICKLE_WORDS = [
    b"r\xff\xff\xff\x3f", b"q\xff", b"p99999999\n", b"cnumpy\nndarray\nI99999999999\n\x85R",
    b".", b"(", b")", b"}", b"]", b"R", b"b", b"c", b"\x81", b"\x85", b"\x86", b"\x93", b"0", b"h\0", b"N", b"s", b"u",
    b"e", b"K\xff", b"\x8a\xff", b"\x8e" + b"\xff" * 7 + b"\x7f", b"\x96" + b"\xff" * 7 + b"\x7f", b"cos\nsystem\n",
    b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"J\xff\xff\xff\x7f", b"\x8c\x01\xff", b"I9e9\n", b"F1\n", b"L9L\n",
    b"V\\ud800\n", b"Pid\n", b"\x82\x01", b"\x80\x09", b"\x95\xff\xff\xff\xff\0\0\0\0",
]  # fmt: skip


def image(data: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of pillow, about what stands beside the pixels
        pixels = refused(decode, written("x.jpg", data))
    assert pixels is None or (pixels.shape == (3, 224, 224) and pixels.dtype == np.uint8)


@kept
def images() -> list[bytes]:
    found = []
    for kind, mode, options in (
        ("JPEG", "RGB", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"}),
        ("JPEG", "CMYK", {"progressive": True, "comment": b"x"}),
        ("PNG", "RGB", {"compress_level": 1}),
        ("PNG", "P", {"transparency": 1}),
        ("PNG", "I;16", {}),
    ):
        buffer = io.BytesIO()
        Image.effect_noise((20, 18), 60).convert(mode).save(buffer, kind, **options)
        found.append(buffer.getvalue())
    return found


IMAGE_WORDS = [
    b"\xff\xd8", b"\xff\xd9", b"\xff\xc0\0\x11\x08", b"\xff\xc4", b"\xff\xe1", b"\xff\xe2MPF\0", b"\xff\xda",
    *b"IHDR IDAT PLTE tRNS iCCP zTXt iTXt eXIf acTL fcTL fdAT IEND cHRM pHYs GIF89a %!PS-Adobe".split(),
]  # fmt: skip


@kept
def network() -> nn.Module:
    return nn.Linear(3, 2)


def weights(data: bytes) -> None:
    """A file of weights that the user names: it fits, or one line says why not."""
    path = written("weights.safetensors", data)
    fits(network(), str(path))
    try:
        load_weights(network(), str(path), "x")
    except BadValue as error:
        assert str(error).startswith(f"{path} ") and "\n" not in str(error)


@kept
def linear() -> bytes:
    return dump_tensors({"weight": torch.ones(2, 3), "bias": torch.zeros(2)}, {})


PROPERTIES = {
    "bench.toml, bytes": Property(mutated([SMALL], TOML_WORDS) | st.binary(max_size=60), configured, 1500),
    "bench.toml, values": Property(changes(), configured, 3000),
    "--set": Property(sets(), settable, 6000),
    "URL of a database": Property(urls, url, 6000),
    "number": Property(typed, number, 10000),
    "stored run": Property(st.deferred(changed_runs), stored_run, 6000),
    "file of tensors": Property(st.deferred(lambda: mutated([whole()], TENSOR_WORDS)), tensors, 8000),
    "header of tensors": Property(headers(), tensors, 8000),
    "stored state": Property(st.deferred(lambda: mutated([whole()], TENSOR_WORDS)) | headers(), stored, 2000),
    "bank": Property(banks | manifests, banked, 2000),
    "idx": Property(mutated(IDX, IDX_WORDS) | st.binary(max_size=40), idx, 8000),
    "gzip of idx": Property(mutated([gzip.compress(part, mtime=0) for part in IDX]), zipped, 4000),
    "batch of CIFAR-10": Property(st.deferred(lambda: mutated(batches(), PICKLE_WORDS)), batch, 10000),
    "JPEG and PNG": Property(st.deferred(lambda: mutated(images(), IMAGE_WORDS)), image, 6000),
    "file of weights": Property(st.deferred(lambda: mutated([linear()], TENSOR_WORDS)) | headers(), weights, 6000),
}  # fmt: skip
SILENCED = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]


def tried(name: str, **options: Any) -> None:
    """Try a property on examples; a failure shows the smallest example that was found."""
    checked = PROPERTIES[name]

    @settings(database=None, deadline=None, suppress_health_check=SILENCED, **options)
    @given(checked.examples)
    def holds(example: Any) -> None:
        checked.holds(example)

    holds()


@pytest.mark.parametrize("name", PROPERTIES)
def test_a_few_examples(name: str) -> None:
    tried(name, max_examples=FEW, derandomize=True, phases=[Phase.generate, Phase.shrink])


@pytest.mark.fuzz
@pytest.mark.parametrize("name", PROPERTIES)
def test_many_examples(name: str) -> None:
    tried(name, max_examples=PROPERTIES[name].many, print_blob=True)

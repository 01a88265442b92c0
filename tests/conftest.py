"""What the tests share: one cache of bases and banks, a command line in this process, the real MNIST if it is there."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import torch
from alembic import command
from sqlalchemy import create_engine

from bench import config, plugins, registry
from bench.cli.main import call
from bench.environment import one_thread
from bench.game.resources import Resources
from bench.planning.facts import facts_of
from bench.planning.plan import plan
from bench.planning.requests import Request
from bench.planning.spec import RunSpec
from bench.settings import Settings
from bench.store.schema import _config
from tests.databases import postgres_server

#: the checkout
ROOT = Path(__file__).parent.parent

#: small and quick, for tests that ask how and not how well
QUICK = {"base.epochs": 8, "defense.epochs": 1, "defense.k": 128, "defense.bank_steps": 5, "attack.steps": 5}


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    one_thread()


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """A shell starts its background jobs deaf to Ctrl-C, and what they start is deaf too."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def cache_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bases and banks that the tests make once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _clean_environment(
    cache_root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[None]:
    """Every test works in an empty folder of its own, with the shared cache and without anybody's data folder."""
    monkeypatch.setenv("BENCH_CACHE", str(cache_root))
    monkeypatch.delenv("COLUMNS", raising=False)  # pytest-xdist sets it, and tables and lists keep to it
    if not {"mnist_dir", "cifar10_dir", "imagenet_dir"} & set(request.fixturenames):
        monkeypatch.delenv("BENCH_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    fresh_registry()
    yield
    fresh_registry()


def fresh_registry() -> None:
    """The built-in names alone, without what a test registered."""
    for names in registry.ALL:
        names.clear()
    plugins.load_all()


def real(what: str, part: str) -> Path:
    """The folder of BENCH_DATA, where it holds `part`; else the test is skipped."""
    folder = os.environ.get("BENCH_DATA")
    if not folder or not (Path(folder) / part).exists():
        # data sets are no part of the project and no test downloads them, so a machine may well have none
        pytest.skip(f"needs {what}: set BENCH_DATA to a folder with {part}")
    return Path(folder)


def needed(*programs: str, folders: str = "", package: str = "") -> str:
    """The path of the first of these programs that is there; folders: a pattern of where to look besides.

    A user's machine need not have any: there the test is skipped. `.ci/run` installs them, so in CI it fails instead.
    """
    places = os.pathsep.join(
        [os.environ.get("PATH", ""), *map(str, sorted(Path("/").glob(folders.lstrip("/")) if folders else []))]
    )
    for program in programs:
        if path := shutil.which(program, path=places):
            return path
    text = f"needs {programs[0]}; install it (Debian: apt-get install {package or programs[0]})"
    if os.environ.get("CI"):
        pytest.fail(text)
    pytest.skip(text)  # a browser, a shell or a server of a user's machine: the tests put nothing on it


@pytest.fixture(scope="session")
def mnist_dir() -> Path:
    """The folder with the original MNIST files."""
    return real("the original MNIST files", "mnist/train-images-idx3-ubyte.gz")


@pytest.fixture(scope="session")
def cifar10_dir() -> Path:
    """The folder with the original CIFAR-10 batches."""
    return real("the original CIFAR-10 batches", "cifar-10-batches-py/data_batch_1")


@pytest.fixture(scope="session")
def imagenet_dir() -> Path:
    """The folder with ten classes of ImageNet and the weights of SqueezeNet 1.1."""
    return real("ImageNet classes and SqueezeNet weights", "imagenet/weights/squeezenet1_1.safetensors")


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A server for the whole test session: the URL of a database on it, with {} for its name."""
    control = needed("pg_ctl", folders="/usr/lib/postgresql/*/bin", package="postgresql")
    with postgres_server(control) as server:
        yield server.url


@pytest.fixture
def postgres_url(postgres: str) -> Iterator[str]:
    """The URL of an empty database on the server, dropped after the test."""
    name = f"test_{uuid4().hex}"
    engine = create_engine(postgres.format("postgres"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
        yield postgres.format(name)
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    engine.dispose()


@pytest.fixture(params=["sqlite", "postgres"])
def db_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database that is not there yet (SQLite) or is empty (PostgreSQL); a test runs over both."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'bench.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@dataclass
class Outcome:
    """What a command printed and its exit code."""

    code: int
    out: str
    err: str

    @property
    def runs(self) -> list[dict[str, Any]]:
        """The objects that --json printed, one a line."""
        return [json.loads(line) for line in self.out.splitlines()]


Bench = Callable[..., Outcome]


@pytest.fixture
def bench() -> Bench:
    """The command line, run in this process: bench("run", "--defense", "rmc", ...)."""

    def run(*args: object) -> Outcome:
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = call([str(arg) for arg in args])
        return Outcome(code, out.getvalue(), err.getvalue())

    return run


def migrate(url: str, revision: str, upwards: bool = True) -> None:
    """Bring the schema of a database up or down to a revision."""
    engine = create_engine(url)
    with engine.begin() as connection:
        (command.upgrade if upwards else command.downgrade)(_config(connection), revision)
    engine.dispose()


def sets(**values: object) -> list[str]:
    """--set options: sets(game__p=10) is ["--set", "game.p=10"]."""
    return [part for key, value in values.items() for part in ("--set", f"{key.replace('__', '.')}={value}")]


@pytest.fixture
def resources(cache_root: Path) -> Resources:
    """What games need, on the CPU, with the shared cache."""
    return Resources(Settings(cache_root, None, "cpu", None, (), 50, 5.0, 1))


def spec_of(defense: str, attack: str, n: int = 12, **values: object) -> RunSpec:
    """A quick run on digits, with dotted keys as in `sets`."""
    keys = {key.replace("__", "."): value for key, value in values.items()}
    return plan_quick(defense, attack, n, keys)


def plan_quick(defense: str, attack: str, n: int, keys: dict[str, object], radii: tuple[str, ...] = ()) -> RunSpec:
    """Plan one run with QUICK under `keys`, leaving out the quick keys that the cell does not declare."""
    entry, attack_entry = registry.defenses[defense], registry.attacks[attack]
    declared = {f"base.{name}" for name in registry.defenses.load("regular").Params.model_fields}
    declared |= {f"attack.{name}" for name in attack_entry.load().Params.model_fields}
    if not entry.base:
        declared |= {f"defense.{name}" for name in entry.load().Params.model_fields}
    quick = {key: value for key, value in QUICK.items() if key in declared}
    request = Request((defense,), (attack,), n=n, sets={**quick, **keys}, eps=radii)
    return plan([request], config.load(None), facts_of(None))[0].spec


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)

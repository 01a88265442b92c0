"""Options that several commands share, and what they stand for."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bench.cli.complete import files, folders, one_of
from bench.errors import BadValue, StoreError

if TYPE_CHECKING:
    from bench.config import Config
    from bench.store import Store
    from bench.workbench import Settings

Function = TypeVar("Function", bound=Callable[..., Any])


def db_option(function: Function) -> Function:
    return click.option("--db", metavar="URL", help="Database: a path or an SQLAlchemy URL.", shell_complete=files)(
        function
    )


def json_option(function: Function) -> Function:
    return click.option("--json", "as_json", is_flag=True, help="JSON on standard output.")(function)


def config_option(function: Function) -> Function:
    return click.option(
        "--config", metavar="FILE", help="A bench.toml; default: the one in this folder.", shell_complete=files
    )(function)


def data_option(function: Function) -> Function:
    return click.option(
        "--data-dir", metavar="DIR", help="Folder with the datasets; default: $BENCH_DATA.", shell_complete=folders
    )(function)


def unused_data_option(function: Function) -> Function:
    """`--data-dir` for commands that read only the database: taken, so that one set of options fits all commands."""
    option = click.option("--data-dir", metavar="DIR", expose_value=False, help="Taken, and not needed here.")
    return option(function)


def plugin_option(function: Function) -> Function:
    return click.option(
        "--plugin", "plugins", metavar="FILE", multiple=True, help="A Python file with plug-ins.", shell_complete=files
    )(function)


def set_option(function: Function) -> Function:
    return click.option("--set", "sets", metavar="KEY=VALUE", multiple=True, help="A dotted key: defense.k=512.")(
        function
    )


def device_option(function: Function) -> Function:
    return click.option(
        "--device",
        metavar="auto|cpu|cuda",
        default="auto",
        help="Where tensors live.",
        shell_complete=one_of("auto", "cpu", "cuda"),
    )(function)


def write_text(out: str, text: str) -> None:
    """Write a file that the user named; `BadValue` where that cannot be."""
    try:
        Path(out).write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise BadValue(f"{out!r} cannot be written: {error.strerror}; give --out another.") from None


@dataclass(frozen=True)
class Session:
    """A configuration with its plug-ins loaded."""

    config: Config
    path: Path | None
    plugins: tuple[str, ...]

    def db(self, given: str | None) -> str:
        return given or self.config.store.db

    def store(self, given: str | None) -> Store:
        """The store, which must exist already."""
        from bench.store import Store

        url = self.db(given)
        store = Store.open(url, create=False)
        if store is None:
            raise StoreError(
                f"There is no database at {url}; run something first, such as: bench run --defense rmc --attack pgd"
            )
        return store

    def settings(
        self,
        db: str,
        data_dir: Path | None,
        device: str,
        workers: int | None = None,
        runner: dict[str, Any] | None = None,
    ) -> Settings:
        """How runs are executed here."""
        from pydantic import ValidationError

        from bench.config import RunnerSection, validation_error
        from bench.store.store import files_of
        from bench.workbench import Settings

        values = {**self.config.runner.model_dump(), **(runner or {})}
        if workers is not None:
            values["workers"] = workers
        try:
            section = RunnerSection(**values)
        except ValidationError as error:
            raise validation_error(error, RunnerSection, "[runner]") from None
        return Settings(
            cache_root=files_of(db),
            data_dir=data_dir,
            device=device,
            config=self.path,
            plugins=self.plugins,
            chunk=section.chunk,
            checkpoint_s=section.checkpoint_s,
            workers=section.workers or (1 if device == "cuda" else os.cpu_count() or 1),
        )


def open_session(config: str | None, plugins: tuple[str, ...] = (), strict: bool = True) -> Session:
    """Find and read the configuration, and load the names of all plug-ins (see `registry.load_all` for strict)."""
    from bench import registry
    from bench.config import find, load

    path = find(config)
    registry.load_all(path, plugins, strict)
    return Session(load(path), path, plugins)


def take_runner(values: dict[str, str]) -> dict[str, str]:
    """The keys of `values` that say how runs are executed (runner.*), taken out of it."""
    return {key.partition(".")[2]: values.pop(key) for key in list(values) if key.startswith("runner.")}


def parse_sets(sets: tuple[str, ...]) -> dict[str, str]:
    """KEY=VALUE pairs; a later one wins."""
    values = {}
    for text in sets:
        key, equals, value = text.partition("=")
        if not equals or "." not in key:
            raise BadValue(f"--set {text!r} is no dotted key with a value; write it like defense.k=512.")
        values[key.strip()] = value.strip()
    return values

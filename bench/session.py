"""From a request to stored runs, for whoever asks: the command line and the library say the same and get the same."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import BadValue, StoreError

if TYPE_CHECKING:
    from bench.config import Config
    from bench.plan import Planned, Request
    from bench.runner import Listener
    from bench.store import Store
    from bench.workbench import Settings


@dataclass(frozen=True)
class Prepared:
    """Runs that nothing speaks against, and how they would be played; nothing has been written yet.

    known  the database as it is, None where there is none
    """

    planned: list[Planned]
    settings: Settings
    url: str
    known: Store | None
    suite: str | None
    rerun: str

    def begin(self) -> Store:
        """The database, made if need be, in which the runs are noted under their suite."""
        from bench.store import Store

        store = Store.open(self.url)
        assert store is not None
        if self.suite is not None:
            store.add_to_suite(self.suite, [item.spec.key for item in self.planned])
        return store

    def play(self, store: Store, listener: Listener | None = None) -> None:
        """Bring all runs to an end; one that fails is stored with its reason and stops no other."""
        from bench.runner import run_all

        run_all(self.planned, store, self.settings, self.rerun, listener)


@dataclass(frozen=True)
class Session:
    """A configuration, and the plug-ins that belong to it."""

    config: Config
    path: Path | None
    plugins: tuple[str, ...] = ()

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

    def prepare(
        self,
        request: Request,
        suite: str | None = None,
        *,
        db: str | None = None,
        data_dir: str | None = None,
        device: str = "auto",
        workers: int | None = None,
        rerun: str = "missing",
    ) -> Prepared:
        """Plan a request (or the cells of a suite, with the request over them) and look at all that it needs.

        Raises a `BenchError` for anything wrong; nothing is written. `runner.*` keys of the request's sets say how the
        runs are executed.
        """
        from bench.data.files import data_dir as data_folder
        from bench.plan import plan, suite_requests
        from bench.store import Store
        from bench.threat import ThreatModel, parse_number
        from bench.workbench import facts_of, pick_device

        sets = dict(request.sets)
        how = take_runner(sets)
        request = replace(request, sets=sets)
        if rerun not in ("missing", "failed", "all"):
            raise BadValue(f"--rerun is {rerun!r}; give missing, failed or all.")
        for radius in request.eps:
            ThreatModel(eps=parse_number("--eps", radius))
        if request.norm:
            ThreatModel(norm=request.norm)  # type: ignore[arg-type]
        if suite is None and not (request.defenses and request.attacks):
            raise BadValue("Give --defense and --attack, or --suite; see: bench list")
        requests = [request] if suite is None else suite_requests(suite, self.config.suite, request)
        folder = data_folder(data_dir)
        planned = plan(requests, self.config, facts_of(folder))
        place = pick_device(device)
        url = self.db(db)
        settings = self.settings(url, folder, place, workers, how)
        known = Store.open(url, create=False)  # one that cannot be used is found out before anything is written
        return Prepared(planned, settings, url, known, suite, rerun)


def open_session(config: str | None, plugins: tuple[str, ...] = (), strict: bool = True) -> Session:
    """Find and read the configuration, and load the names of all plug-ins (see `registry.load_all` for strict)."""
    from bench import registry
    from bench.config import find, load

    path = find(config)
    registry.load_all(path, plugins, strict)
    return Session(load(path), path, plugins)


def take_runner(values: dict[str, Any]) -> dict[str, Any]:
    """The keys of `values` that say how runs are executed (runner.*), taken out of it."""
    return {key.partition(".")[2]: values.pop(key) for key in list(values) if key.startswith("runner.")}

"""What pages of runs are made from: rows, files beside the database, and the command that repeats the run.

Of each page it is known what it depends on, so that it can be told whether one has to be drawn again.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench import registry
from bench.cache import MANIFEST, Cache
from bench.environment import environment, one_thread
from bench.errors import BenchError, StoreError, one_line
from bench.execution.session import Session
from bench.game.resources import Resources
from bench.planning.config_check import sections_hold
from bench.planning.facts import content_of
from bench.planning.repeat import command_of
from bench.planning.spec import RunSpec
from bench.registry import BUILT_IN, PROGRAM
from bench.source import foreign_code, tree_hash
from bench.store import RunRecord, Store, in_parts
from bench.tiers import shared_store
from leaderboard.content import RunSummary
from leaderboard.page import ASSETS, TEMPLATES
from leaderboard.run_page import RunDetails, details_of

HOME = Path(__file__).parents[1]
#: packages that decide, beside torch and its like, how a page looks
PACKAGES = ("altair", "jinja2", "markupsafe", "vl-convert-python")


@dataclass(frozen=True)
class Place:
    """Where runs are stored, and how a process opens them.

    data_dir   the folder of the datasets; None: the default
    given      options of this call that a command which repeats a run needs too
    """

    session: Session
    url: str
    data_dir: Path | None = None
    given: tuple[str, ...] = ()


class StoredRuns:
    """Reads the details of runs, which a call gives."""

    def __init__(self, place: Place, store: Store | None = None) -> None:
        self.place = place
        opened = store or Store.open(place.url, create=False)
        assert opened is not None
        self._store = opened
        settings = place.session.settings(place.url, place.data_dir, "cpu")
        made_with = environment("cpu")
        self._cache = _Watched(settings.cache_root, lambda line: None, shared_store(settings.store), made_with)
        self._resources = Resources(settings, cache=self._cache)
        self._records: dict[str, RunRecord] = {}
        self._contents: dict[str, str] = {}
        self._stamps: dict[str, str] = {}
        one_thread()

    def __call__(self, run: RunSummary) -> RunDetails:
        config = self.place.session.config
        self._cache.asked.clear()
        record = self._record(run.run)
        spec = RunSpec.from_dict(record.spec)
        command = command_of(spec, config, self._resources.facts, self.place.given, self._checked)
        return details_of(self._store, record, run, self._resources, command)

    # -- what a page depends on -------------------------------------------------------------------------------------

    def inputs(self, runs: Iterable[RunSummary], settings: object) -> dict[str, str]:
        """By the key of each run, the digest of all that its page is a function of, but for the files that it uses.

        settings: what the site says of itself.
        """
        runs = list(runs)
        self._remember(run.run for run in runs)
        config = self.place.session.config.model_dump(exclude={"runner", "store"})  # how runs are played, and where
        common = [drawn_by(), _registered(), config, self.place.given, settings]
        return {run.run: _digest([common, run, *self._facts(self._record(run.run))]) for run in runs}

    def _facts(self, record: RunRecord) -> list[Any]:
        stored = [record.status, record.reason, record.spec, record.clean_key, record.provenance]
        return [*stored, record.finished, record.origin, self._state(record.clean_key), self._content(record.spec)]

    def _state(self, key: str | None) -> Any:
        """What changes when the rows of a run do."""
        if key is None:
            return None
        try:
            record = self._record(key)
        except BenchError as error:  # it is damaged or was removed, which the page follows too
            return one_line(error)
        ended = record.finished is not None
        return [record.status, record.finished, record.origin, 0 if ended else self._store.count_rows(key)]

    def _content(self, spec: dict[str, Any]) -> str:
        """The content of the dataset of a run, as it is here; or why it is not here."""
        name, params = spec["dataset"]["name"], spec["dataset"]["params"]
        key = _digest([name, params])
        if key not in self._contents:
            try:
                with foreign_code():
                    facts = self._resources.facts(name, registry.datasets.load(name).Params(**params))
                    self._contents[key] = content_of(name, facts)
            except Exception as error:  # a dataset that is not here, or of a plug-in, may raise anything: pages say so
                self._contents[key] = f"{type(error).__name__}: {one_line(error)}"
        return self._contents[key]

    def uses(self) -> dict[str, str]:
        """The artefacts that were looked for when the last details were read, each with what is there now."""
        names = sorted(self._cache.asked)
        return {name: self._cache.stamp(name) for name in names}

    def stamp(self, name: str) -> str:
        """What is there of an artefact, looked up once in the life of this object: while no page is drawn."""
        if name not in self._stamps:
            self._stamps[name] = self._cache.stamp(name)
        return self._stamps[name]

    # -- reading ----------------------------------------------------------------------------------------------------

    def _remember(self, keys: Iterable[str]) -> None:
        """Read the runs with these keys, which are sound, many by one statement."""
        for part in in_parts([key for key in keys if key not in self._records]):
            self._records |= {record.key: record for record in self._store.runs(key=part)}

    def _record(self, key: str) -> RunRecord:
        if key not in self._records:
            found = self._store.find(key)
            if found is None:
                raise StoreError(f"The run {key[:12]} was removed while its page was drawn; give the command again.")
            self._records[key] = found
        return self._records[key]

    @cached_property
    def _checked(self) -> bool:
        return sections_hold(self.place.session.config)


class _Watched(Cache):
    """A cache that knows what it was asked for."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.asked: set[str] = set()

    def path(self, kind: str, key: str) -> Path:
        path = super().path(kind, key)
        self.asked.add(f"{kind}/{key}")
        return path

    def stamp(self, name: str) -> str:
        """What is there of an artefact, in a few words that change when it does; "" for nothing.

        A file is named by what it holds, or by what it was made from: its size tells whether it is whole.
        """
        kind, _, key = name.partition("/")
        try:
            path = self.path(kind, key)
        except ValueError:  # no artefact is called so: somebody edited the file that names it
            return "no artefact"
        try:
            if path.is_dir():
                manifest = path / MANIFEST
                return sha256(manifest.read_bytes()).hexdigest() if manifest.is_file() else "no manifest"
            if path.is_file():
                return f"{path.stat().st_size} bytes"
            return "shared" if self.has(kind, key) else ""
        except OSError as error:  # the page says what it could not show
            return f"unreadable: {error.strerror}"


@cache
def drawn_by() -> str:
    """Digest of the code, the templates and the assets that draw, and of the versions of what they use."""
    packages = {name: tree_hash(HOME / name) for name in ("bench", "attacks", "defenses", "leaderboard")}
    files = [path for folder in (TEMPLATES, ASSETS) for path in sorted(folder.rglob("*")) if path.is_file()]
    texts = [(path.relative_to(HOME).as_posix(), sha256(path.read_bytes()).hexdigest()) for path in files]
    versions = {name: version(name) for name in PACKAGES}
    return _digest([packages, texts, versions, environment("cpu"), platform.python_version()])


def _registered() -> str:
    """Digest of all names that a command may hold, with the sources of those that are not of this project."""
    return _digest([[names.what, *_entry(entry)] for names in registry.ALL for entry in names])


def _entry(entry: registry.Entry) -> list[Any]:
    source = ""
    if entry.origin != BUILT_IN:
        try:
            with foreign_code():
                source = entry.source_hash()
        except Exception as error:  # a plug-in may raise anything; pages say what they cannot show for it
            source = f"{type(error).__name__}: {one_line(error)}"
    return [entry.name, entry.version, source]


def _digest(value: object) -> str:
    """sha256 of values of Python as it writes them: a database may hold numbers that are none, which JSON refuses."""
    return sha256(repr(value).encode("utf-8", "backslashreplace")).hexdigest()


def knows_own_names() -> bool:
    """Whether this program registered names itself, which no other process knows."""
    return any(entry.origin == PROGRAM for names in registry.ALL for entry in names)

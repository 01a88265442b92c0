"""What `bench doctor` examines: whether runs can work here, and what to do if they cannot.

It creates, downloads and changes nothing.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bench import plugins, registry
from bench.errors import BenchError, BrokenPlugin, DamagedRun, StoreError, one_line

if TYPE_CHECKING:
    from bench.config import Config

Level = Literal["ok", "note", "problem"]

#: free bytes below which runs are in danger, and below which it is worth a note
FULL, NEARLY_FULL = 100 << 20, 1 << 30
#: what an extra is for; other extras are for those who develop the harness
EXTRAS = {
    "parquet": "bench export --format parquet",
    "postgres": "a database on a PostgreSQL server",
    "imagenet": "networks such as base.model=torchvision:NAME and timm:NAME",
}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `problem`: a run on digits would not work; `todo`: what to do about it."""

    level: Level
    what: str
    message: str
    todo: str = ""


@dataclass
class Patient:
    """What is examined: the given options, and the configuration in use once it has been read."""

    config_file: Path | None
    plugins: tuple[str, ...]
    db: str | None
    data_dir: str | None
    config: Config
    #: whether a run would use `config`; if the configuration cannot be read, the defaults are examined
    readable: bool = False

    @property
    def url(self) -> str:
        return self.db or self.config.store.db


def examine(
    config: str | None, plugins: tuple[str, ...], db: str | None, data_dir: str | None, deep: bool = False
) -> list[Finding]:
    """Look at everything, in the order in which one thing needs another. `BadValue` where `config` is no file.

    deep: compare the contents of all files beside the database too, and the summaries of runs with their rows.
    """
    findings = [*_looked("python", _python), *_looked("packages", _packages)]
    if any(finding.level == "problem" for finding in findings):
        return [*findings, Finding("note", "the rest", "was not looked at: it needs these packages")]
    from bench.config import find, load

    patient = Patient(find(config), plugins, db, data_dir, load(None))
    for what, look in (
        ("device", _device),
        ("configuration", _configuration),
        ("plug-ins", _plugins),
        ("data folder", _data),
        ("zoo", lambda patient: _zoo()),
        ("database", _database),
        ("files", _files),
        *([("contents", _contents), ("summaries", _summaries)] if deep else []),
        ("a run on digits", _run),
        ("extras", _extras),
    ):
        findings += _looked(what, partial(look, patient))
    return findings


def _looked(what: str, look: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """The findings of one part. If it raises, that is a problem, and the other parts go on."""
    findings: list[Finding] = []
    try:
        findings.extend(look())
    except BenchError as error:
        findings.append(Finding("problem", what, one_line(error)))
    except Exception as error:  # a broken installation may raise anything at all while it is imported
        message = f"{type(error).__name__}: {one_line(error)}"
        todo = "install the package again, in a virtual environment of its own"
        findings.append(Finding("problem", what, message, todo))
    return findings


def _python() -> Iterator[Finding]:
    from packaging.specifiers import SpecifierSet

    from bench.doctor.packages import asked

    needed, here = asked().python, platform.python_version()
    if SpecifierSet(needed).contains(here, prereleases=True):
        yield Finding("ok", "python", f"{here} (needed: {needed}) on {platform.system()} {platform.machine()}")
    else:
        yield Finding("problem", "python", f"{here}, but {needed} is needed", "use a newer Python")


def _packages() -> Iterator[Finding]:
    from bench.doctor.packages import ROOT, asked, differing, shaping, tested, unmet

    needed = asked().packages
    missing = list(unmet(needed))
    for requirement, there in missing:
        todo = f"pip install '{requirement}'"
        yield Finding("problem", requirement.name, f"{there}, {requirement} is needed", todo)
    if not missing:
        yield Finding("ok", "packages", f"all {len(needed)} that are needed are here")
    others = [f"{name} {here} (tested: {then})" for name, here, then in differing(needed)]
    if others:
        constraints = shlex.quote(str(ROOT / "constraints.txt"))
        todo = f"pip install -c {constraints} ..., where rows must be the same bit for bit"
        yield Finding("note", "packages", f"other versions than the tested ones: {', '.join(others)}", todo)
    known = "as tested" if tested() and not others else "which were tested is not known here" if not tested() else ""
    versions = [f"{name} {version}" for name, version in shaping().items()]
    yield Finding("ok", "versions", f"{', '.join(versions)}{f' ({known})' if known else ''}")


def _device(patient: Patient) -> Iterator[Finding]:
    import torch

    cores = os.cpu_count() or 1
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name(0)
        yield Finding("ok", "device", f"cuda: {name}, torch {torch.__version__}; {cores} cores")
        return
    yield Finding("ok", "device", f"cpu: torch {torch.__version__}, {cores} cores")
    if shutil.which("nvidia-smi"):
        todo = "install a torch for its CUDA version: https://pytorch.org/get-started/locally"
        yield Finding("note", "device", "an NVIDIA driver is installed, but torch finds no CUDA device", todo)


def _configuration(patient: Patient) -> Iterator[Finding]:
    from bench.config import load

    file = patient.config_file
    patient.readable = file is None
    if file is None:
        yield Finding(
            "ok", "configuration", "no bench.toml here, so the built-in defaults hold (bench init writes one)"
        )
        return
    patient.config, patient.readable = load(file), True
    yield Finding("ok", "configuration", str(file))


def _plugins(patient: Patient) -> Iterator[Finding]:
    plugins.load_all(patient.config_file, patient.plugins, strict=False)
    counts = []
    for known in (registry.defenses, registry.attacks, registry.datasets, registry.models):
        entries = list(known)
        counts.append(f"{len(entries)} {known.what}s")
        for entry in entries:
            own = entry.origin == "built-in"
            try:
                entry.load()
            except BrokenPlugin as error:
                todo = "install the package again" if own else "mend it; everything else works without it"
                yield Finding("problem" if own else "note", f"{known.what} {entry.name}", one_line(error), todo)
            else:
                if not own:
                    yield Finding("ok", f"{known.what} {entry.name}", f"from {entry.origin}")
    for path, reason in plugins.broken_files.items():
        todo = "mend it, or move it away; everything else works without it"
        yield Finding("note", "plug-in", f"{path} does not load: {reason}", todo)
    yield Finding("ok", "plug-ins", ", ".join(counts))


def _data(patient: Patient) -> Iterator[Finding]:
    from bench.data.files import cache_dir, data_dir

    folder = data_dir(patient.data_dir)
    if folder is None:
        yield Finding("ok", "data folder", f"none is named, so downloads go to {cache_dir()}")
    else:
        yield Finding("ok", "data folder", f"{folder}, from {'--data-dir' if patient.data_dir else 'BENCH_DATA'}")
    for entry in registry.datasets:
        try:
            yield _dataset(entry.name, entry.load(), folder)
        except Exception as error:  # of a plug-in, which may lack any part of a dataset
            if entry.origin == "built-in":
                raise
            yield Finding("note", f"dataset {entry.name}", f"cannot be looked for: {one_line(error)}")


def _zoo() -> Iterator[Finding]:
    """Which networks of the zoo have their weights on this machine."""
    from bench.models.zoo import ZOO, local_file

    there = [name for name, entry in ZOO.items() if local_file(entry) is not None]
    named = f": {', '.join(there)}" if there else ""
    yield Finding("ok", "zoo", f"{len(there)} of {len(ZOO)} networks are here{named}")


def _dataset(name: str, dataset: Any, folder: Path | None) -> Finding:
    """Whether the files of a dataset exist; they are not read."""
    what, files = f"dataset {name}", dataset.files(folder)
    if not files:
        return Finding("ok", what, "embedded")
    place = files[0].parent
    missing = [path for path in files if not path.exists()]
    if not missing:
        return Finding("ok", what, f"in {place}; not verified, which `bench data {name}` does")
    names = "nothing of it" if len(missing) == len(files) else f"no {', '.join(path.name for path in missing)}"
    if not dataset.downloads:
        todo = f"name a folder that holds {place.name}/ with {' and '.join(p.name for p in files)} by --data-dir"
    elif folder is None:
        todo = f"bench data {name} downloads it"
    else:
        todo = f"put it there, or leave --data-dir and BENCH_DATA out: bench data {name} downloads it"
    return Finding("note", what, f"{names} in {place}", todo)


def _database(patient: Patient) -> Iterator[Finding]:
    from bench.store import damage_in, glance_at

    try:
        seen = glance_at(patient.url)
    except StoreError as error:
        yield Finding("problem", "database", one_line(error), _saving(patient.url))
        return
    place = seen.place if seen.file is None else str(seen.file)
    if seen.file is not None and (stuck := _not_writable(seen.file)):
        yield Finding("problem", "database", f"{place}: {stuck} is not writable", "give --db a place of your own")
        return
    if seen.schema is not None and (what := damage_in(patient.url)):
        yield Finding("problem", "database", f"{place} is damaged: {what}", _saving(patient.url))
        return
    if seen.schema is None:
        yield Finding("ok", "database", f"{place} is not there yet; the first run makes it")
        return
    counts = ", ".join(f"{number} {status}" for status, number in sorted(seen.runs.items()))
    total = sum(seen.runs.values())
    yield Finding("ok", "database", f"{place}: schema {seen.schema}, runs: {total}{f' ({counts})' if counts else ''}")
    if seen.schema != seen.newest:
        yield Finding("note", "database", f"the next command that opens it brings its schema to {seen.newest}")
    if seen.played:
        yield Finding("ok", "runs", f"being played now: {_some(seen.played)}")
    if seen.left:
        todo = "the command that began them goes on where they stopped; bench show KEY says what they are"
        yield Finding("note", "runs", f"RUNNING, but without a live process: {_some(seen.left)}", todo)


def _saving(url: str) -> str:
    """How to save what is whole of a SQLite file that is damaged; "" for what is no such file."""
    from bench.store import is_sqlite, sqlite_file

    file = sqlite_file(url)
    if file is None or not is_sqlite(file):
        return ""
    saved, aside = file.with_name(f"{file.stem}-saved.db"), file.with_name(f"{file.stem}-damaged{file.suffix}")
    here, new, old = (shlex.quote(str(path)) for path in (file, saved, aside))
    return (
        f"bench doctor --db {here} --save {new} writes the runs that are whole into a new file; then mv {here} "
        f"{old} and mv {new} {here}, where the files beside it belong to it"
    )


def _some(keys: tuple[str, ...]) -> str:
    return f"{len(keys)}: {', '.join(key[:8] for key in keys[:5])}{', ...' if len(keys) > 5 else ''}"


def _files(patient: Patient) -> Iterator[Finding]:
    from bench.store import files_of
    from bench.store.prune import nearest_folder, size_text, survey

    root = files_of(patient.url)
    if stuck := _not_writable(root):
        todo = "give --db or BENCH_CACHE a place of your own"
        yield Finding("problem", "files", f"{root}: {stuck} is not writable", todo)
        return
    free = shutil.disk_usage(nearest_folder(root)).free
    total = sum(kind.bytes for kind in survey(root).values())
    there = f"{size_text(total)} in {root}" if root.exists() else f"{root} is not there yet"
    level: Level = "problem" if free < FULL else "note" if free < NEARLY_FULL else "ok"
    todo = "" if level == "ok" else "free some space; bench cache says what lies there, bench cache prune removes some"
    yield Finding(level, "files", f"{there}; {size_text(free)} free", todo)


def _contents(patient: Patient) -> Iterator[Finding]:
    """Whether all files beside the database hold what was written into them."""
    from bench.cache import damage_of
    from bench.store import files_of
    from bench.store.prune import TEMPORARY, artefacts

    root = files_of(patient.url)
    for path in sorted(path for path in root.glob("*/*") if path.is_symlink()):
        todo = "put there what it leads to; else the next run that needs it sets it aside and makes it again"
        yield Finding("note", "contents", f"{path} is a link, which no run follows", todo)
    kept = [artefact for artefact in artefacts(root) if artefact.kind != TEMPORARY]
    count = 0
    for artefact in kept:
        if what := damage_of(artefact.kind, artefact.path):
            count += 1
            todo = (
                "bench verify names the rows; --rerun all plays them anew"
                if artefact.kind == "images"
                else "the next run that needs it sets it aside and makes it again"
            )
            yield Finding("note", "contents", f"{artefact.path} is damaged: {what}", todo)
    yield Finding("ok", "contents", f"{len(kept) - count} of {len(kept)} artefacts hold what was written into them")


def _summaries(patient: Patient) -> Iterator[Finding]:
    """Whether the stored summaries of runs say what the rows say."""
    from bench.analysis.summaries import differences
    from bench.store import Store, glance_at

    seen = glance_at(patient.url)
    if seen.schema and seen.schema != seen.newest:  # to open it would upgrade it
        yield Finding("note", "summaries", "they were not compared: the next command that writes upgrades the database")
        return
    store = Store.open(patient.url, create=False)
    if store is None:
        return
    wrong = 0
    try:
        records = store.runs()
        for record in records:
            try:
                found = differences(store, record)
            except DamagedRun as error:
                wrong += 1
                yield Finding("problem", "summaries", one_line(error))
                continue
            if found:
                wrong += 1
                todo = f"bench verify {record.key[:12]} names the figures and makes it anew"
                words = f"of run {record.key[:12]}: {', '.join(found)} are not of its rows"
                yield Finding("note", "summaries", words, todo)
    finally:
        store.close()
    right = len(records) - wrong
    yield Finding("ok", "summaries", f"{right} of {len(records)} runs have none, or the one that their rows give")


def _not_writable(path: Path) -> Path | None:
    """What prevents writing a file or a folder at `path`; None if nothing does."""
    from bench.store.prune import nearest_folder

    nearest = nearest_folder(path)
    if nearest != path.absolute() and not nearest.is_dir():
        return nearest
    places = [nearest, nearest.parent] if nearest.is_file() else [nearest]  # SQLite writes its log beside the database
    return next((place for place in places if not os.access(place, os.W_OK)), None)


def _run(patient: Patient) -> Iterator[Finding]:
    """Planning reads all of the configuration, the plug-ins' parameters and the data."""
    if not patient.readable:
        yield Finding("note", "a run on digits", "was not planned: the configuration cannot be read")
        return
    from bench.data.files import data_dir
    from bench.planning.facts import facts_of
    from bench.planning.plan import plan
    from bench.planning.requests import Request

    request = Request(("regular", "rmc"), ("pgd",), datasets=("digits",), n=10)
    plan([request], patient.config, facts_of(data_dir(patient.data_dir)))
    yield Finding("ok", "a run on digits", "can be planned: bench run --defense rmc --attack pgd")


def _extras(patient: Patient) -> Iterator[Finding]:
    from bench.doctor.packages import NAME, asked, unmet

    for extra, requirements in asked().extras.items():
        if extra not in EXTRAS:
            continue
        missing = [requirement.name for requirement, _ in unmet(requirements)]
        if missing:
            message = f"{', '.join(missing)} not installed; for {EXTRAS[extra]}"
            yield Finding("note", f"extra {extra}", message, f"pip install '{NAME}[{extra}]'")
        else:
            yield Finding("ok", f"extra {extra}", f"for {EXTRAS[extra]}")

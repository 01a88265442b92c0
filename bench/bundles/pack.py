"""From finished runs of a database to a bundle. The same runs give the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePath
from typing import Any

from pydantic import ValidationError

from bench import registry
from bench.analysis.describe import threat_card
from bench.analysis.figures import MERGED_FLAGS
from bench.analysis.summaries import from_rows
from bench.bundles.archive import (
    MANIFEST,
    MOST_BYTES,
    image_name,
    plugin_name,
    rows_name,
    sha256_of,
    write_zip,
)
from bench.bundles.manifest import FORMAT, VERSION, GameForm, Manifest, schema_error
from bench.bundles.rows import chain_of, lines_of
from bench.cache import Cache, damage_of, digest
from bench.errors import BadValue, BenchError
from bench.execution.session import names_used
from bench.game.identity import kept
from bench.models.sources import network_source
from bench.planning.spec import Part, RunSpec, placeless
from bench.registry import BUILT_IN, PROGRAM, Entry
from bench.store import RunRecord, Store

#: fields of a game that a bundle has besides its chain
GAME_FIELDS = tuple(name for name in GameForm.model_fields if name != "chain")


@dataclass
class Packed:
    """What a bundle holds now. notes: what the one who sends it must know, one line each."""

    runs: list[str] = field(default_factory=list)
    bytes: int = 0
    sha256: str = ""
    notes: list[str] = field(default_factory=list)


def pack(store: Store, records: Iterable[RunRecord], out: Path) -> Packed:
    """Write a bundle of these runs and of their paired clean runs; `BadValue` where one cannot be sent."""
    chosen = _with_clean(store, records)
    packed = Packed([record.key for record in chosen])
    members: dict[str, Callable[[], bytes]] = {}
    files: dict[str, dict[str, Any]] = {}
    plugins: dict[tuple[str, str], dict[str, Any]] = {}

    def put(name: str, read: Callable[[], bytes]) -> None:
        data = read()
        members[name] = read  # read again when it is written: not all of a large bundle is in memory at once
        files[name] = {"sha256": sha256_of(data), "bytes": len(data)}

    runs = [_run(store, record, {one.key for one in chosen}, put) for record in chosen]
    for record in chosen:
        for plugin in _plugins(RunSpec.from_dict(record.spec), packed.notes, put):
            plugins.setdefault((plugin["what"], plugin["name"]), plugin)
    if (size := sum(file["bytes"] for file in files.values())) > MOST_BYTES:
        raise BadValue(f"These {len(runs)} runs have {size} bytes, and a bundle has {MOST_BYTES} at most; send fewer.")
    try:
        manifest = Manifest.model_validate(
            {
                "format": FORMAT, "version": VERSION, "bench": version("adversarial-game-bench"), "runs": runs,
                "plugins": [plugins[name] for name in sorted(plugins)], "files": dict(sorted(files.items())),
            }
        )  # fmt: skip
    except ValidationError as error:
        raise BadValue(f"These runs have no form of a bundle: {schema_error(error)}.") from None
    text = manifest.model_dump_json(indent=1).encode() + b"\n"
    write_zip(out, {**members, MANIFEST: lambda: text})
    packed.bytes, packed.sha256 = out.stat().st_size, sha256_of(out.read_bytes())
    packed.notes = list(dict.fromkeys(packed.notes))
    return packed


def _with_clean(store: Store, records: Iterable[RunRecord]) -> list[RunRecord]:
    """The runs and their paired clean runs, each once, by key."""
    chosen = {record.key: record for record in records}
    for record in list(chosen.values()):
        pair = None if record.clean_key is None else store.find(record.clean_key)
        if pair is not None and pair.status == "DONE":
            chosen.setdefault(pair.key, pair)
    for record in chosen.values():
        if record.status != "DONE":
            raise BadValue(
                f"The run {record.key[:12]} is {record.status}; a bundle holds finished runs. See: bench list runs"
            )
    return [chosen[key] for key in sorted(chosen)]


def _run(
    store: Store, record: RunRecord, there: set[str], put: Callable[[str, Callable[[], bytes]], None]
) -> dict[str, Any]:
    """A run as the manifest has it; its rows and images are put into the bundle."""
    spec, rows, cache = RunSpec.from_dict(record.spec), store.all_rows(record.key), Cache(store.files)
    if spec.key != record.key:
        raise BadValue(
            f"The run {record.key[:12]} was made by another version of the harness, so its key no longer follows from "
            f"its parameters; play it again: bench run --rerun all"
        )
    images: list[dict[str, Any]] = [
        {"game": game, "start": start, "count": count, "file": file}
        for game, start, count, file in store.image_files(record.key)
    ]
    for line in images:
        path = cache.path("images", line["file"])
        if not path.is_file() or damage_of("images", path):
            raise BadValue(
                f"The run {record.key[:12]} lacks images: the file {line['file'][:12]} is not there, or is damaged. "
                f"Play it again: bench run --rerun all"
            )
        put(image_name(line["file"]), path.read_bytes)
    put(rows_name(record.key), lambda: lines_of(store.all_rows(record.key)))
    games = [
        {
            **{name: getattr(game, name) for name in GAME_FIELDS},
            "chain": chain_of(record.key, game.game, [row for row in rows if row.game == game.game]),
        }
        for game in store.games(record.key)
    ]
    shown = {name: placeless(value) for name, value in spec.to_dict().items()}
    return {
        "key": record.key,
        "spec": shown,
        "threat": threat_card(shown),
        "clean": record.clean_key if record.clean_key in there else None,
        "created": record.created,
        "finished": record.finished,
        "made": _made(record),
        "data": {"name": spec.dataset.name, "sha256": spec.dataset.source},
        "weights": _weights(cache, spec, record.provenance),
        "metrics": metrics_of(store, record),
        "games": games,
        "images": images,
    }  # fmt: skip


def _made(record: RunRecord) -> dict[str, Any]:
    """Where and when the rows were made, without the name of the machine: a hash of it, made once."""
    provenance, host = record.provenance, str(record.provenance.get("host", ""))
    made = {name: provenance.get(name, "") for name in ("processor", "python", "commit", "started")}
    versions = {name: provenance.get(name, {}) for name in ("environment", "versions")}
    host = host if record.origin is not None else digest(["host", host])[:12]
    return {**made, **versions, "cores": provenance.get("cores"), "host": host}


def _weights(cache: Cache, spec: RunSpec, provenance: dict[str, Any]) -> dict[str, str]:
    """Hashes of the networks; see `bench.bundles.manifest.WeightsForm`."""
    return {"network": spec.network.source, **fingerprints(cache, spec, provenance.get("environment", {}))}


def fingerprints(cache: Cache, spec: RunSpec, made: dict[str, str]) -> dict[str, str]:
    """Fingerprints of the trained base and of the fitted defense that a cache keeps for an environment; "": none."""
    keys = {"base": spec.base_key, "fit": "" if spec.is_base else spec.fit_key}
    return {name: kept(cache, digest([key, digest(made)])) if key else "" for name, key in keys.items()}


def metrics_of(store: Store, record: RunRecord) -> dict[str, Any]:
    """The figures of a run as the manifest has them, from its rows."""
    found = from_rows(store, [record])[record.key].figures

    def share(name: str) -> dict[str, Any] | None:
        estimate = found.get(name)
        return None if estimate is None else {part: estimate[part] for part in ("value", "low", "high", "method")}

    return {
        "examples": len(store.rows(record.key)),
        **{name: share(name) for name in ("clean_accuracy", "robust_accuracy", "uncut_accuracy")},
        "median_distance": found.get("median_distance"),
        "violations": found["violations"],
        "flags": sorted({flag["id"] for flag in found["flags"]} - set(MERGED_FLAGS)),
    }


# -- plug-ins -------------------------------------------------------------------------------------------------------


def _plugins(
    spec: RunSpec, notes: list[str], put: Callable[[str, Callable[[], bytes]], None]
) -> Iterator[dict[str, Any]]:
    """What of a run is no part of the program, with its source where it is here as it was then."""
    for names, name in names_used(spec):
        if names is registry.models and (name in (spec.defense.name, spec.base.name) or ":" in name):
            continue  # a defense that brings its network; a file or a package, see below
        if name not in names:
            yield _plugin(names.what, name, "unknown", None, notes, put)
        elif (entry := names[name]).origin != BUILT_IN:
            source = source_of(entry) if _as_then(spec, names, name) else None
            yield _plugin(names.what, name, _origin(entry), source, notes, put)
    for part, params in ((spec.network, spec.base.params), *_surrogate(spec)):
        if ".py:" in part.name:
            path = Path(part.name.rpartition(":")[0]).expanduser()
            try:
                same = network_source(part.name, str(params.get("weights", "")))[2] == part.source
            except BenchError:
                same = False
            source = path if same else None
            yield _plugin("model", placeless({"name": part.name, "params": {}})["name"], "file", source, notes, put)


def _surrogate(spec: RunSpec) -> list[tuple[Part, dict[str, Any]]]:
    return [] if spec.surrogate is None else [(spec.surrogate, {})]


def _as_then(spec: RunSpec, names: registry.Registry, name: str) -> bool:
    """Whether a name is registered here with the source that the run was played with."""
    whole = spec.attack.name if names is registry.attacks else name
    sources = {registry.attacks: spec.attack.source, registry.protocols: spec.game.source}
    if names in (registry.datasets, registry.models):
        return True  # their content is hashed, which says more than their code
    then = sources.get(names, spec.defense.source if name == spec.defense.name else spec.base.source)
    return whole in names and names[whole].source_hash() == then


def _plugin(
    what: str, name: str, origin: str, source: Path | None, notes: list[str], put: Callable[..., None]
) -> dict[str, Any]:
    if source is None:
        notes.append(
            f"The source of the {what} {name!r} is not in the bundle, so nobody who has it not can replay its runs; "
            f"give its file of then with --plugin."
        )
        return {"what": what, "name": name, "origin": origin, "file": ""}
    sha256 = sha256_of(source.read_bytes())
    put(plugin_name(sha256), source.read_bytes)
    return {"what": what, "name": name, "origin": origin, "file": sha256}


def _origin(entry: Entry) -> str:
    if entry.origin == PROGRAM:
        return "program"
    package = entry.origin.removeprefix("package ")
    if package == entry.origin:
        return "file"
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return package


def source_of(entry: Entry) -> Path | None:
    """The file of a plug-in; None for one of a package, which is installed, and for one of a notebook."""
    path = PurePath(entry.origin)
    return Path(path) if path.suffix == ".py" and Path(path).is_file() else None

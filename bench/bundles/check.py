"""From a bundle to values that hold together: types, hashes, key, rows, chain and images. None of its code is run.

What can be wrong is refused in one line that names it. A bundle that passes can still be a lie from its first row to
its last hash: only a replay tells (`bench.bundles.replay`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from bench import registry
from bench.analysis.describe import threat_card
from bench.bundles.archive import MANIFEST, Archive, image_name, plugin_name, read_json, rows_name, sha256_of
from bench.bundles.manifest import FORMAT, VERSION, GameForm, ImagesForm, Manifest, RowForm, RunForm, schema_error
from bench.bundles.rows import chain_of
from bench.cache import digest, parse_tensors
from bench.contracts import Kind
from bench.errors import BenchError, one_line
from bench.norms import NORMS
from bench.planning import spec as spec_module
from bench.planning.preflight import check_sizes
from bench.planning.rules import game_of, paired_clean, rules_of, with_card
from bench.planning.spec import HARNESS_VERSION, MOST_GAMES, Part, RunSpec
from bench.rows import REFUSED, Row, image_hash
from bench.store.examples import rows_of
from bench.threat import ThreatModel
from bench.values import Params

#: the largest test set and the most games of a run: a permutation and a list of games of more are no result
MOST_POINTS = 2_000_000

_SPEC = TypeAdapter(RunSpec)
_SPEC.rebuild(_types_namespace={**vars(spec_module), "Kind": Kind})  # the module names the type for type checkers alone


@dataclass(frozen=True)
class CheckedRun:
    """A run of a bundle whose parts hold together."""

    form: RunForm
    spec: RunSpec
    rows: list[Row]


def read_manifest(archive: Archive) -> Manifest:
    """The manifest, with every member of the bundle in its list and no other."""
    text = archive.read(MANIFEST)
    try:
        values = read_json(text)
    except ValueError as error:
        raise archive.wrong(f"its {MANIFEST} is no JSON ({one_line(error):.200})") from None
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise archive.wrong(f"its {MANIFEST} does not say that it is an {FORMAT}")
    if values.get("version") != VERSION:
        raise archive.wrong(
            f"it is of version {values.get('version')!r:.40} of this form, and this program reads version {VERSION}; "
            f"ask for a bundle of that version, or take a bench that reads it"
        )
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        raise archive.wrong(f"its {MANIFEST} has another form: {schema_error(error)}") from None
    listed, there, used = set(manifest.files), archive.names() - {MANIFEST}, _used(manifest)
    for names, what in (
        (there - listed, "is not in the list of its manifest"),
        (listed - there, "is in the list of its manifest, and not in the zip"),
        (listed - used, "belongs to no run and no plug-in of it"),
        (used - listed, "is missing"),
    ):
        if names:
            raise archive.wrong(f"the member {min(names)!r:.100} {what}")
    if len({run.key for run in manifest.runs}) < len(manifest.runs):
        raise archive.wrong("it has a run twice")
    return manifest


def _used(manifest: Manifest) -> set[str]:
    images = {image_name(line.file) for run in manifest.runs for line in run.images}
    plugins = {plugin_name(plugin.file) for plugin in manifest.plugins if plugin.file}
    return images | plugins | {rows_name(run.key) for run in manifest.runs}


def content(archive: Archive, manifest: Manifest, name: str) -> bytes:
    """The bytes of a member that has the size and the sha256 of the manifest."""
    data, listed = archive.read(name), manifest.files[name]
    found = sha256_of(data)
    if len(data) != listed.bytes or found != listed.sha256:
        raise archive.wrong(f"its member {name!r} has the sha256 {found[:12]}, in the manifest {listed.sha256[:12]}")
    if not name.startswith("rows/") and found not in name:
        raise archive.wrong(f"its member {name!r} is not named by its sha256, {found[:12]}")
    return data


def checked_run(archive: Archive, manifest: Manifest, form: RunForm) -> CheckedRun:
    """A run, of which everything but its images is checked (`images_of` does those)."""
    what = f"its run {form.key[:12]}"
    try:
        spec = _spec(form)
        _made_of_what_is_here(spec)
        rows = _rows(content(archive, manifest, rows_name(form.key)), form, spec)
    except Wrong as error:
        raise archive.wrong(f"{what}: {error}") from None
    except BenchError as error:  # of a threat model or a protocol that does not take such values
        raise archive.wrong(f"{what}: {one_line(error).rstrip('.')}") from None
    return CheckedRun(form, spec, rows)


class Wrong(ValueError):
    """What is wrong with a run, in words that follow its name."""


# -- the parameters -------------------------------------------------------------------------------------------------


def _spec(form: RunForm) -> RunSpec:
    """The parameters, which give the key and agree with what else the manifest says of the run."""
    if (made := form.spec.get("harness")) != HARNESS_VERSION:
        raise Wrong(
            f"it was played by version {made!r:.40} of the rules of the game, and here they have version "
            f"{HARNESS_VERSION}, so it cannot be compared"
        )
    try:
        spec = _SPEC.validate_json(json.dumps(form.spec, allow_nan=False), strict=True)
        same = digest(spec.to_dict()) == digest(form.spec)
    except ValidationError as error:
        raise Wrong(f"its parameters have another form: {schema_error(error)}") from None
    except (ValueError, RecursionError) as error:
        raise Wrong(f"its parameters have another form: {one_line(error):.200}") from None
    if not same:
        raise Wrong("its parameters have names or values that a run has not")
    _bounded(spec)
    if spec.key != form.key:
        raise Wrong(f"its parameters give the key {spec.key[:12]}, so one of them was changed")
    for what, said, true in (
        ("dataset", form.data.name, spec.dataset.name),
        ("hash of the data", form.data.sha256, spec.dataset.source),
        ("hash of the network", form.weights.network, spec.network.source),
        ("threat model in words", form.threat, threat_card(form.spec)),
    ):
        if said != true:
            raise Wrong(f"the {what} is {said!r:.100}, by its parameters {true!r:.100}")
    return spec


def _bounded(spec: RunSpec) -> None:
    games = spec.game.params.get(spec.game.facts.games_key)
    if not isinstance(games, int) or isinstance(games, bool) or not 1 <= games <= MOST_GAMES:
        raise Wrong(f"it has {games!r:.40} games; 1 to {MOST_GAMES} are possible")
    check_sizes(spec)
    if spec.test_size > MOST_POINTS:
        raise Wrong(f"its test set has {spec.test_size} points; {MOST_POINTS} is the most")
    places = spec.places if spec.chosen is None else sorted(set(spec.chosen))
    if not places or len(places) != len(spec.places) or not 0 <= places[0] <= places[-1] < spec.n:
        raise Wrong("the places of its examples are not those of a choice among its n")
    if spec.n / (1 - spec.threat.share) > 2 * spec.test_size or spec.game.batch > MOST_POINTS:
        raise Wrong(f"with threat.share {spec.threat.share} and batches of {spec.game.batch} it serves too many inputs")
    parts = (spec.defense, spec.base, spec.network, spec.attack, spec.dataset)
    if long := [part.name for part in parts if not 0 < len(part.name) <= 200]:
        raise Wrong(f"the name {long[0]!r:.60} has {len(long[0])} characters; 1 to 200 are possible")
    names = (spec.defense.name, spec.base.name, spec.dataset.name, spec.game.protocol, *spec.attack.name.split(":"))
    if odd := [name for name in names if not registry.is_name(name)]:
        raise Wrong(f"no plug-in can be called {odd[0]!r:.60}; {registry.NAME_RULE}")


def _made_of_what_is_here(spec: RunSpec) -> None:
    """Holds what a run says of plug-ins against those that are here with the same source."""
    name, source = spec.game.protocol, spec.game.source
    if name not in registry.protocols or game_of(name, {}).source != source:
        raise Wrong(
            f"its protocol {name!r:.100} is not here as it was then, so nobody can say which rows it must have; give "
            f"its file with --plugin, or run that of the bundle with --trust"
        )
    here = registry.protocols[name]
    _params("protocol", here.load().Params, Part(name, 1, source, spec.game.params))
    if here.load().facts != spec.game.facts or with_card(spec).game != spec.game:
        raise Wrong(f"what it says of its protocol {name!r} is not what the protocol says of itself")
    for what, names, part in (
        ("defense", registry.defenses, spec.defense), ("base", registry.defenses, spec.base),
        ("attack", registry.attacks, spec.attack),
    ):  # fmt: skip
        if part.name not in names or names[part.name].source_hash() != part.source:
            continue  # its values are then the sender's word; a replay says so
        cls = names.load(part.name)
        _params(what, cls.Params, part)
        declared: dict[str, Any] = {"kind": spec.kind, "abstains": spec.abstains} if what == "defense" else {}
        declared = {"kind": spec.attack_kind} if what == "attack" else declared
        for fact, said in declared.items():
            if (true := getattr(cls, fact)) != said:
                raise Wrong(f"it says that {fact} of the {what} {part.name!r} is {said!r}, and it is {true!r}")
        if what == "attack":
            _threat(spec.threat, names[part.name].resolved(), part.name)
            if reason := rules_of(spec.game).refuses(spec, cls):
                raise Wrong(f"it cannot be played: {reason.rstrip('.')}")


def _params(what: str, params: type[Params], part: Part) -> None:
    """`Wrong` unless these are all the parameters of a plug-in, as planning resolves them."""
    try:
        resolved = params(**part.params).model_dump(mode="json")
    except (ValidationError, BenchError) as error:
        told = schema_error(error) if isinstance(error, ValidationError) else one_line(error)
        raise Wrong(f"the parameters of the {what} {part.name!r}: {told}") from None
    if digest(resolved) != digest(part.params):
        raise Wrong(f"the parameters of the {what} {part.name!r} are not all that it has")


def _threat(threat: ThreatModel, attack: registry.Entry, name: str) -> None:
    """`Wrong` where the threat model is none that the attack can be played with: its tier would be another."""
    if name == "clean":
        return
    preset = ThreatModel().with_fields(dict(attack.preset or {}))
    free = {"norm", "eps", *(attack.free or ())}
    for field, value in vars(threat).items():
        if field not in free and value != getattr(preset, field):
            raise Wrong(f"it says threat.{field} {value!r}, and the attack {name!r} has {getattr(preset, field)!r}")


# -- the rows -------------------------------------------------------------------------------------------------------


def _rows(data: bytes, form: RunForm, spec: RunSpec) -> list[Row]:
    """The rows: all that the protocol has, for the examples that it has, in its order, with the chain of each game."""
    if [game.game for game in form.games] != list(range(spec.game.games)):
        raise Wrong(f"its games are not the {spec.game.games} that its parameters say")
    lines = data.splitlines()
    if len(lines) != sum(game.rows for game in form.games):
        raise Wrong(f"it has {len(lines)} rows; its games say {sum(game.rows for game in form.games)}")
    rows: list[Row] = []
    expected = _expected(spec)
    for line, (game, position, index) in zip(lines, expected, strict=False):
        place = f"game {game}, position {position}, example {index}"
        try:
            read_json(line)
            columns = RowForm.model_validate_json(line).model_dump()
            (row,) = rows_of(list(columns), [list(columns.values())])
        except ValidationError as error:
            raise Wrong(f"{place}: the row has another form: {schema_error(error)}") from None
        except ValueError as error:
            raise Wrong(f"{place}: the row is no JSON ({one_line(error):.100})") from None
        if what := _row_wrong(row, (game, position, index), spec):
            raise Wrong(f"{place}: {what}")
        rows.append(row)
    if len(rows) < len(lines) or next(expected, None):
        raise Wrong(f"it has {len(lines)} rows, which are not as many as its parameters say")
    for played in form.games:
        _chain(played, form.key, [row for row in rows if row.game == played.game])
    return rows


def _expected(spec: RunSpec) -> Iterator[tuple[int, int, int]]:
    """(game, position, index) of every row of a run."""
    rules, order = rules_of(spec.game), spec.order
    for game in range(spec.game.games):
        for position, place in enumerate(rules.places(spec, game)):
            yield game, position, order[place]


def _row_wrong(row: Row, place: tuple[int, int, int], spec: RunSpec) -> str:
    if (row.game, row.position, row.index) != place:
        return f"the row is that of game {row.game}, position {row.position}, example {row.index}"
    if unknown := [norm for norm in row.distances if norm not in NORMS]:
        return f"it has a distance in {unknown[0]!r:.40}, which is no norm"
    if REFUSED in (row.answer, row.clean_answer) and not spec.abstains:
        return "the answer is a refusal, and the defense never refuses"
    if row.clean_answer is not None and not spec.game.facts.answers_clean and row.resent is None:
        return "it has an answer to the clean image, which its protocol has not"
    if row.poison and not spec.game.facts.among:
        return "it is an input of the attacker among those of others, which its protocol has not"
    return ""


def _chain(game: GameForm, run: str, rows: Sequence[Row]) -> None:
    if game.rows != len(rows):
        raise Wrong(f"game {game.game} says {game.rows} rows and has {len(rows)}")
    if (found := chain_of(run, game.game, rows)) != game.chain:
        raise Wrong(f"game {game.game}: its rows give the chain {found[:12]}, in the manifest {game.chain[:12]}")


def check_pairs(archive: Archive, runs: Sequence[CheckedRun]) -> None:
    """`BadBundle` unless each paired clean run stands in the bundle and is the one that its run has."""
    specs = {run.form.key: run.spec for run in runs}
    for run in runs:
        pair = specs.get(run.form.clean or "")
        if run.form.clean is None:
            continue
        if pair is None or pair.attack.name != "clean":
            raise archive.wrong(f"its run {run.form.key[:12]} lacks its paired clean run {run.form.clean[:12]}")
        wanted = paired_clean(run.spec, pair.attack)
        if wanted is None or wanted.key != run.form.clean:
            raise archive.wrong(f"its run {run.form.key[:12]} has another clean run than {run.form.clean[:12]}")


# -- the images -----------------------------------------------------------------------------------------------------


def images_of(archive: Archive, manifest: Manifest, run: CheckedRun) -> Iterator[tuple[ImagesForm, bytes]]:
    """The files with the images of a run, each checked against the hashes of its rows."""
    rows = {(row.game, row.position): row for row in run.rows}
    after: dict[int, int] = {}
    shape: tuple[int, ...] | None = None
    for line in sorted(run.form.images, key=lambda line: (line.game, line.start)):
        what = f"its run {run.form.key[:12]}, game {line.game}"
        if line.start != after.get(line.game, 0):
            raise archive.wrong(f"{what}: images are missing, or there twice, at position {after.get(line.game, 0)}")
        after[line.game] = line.start + line.count
        data = content(archive, manifest, image_name(line.file))
        images = _images(archive, data, line)
        if shape not in (None, images.shape[1:]):
            raise archive.wrong(
                f"{what}: its images have the shapes {tuple(shape or ())} and {tuple(images.shape[1:])}"
            )
        shape = images.shape[1:]
        for position, image in enumerate(images, line.start):
            row = rows.get((line.game, position))
            if row is None:
                raise archive.wrong(f"{what}: there is an image for position {position}, and no row")
            if image_hash(image) != row.adv_sha256:
                raise archive.wrong(f"{what}, position {position}, example {row.index}: its image has another sha256")
        yield line, data
    for game in run.form.games:
        if after.get(game.game, 0) != game.rows:
            raise archive.wrong(f"its run {run.form.key[:12]}, game {game.game}: images are missing")


def _images(archive: Archive, data: bytes, line: ImagesForm) -> Tensor:
    """The tensor of a file of images: float32 (count, C, H, W)."""
    name = image_name(line.file)
    try:
        tensors, _ = parse_tensors(data, proven=True)
    except ValueError as error:
        raise archive.wrong(f"its member {name!r:.60} cannot be read: {one_line(error)}") from None
    images = tensors.get("images")
    if set(tensors) != {"images"} or images is None or images.dtype != torch.float32 or images.dim() != 4:
        raise archive.wrong(f"its member {name!r:.60} holds no images: float32 (rows, C, H, W) under the name 'images'")
    if len(images) != line.count:
        raise archive.wrong(f"its member {name!r:.60} holds {len(images)} images; the manifest says {line.count}")
    return images

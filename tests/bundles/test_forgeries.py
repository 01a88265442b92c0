"""What a sender may have changed is named, whether the hashes around it were made anew or not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.bundles.archive import MANIFEST, Archive, sha256_of
from bench.bundles.check import check_pairs, checked_run, images_of, read_manifest
from bench.bundles.pack import metrics_of
from bench.cache import dump_tensors
from bench.errors import BadBundle
from bench.planning.rules import rules_of
from bench.planning.spec import RunSpec
from bench.store import Store
from tests.bundles.forging import Members, attacked, forged, members_of, seal, written
from tests.conftest import Bench

Manifest = dict[str, Any]
Rows = dict[str, list[dict[str, Any]]]


def refusal(bundle: Path) -> str:
    """Why a bundle is refused before any figure is computed; "" if it is not."""
    try:
        with Archive(bundle) as archive:
            manifest = read_manifest(archive)
            runs = [checked_run(archive, manifest, form) for form in manifest.runs]
            for run in runs:
                list(images_of(archive, manifest, run))
            check_pairs(archive, runs)
    except BadBundle as error:
        return str(error)
    return ""


def set_in(*path: str | int, to: Any) -> Callable[[Manifest, Rows], None]:
    """Changes a value of the attacked run in the manifest."""

    def edit(manifest: Manifest, rows: Rows) -> None:
        place: Any = attacked(manifest)
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = to

    return edit


def in_row(**values: Any) -> Callable[[Manifest, Rows], None]:
    """Changes values of the second row of the attacked run."""

    def edit(manifest: Manifest, rows: Rows) -> None:
        rows[attacked(manifest)["key"]][1].update(values)

    return edit


def without_a_row(manifest: Manifest, rows: Rows) -> None:
    run = attacked(manifest)
    del rows[run["key"]][-1]
    run["games"][-1]["rows"] -= 1


def without_a_game(manifest: Manifest, rows: Rows) -> None:
    run = attacked(manifest)
    rows[run["key"]] = [row for row in rows[run["key"]] if row["game"] == 0]
    del run["games"][1]


def without_clean(manifest: Manifest, rows: Rows) -> None:
    clean = next(run for run in manifest["runs"] if run is not attacked(manifest))
    manifest["runs"].remove(clean)
    del rows[clean["key"]]


def twice(manifest: Manifest, rows: Rows) -> None:
    manifest["runs"].append(manifest["runs"][0])


#: name: (edit, what else is made to agree with it, what is said)
FORGERIES: dict[str, tuple[Callable[[Manifest, Rows], None], dict[str, bool], str]] = {
    "a row": (in_row(answer=7), {"sealed": False, "chained": False}, "has the sha256"),
    "a row, new hashes": (in_row(answer=7), {"chained": False}, "its rows give the chain"),
    "a forged chain": (set_in("games", 0, "chain", to="0" * 64), {"chained": False}, "in the manifest 000000000000"),
    "a row of another example": (in_row(index=1), {}, "the row is that of game 0, position 1, example 1"),
    "a row twice": (in_row(position=0), {}, "the row is that of game 0, position 0"),
    "a row fewer": (without_a_row, {}, "not as many as its parameters say"),
    "a game fewer": (without_a_game, {}, "its games are not the 2 that its parameters say"),
    "a refusal of a defense that never refuses": (in_row(answer=-1), {}, "the defense never refuses"),
    "a clean answer where there is none": (in_row(clean_answer=3), {}, "which its protocol has not"),
    "an input of the attacker among others": (in_row(poison=True), {}, "which its protocol has not"),
    "a distance in no norm": (in_row(distances={"l7": 0.1}), {}, "'l7', which is no norm"),
    "a text for a number": (in_row(queries="3"), {"chained": False}, "queries: Input should be a valid integer"),
    "a share of a query": (in_row(queries=0.5), {"chained": False}, "queries: Input should be a valid integer"),
    "seconds below zero": (in_row(attack_s=-1.0), {"chained": False}, "attack_s: Input should be greater"),
    "another hash of an image": (in_row(adv_sha256="0" * 64), {}, "its image has another sha256"),
    "another fact": (in_row(colour="red"), {"chained": False}, "colour: Extra inputs are not permitted"),
    "not a number": (in_row(attack_s=float("nan")), {"chained": False}, "NaN, which JSON has not"),
    "a parameter": (set_in("spec", "attack", "params", "steps", to=50), {}, "so one of them was changed"),
    "a parameter that the attack has not": (
        set_in("spec", "attack", "params", "speed", to=5), {"keyed": True}, "speed: Extra inputs are not permitted"),
    "a parameter fewer": (
        set_in("spec", "attack", "params", to={}), {"keyed": True}, "are not all that it has"),
    "a parameter of a run that there is not": (
        set_in("spec", "colour", to="red"), {}, "names or values that a run has not"),
    "a number as a text": (set_in("spec", "n", to="3"), {}, "n: Input should be a valid integer"),
    "infinity": (set_in("spec", "threat", "eps", to=1e999), {}, "Infinity, which JSON has not"),
    "another key": (set_in("key", to="0" * 64), {"chained": False}, "belongs to no run"),
    "what the attacker knows": (
        set_in("spec", "threat", "weights", to="adapted"), {"keyed": True}, "it says threat.weights 'adapted'"),
    "the kind of the defense": (
        set_in("spec", "kind", to="online"), {"keyed": True}, "it says that kind of the defense"),
    "that it may refuse": (
        set_in("spec", "abstains", to=True), {"keyed": True}, "it says that abstains of the defense"),
    "the kind of the attack": (
        set_in("spec", "attack_kind", to="minimal"), {"keyed": True}, "it says that kind of the attack"),
    "how its examples hang together": (
        set_in("spec", "game", "facts", "shared", to="state"), {}, "what it says of its protocol"),
    "the game in words": (set_in("spec", "game", "card", to="a fair game"), {}, "the threat model in words is"),
    "the threat model in words": (set_in("threat", to="everything"), {}, "the threat model in words is 'everything'"),
    "a protocol that is not here": (
        set_in("spec", "game", "protocol", to="mine"), {"keyed": True},
        "its protocol 'mine' is not here as it was then"),
    "a protocol of another source": (
        set_in("spec", "game", "source", to="f" * 64), {"keyed": True}, "is not here as it was then"),
    "more points than there can be": (
        set_in("spec", "test_size", to=10**12), {"keyed": True}, "its test set has 1000000000000 points"),
    "more examples than points": (set_in("spec", "n", to=10**6), {"keyed": True}, "give 1 to"),
    "more games than there can be": (
        set_in("spec", "game", "params", "repeats", to=10**9), {"keyed": True}, "it has 1000000000 games"),
    "a share of the attacker that nobody can serve": (
        set_in("spec", "threat", "share", to=1 - 1e-12), {"keyed": True}, "serves too many inputs"),
    "examples that were not chosen": (
        set_in("spec", "chosen", to=[0, 0, 9]), {"keyed": True}, "not those of a choice among its n"),
    "a name without end": (set_in("spec", "defense", "name", to="x" * 300), {"keyed": True}, "has 300 characters"),
    "the hash of the data": (set_in("data", "sha256", to="0" * 64), {}, "the hash of the data is '0000"),
    "the name of the data": (set_in("data", "name", to="mnist"), {}, "the dataset is 'mnist'"),
    "the hash of the network": (set_in("weights", "network", to="0" * 64), {}, "the hash of the network is '0000"),
    "rules of another version": (set_in("spec", "harness", to=2), {}, "it was played by version 2 of the rules"),
    "the number of rows": (set_in("games", 0, "rows", to=4), {}, "its games say"),
    "images of fewer rows": (set_in("images", 0, "count", to=2), {}, "holds 3 images; the manifest says 2"),
    "images at another place": (set_in("images", 0, "start", to=1), {}, "images are missing, or there twice"),
    "no clean run": (without_clean, {}, "belongs to no run"),
    "a run twice": (twice, {}, "it has a run twice"),
    "another clean run": (set_in("clean", to="0" * 64), {}, "lacks its paired clean run 000000000000"),
    "itself as its clean run": (
        lambda manifest, rows: attacked(manifest).update(clean=attacked(manifest)["key"]), {},
        "lacks its paired clean run"),
    "a run that is no object": (lambda manifest, rows: manifest.update(plugins=[3]), {}, "has another form: plugins.0"),
    "another form": (lambda manifest, rows: manifest.update(format="zip"), {}, "does not say that it is an"),
    "a form of another version": (
        lambda manifest, rows: manifest.update(version=2), {}, "it is of version 2 of this form"),
    "a version that is none": (lambda manifest, rows: manifest.update(version="x" * 999), {}, "it is of version 'xxx"),
}  # fmt: skip


def test_what_was_changed_is_named(sent: Path) -> None:
    """All in one test: a test of its own for each takes longer to set up than to run."""
    unnamed = {}
    for name, (edit, agreeing, said) in FORGERIES.items():
        told = refusal(forged(sent / "bundle.zip", Path("forged.zip"), edit, **agreeing))
        if said not in told or "\n" in told or len(told) >= 700:
            unnamed[name] = told
    assert not unnamed


def test_what_was_not_changed_is_not_refused(sent: Path) -> None:
    again = forged(sent / "bundle.zip", Path("again.zip"), lambda manifest, rows: None, keyed=True)
    assert refusal(sent / "bundle.zip") == refusal(again) == ""


def with_image(bundle: Path, change: Callable[[Members, str], bytes], sealed: bool = True) -> Path:
    """The bundle with another first file of images, under a name that fits it where it is sealed."""
    members = members_of(bundle)
    manifest = json.loads(members[MANIFEST])
    line = attacked(manifest)["images"][0]
    name = f"images/{line['file']}.safetensors"
    data = change(members, name)
    if sealed:  # the file of the other games stays: they have the same images
        line["file"] = sha256_of(data)
        name = f"images/{line['file']}.safetensors"
    members[name] = data
    if sealed:
        seal(manifest, members)
        members[MANIFEST] = json.dumps(manifest).encode()
    return written(members, Path("forged.zip"))


def other_end(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def tensors(**named: torch.Tensor) -> Callable[[Members, str], bytes]:
    return lambda members, name: dump_tensors(named, {})


IMAGES: dict[str, tuple[Callable[[Members, str], bytes], bool, str]] = {
    "a byte": (lambda members, name: other_end(members[name]), False, "has the sha256"),
    "a byte, new hashes": (lambda members, name: other_end(members[name]), True, "its image has another sha256"),
    "all of them": (tensors(images=torch.zeros(3, 1, 8, 8)), True, "position 0, example"),
    "their type": (tensors(images=torch.zeros(3, 1, 8, 8, dtype=torch.float64)), True, "holds no images: float32"),
    "their shape": (tensors(images=torch.zeros(3, 64)), True, "holds no images: float32 (rows, C, H, W)"),
    "their number": (tensors(images=torch.zeros(2, 1, 8, 8)), True, "holds 2 images; the manifest says 3"),
    "their name": (tensors(pictures=torch.zeros(3, 1, 8, 8)), True, "holds no images"),
    "more tensors": (
        tensors(images=torch.zeros(3, 1, 8, 8), more=torch.zeros(1)), True, "holds no images"),
    "no tensors": (lambda members, name: b"pickle", True, "no whole file of tensors"),
    "a header without end": (lambda members, name: (10**6).to_bytes(8, "little") + b"[" * 10**6, True, "no whole file"),
}  # fmt: skip


def test_a_changed_image_is_named(sent: Path) -> None:
    told = {
        name: (said, refusal(with_image(sent / "bundle.zip", change, sealed)))
        for name, (change, sealed, said) in IMAGES.items()
    }
    assert not {name: (said, found) for name, (said, found) in told.items() if said not in found}


# -- what only figures and a replay tell ----------------------------------------------------------------------------


def merging(bench: Bench, bundle: Path, *args: object) -> str:
    """Merge into a database of one's own that has the sender's trained base; what is said on standard error."""
    done = bench("merge", bundle, "--db", "own.db", *args)
    assert done.code == (2 if done.err else 0) and len(done.err.splitlines()) <= 1
    if done.code:
        assert not Path("own.db").exists()
    return done.err or done.out


def flattered(manifest: Manifest, rows: Rows) -> None:
    """A wrong answer more, or fewer, with figures that fit."""
    run = attacked(manifest)
    row = rows[run["key"]][0]
    row["answer"] = (row["label"] + 1) % 10 if row["answer"] == row["label"] else row["label"]


def test_figures_that_the_rows_do_not_give_are_named(bench: Bench, sent: Path) -> None:
    bundle, out = sent / "bundle.zip", Path("forged.zip")
    told = merging(bench, forged(bundle, out, set_in("metrics", "robust_accuracy", "value", to=0.123)))
    assert "its rows give robust_accuracy.value" in told and "in the manifest 0.123" in told
    told = merging(bench, forged(bundle, out, flattered))
    assert "its rows give robust_accuracy" in told
    told = merging(bench, forged(bundle, out, set_in("metrics", "violations", to=3)))
    assert "its rows give violations 0, in the manifest 3" in told


def test_labels_and_points_are_those_of_the_dataset(bench: Bench, sent: Path) -> None:
    def edit(manifest: Manifest, rows: Rows) -> None:
        for lines in rows.values():
            lines[0]["x_sha256"] = "0" * 64

    told = merging(bench, forged(sent / "bundle.zip", Path("forged.zip"), edit))
    assert "position 0, example" in told and "its clean point has another sha256 in the dataset" in told


def everywhere(*path: str, to: Any) -> Callable[[Manifest, Rows], None]:
    """Changes a parameter of all runs."""

    def edit(manifest: Manifest, rows: Rows) -> None:
        for run in manifest["runs"]:
            place: Any = run["spec"]
            for name in path[:-1]:
                place = place[name]
            place[path[-1]] = to
            run["data"] = {name: run["spec"]["dataset"][key] for name, key in (("name", "name"), ("sha256", "source"))}

    return edit


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("name", "cifar10", "were not checked: "),
        ("name", "theirs", "were not checked: No dataset is called 'theirs'"),
        ("source", "f" * 64, "were not checked: the dataset digits has changed since"),
    ],
)
def test_data_that_is_not_here_is_said(bench: Bench, sent: Path, path: str, value: str, said: str) -> None:
    other = forged(sent / "bundle.zip", Path("other.zip"), everywhere("dataset", path, to=value), keyed=True)
    told = merging(bench, other)
    assert said in told and "claimed" in told
    Path("own.db").unlink()
    assert "is refused: its run" in merging(bench, other, "--replay", "all")


def test_another_number_of_points_is_named(bench: Bench, sent: Path) -> None:
    """Fewer points than the dataset has are a choice among them."""

    def edit(manifest: Manifest, rows: Rows) -> None:
        everywhere("test_size", to=3)(manifest, rows)
        for run in manifest["runs"]:
            spec = RunSpec.from_dict(run["spec"])
            places = [order for game in range(2) for order in rules_of(spec.game).places(spec, game)]
            for row, place in zip(rows[run["key"]], places, strict=True):
                row["index"] = spec.order[place]

    told = merging(bench, forged(sent / "bundle.zip", Path("fewer.zip"), edit, keyed=True))
    assert "its test set has 3 points, and here" in told and "with the same hash" in told


def agreeing(bench: Bench, bundle: Path, edit: Callable[[Manifest, Rows], None], **how: bool) -> Path:
    """A forgery all of whose hashes and figures agree: the figures are taken from where it was merged as a claim."""
    first = forged(bundle, Path("first.zip"), edit, **how)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.bundles.merge.differing", lambda said, found: {})
        assert bench("merge", first, "--db", "figures.db").code == 0
    store = Store.open("figures.db")
    assert store is not None

    def figures(manifest: Manifest, rows: Rows) -> None:
        for run in manifest["runs"]:
            record = store.find(run["key"])
            assert record is not None
            run["metrics"] = metrics_of(store, record)

    made = forged(first, Path("agreeing.zip"), figures)
    store.close()
    return made


LIES: dict[str, tuple[Callable[[Manifest, Rows], None], dict[str, bool], str]] = {
    "an answer": (flattered, {}, "answer is "),
    "a stronger attack": (
        set_in("spec", "attack", "params", "steps", to=4), {"keyed": True}, "when the game is played"),
    "the weights of the base": (
        set_in("weights", "base", to="0" * 64), {}, "the weights of 'regular' have the hash 0000"),
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_only_a_replay_finds_a_lie_whose_hashes_agree(bench: Bench, sent: Path, name: str) -> None:
    edit, how, said = LIES[name]
    lie = agreeing(bench, sent / "bundle.zip", edit, **how)
    assert "claimed" in merging(bench, lie)
    Path("own.db").unlink()
    told = merging(bench, lie, "--replay", "all")
    assert said in told and "its run" in told


def test_a_bundle_of_other_versions_is_a_claim_that_says_so_and_is_not_replayed(bench: Bench, sent: Path) -> None:
    other = forged(sent / "bundle.zip", Path("other.zip"), set_in("made", "environment", "torch", to="0.1"))
    told = merging(bench, other, "--replay", "all")
    assert (
        "cannot be played here: it was made with torch 0.1, here" in told and "without --replay it is a claim" in told
    )
    told = merging(bench, other)
    assert "claimed" in told and "1 of 2 runs cannot be replayed here: made with torch 0.1, here" in told

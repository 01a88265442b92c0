"""Games of a bundle played again here: the attack crafts its images anew, and every fact of a row must come out alike.

Which games are played is drawn by the one who merges. A sender who could foresee the draw would forge the others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch

from bench.bundles.archive import Archive
from bench.bundles.check import CheckedRun
from bench.bundles.pack import fingerprints
from bench.draws import generator
from bench.environment import one_thread
from bench.errors import BenchError, RunError, one_line
from bench.execution.verify import Verification, verify
from bench.game.resources import Resources
from bench.store import RunRecord, Store


def drawn(runs: Sequence[CheckedRun], count: int | None, seed: int) -> dict[str, list[int]]:
    """`count` games of all games of these runs, by run; None: all."""
    games = [(run.form.key, game.game) for run in runs for game in run.form.games]
    places = torch.randperm(len(games), generator=generator(seed, "replay", 0))[:count].tolist()
    chosen: dict[str, list[int]] = defaultdict(list)
    for place in sorted(places):
        run, game = games[place]
        chosen[run].append(game)
    return dict(chosen)


def replay(
    archive: Archive, run: CheckedRun, store: Store, record: RunRecord, games: list[int], resources: Resources
) -> None:
    """Play games of a run again; `BadBundle` names the first fact that differs, or why one cannot be played here."""
    what = f"its run {run.form.key[:12]}"
    try:
        one_thread()
        found = verify(store, record, resources, games, crafts=True)
    except (BenchError, RunError) as error:
        raise archive.wrong(f"{what} cannot be played here: {one_line(error).rstrip('.')}") from None
    except Exception as error:  # of a plug-in, which may raise anything
        raise archive.wrong(f"{what} cannot be played here: {type(error).__name__}: {one_line(error):.300}") from error
    raise_difference(archive, run, found)
    check_weights(archive, run, resources)


def raise_difference(archive: Archive, run: CheckedRun, found: Verification) -> None:
    """`BadBundle` for the first thing that does not hold."""
    what = f"its run {run.form.key[:12]}"
    for bad in found.bad:
        raise archive.wrong(f"{what}, game {bad.game}, position {bad.position}, example {bad.index}: {bad.what}")
    for game, reason in found.left_out.items():
        raise archive.wrong(f"{what}, game {game}, cannot be played here: {reason}; without --replay it is a claim")
    for d in found.differences:
        raise archive.wrong(
            f"{what}, game {d.game}, position {d.position}, example {d.index}: {d.fact} is {d.stored!r:.80} in the "
            f"bundle and {d.found!r:.80} when the game is played; {len(found.differences)} facts differ"
        )


def check_weights(archive: Archive, run: CheckedRun, resources: Resources) -> None:
    """`BadBundle` where a network that was trained here under the same key has other weights."""
    here = fingerprints(resources.cache, run.spec, run.form.made.environment)
    for what, said in (("base", run.form.weights.base), ("fit", run.form.weights.fit)):
        if said and here[what] and said != here[what]:
            name = run.spec.base.name if what == "base" else run.spec.defense.name
            raise archive.wrong(
                f"its run {run.form.key[:12]}: the weights of {name!r} have the hash {said[:12]} in the bundle, and "
                f"{here[what][:12]} when it is trained here"
            )

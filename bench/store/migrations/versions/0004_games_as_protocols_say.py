"""The game of a run, as its protocol describes it: its keys, its declarations, its words. Removes `threat.targeted`.

The keys of runs stay as they are: they only name a run, and are not computed again.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

#: what the built-in protocols declared when this was written
FACTS = {
    "stream": ("repeats", "stream", False),
    "replay": ("repeats", "stream", False),
    "probe": ("trials", "state", True),
}


def upgrade() -> None:
    runs = _runs()
    for key, spec in op.get_bind().execute(sa.select(runs.c.key, runs.c.spec)).all():
        if "facts" in spec.get("game", {"facts": None}):
            continue
        threat = {name: value for name, value in spec["threat"].items() if name != "targeted"}
        changed = {**spec, "threat": threat, "game": _new(spec["game"], threat)}
        op.get_bind().execute(runs.update().where(runs.c.key == key).values(spec=changed))


def _new(game: dict[str, Any], threat: dict[str, Any]) -> dict[str, Any]:
    like, name = game["protocol"], game.get("play") or game["protocol"]
    games_key, shared, probes = FACTS[like]
    keys = ("p", "trials") if probes else ("repeats",)
    facts = {
        "games_key": games_key, "shared": shared, "splits": probes, "answers_clean": probes, "background": probes,
    }  # fmt: skip
    card, tag = _words(like, game, threat)
    return {
        "protocol": name, "params": {key: game[key] for key in keys}, "facts": facts, "batch": game.get("batch", 0),
        "source": game.get("source", ""), "card": card, "tag": tag if name == like else f"{tag}, {name}".strip(", "),
    }  # fmt: skip


def _words(like: str, game: dict[str, Any], threat: dict[str, Any]) -> tuple[str, str]:
    if like == "probe":
        known = [f"known {threat['known']:g}"] if threat["weights"] == "simulated" else []
        card = f"crafted after {game['p']} inputs, {game['trials']} games with backgrounds of their own"
        return card, ", ".join([f"p {game['p']}", *known, f"delay {threat['delay']}"])
    if like == "replay":
        return "the sequence is crafted beforehand and served once to a fresh defense", "replay"
    return "every input is attacked and served in order, the state carries on", ""


def downgrade() -> None:
    runs = _runs()
    for key, spec in op.get_bind().execute(sa.select(runs.c.key, runs.c.spec)).all():
        game = spec["game"]
        facts = game["facts"]
        like = "probe" if facts["splits"] else "replay" if game["tag"] == "replay" else "stream"
        old = {"protocol": like, "p": 0, "trials": 1, "repeats": 1, **game["params"], "batch": game["batch"]}
        if game["source"]:
            old |= {"play": game["protocol"], "source": game["source"]}
        changed = {**spec, "threat": {**spec["threat"], "targeted": False}, "game": old}
        op.get_bind().execute(runs.update().where(runs.c.key == key).values(spec=changed))


def _runs() -> sa.TableClause:
    return sa.table("runs", sa.column("key", sa.String), sa.column("spec", sa.JSON))

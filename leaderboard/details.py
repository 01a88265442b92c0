"""What stands on a run's page beyond its line: its examples, its pictures, and how it was made."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bench.analysis.compare import outcome_of
from bench.analysis.describe import clean_answers
from bench.analysis.gallery import Shown, gallery
from bench.analysis.metrics import Outcomes, by_game
from bench.game.resources import Resources
from bench.rows import Row
from bench.store import RunRecord, Store
from leaderboard import charts
from leaderboard.rows import RunLine
from leaderboard.site import RunPage

#: examples in the gallery; the bytes that its pictures may have; rows in the table of examples
EXAMPLES, BYTES, TABLE = 12, 600_000, 5000
#: images of at most this many pixels a side are kept exactly, larger ones as JPEG
EXACT = 64


def details(store: Store, line: RunLine, bench: Resources, command: tuple[str, str] = ("", "")) -> RunPage:
    """Everything about one run. command: how to repeat it, and a note on that."""
    record = store.find(line.run)
    assert record is not None
    rows = store.rows(line.run)
    clean = clean_answers(store, record)
    right = outcome_of(store, record, rows)
    shown, note = gallery(store, record, rows, bench, EXAMPLES) if rows else ([], "")
    return RunPage(
        command=command[0],
        command_note=command[1],
        gallery=_pictures(shown, right),
        gallery_note=note,
        charts=_charts(rows, shown, right),
        examples=[_example(row, line.norm, clean, right) for row in rows[:TABLE]],
        facts=_facts(record, line),
        cut=TABLE if len(rows) > TABLE else 0,
    )


def _example(row: Row, norm: str, clean: dict[tuple[int, int], int], right: Outcomes) -> dict[str, Any]:
    distance = getattr(row, norm)
    return {
        "index": row.index,
        "game": row.game,
        "position": row.position,
        "label": row.label,
        "clean": clean.get((row.game, row.index)) if row.clean_answer is None else row.clean_answer,
        "answer": row.answer,
        "kind": outcome(row, right),
        "distance": round(float(distance), 6) if math.isfinite(distance) else None,
        "queries": row.queries,
        "passes": row.forwards + row.backwards,
        "violation": row.violation,
    }


def outcome(row: Row, right: Outcomes) -> str:
    """violation, broken or survived: at the budget, for attacks of minimal norm."""
    if row.violation:
        return "violation"
    return "survived" if right.get((row.game, row.index), row.answer == row.label) else "broken"


def _charts(rows: Sequence[Row], shown: Sequence[Shown], right: Outcomes) -> list[dict[str, Any]]:
    found = []
    games = by_game(rows, right)
    if games:
        records = charts.running_records(dict(enumerate(games)))
        found.append({"kind": "running", "title": "Robust accuracy over the stream", "rows": records})
    with_neighbours = [one.row for one in shown if one.row.neighbours]
    for row in with_neighbours[:2]:
        title = f"Labels of the neighbours of example {row.index} ({outcome(row, right)}, label {row.label})"
        records = charts.neighbour_records(row.neighbours or {}, row.label)
        found.append({"kind": "neighbours", "title": title, "rows": records})
    return found


def _facts(record: RunRecord, line: RunLine) -> list[tuple[str, str]]:
    """Provenance and parameters, as text."""
    spec, made = record.spec, record.provenance
    found = [
        ("run", record.key),
        ("commit", str(made.get("commit", ""))),
        ("made with", json.dumps(made.get("environment", {}))),
        ("host", str(made.get("host", ""))),
        *((name, json.dumps(spec[name]["params"])) for name in ("defense", "base", "attack", "dataset")),
        ("network", spec["network"]["name"]),
        ("game", json.dumps(spec["game"])),
        ("threat", json.dumps(spec["threat"])),
        ("spent an example", ", ".join(f"{name} {value:.4g}" for name, value in line.spent.items())),
        ("seconds", f"{line.seconds:.1f}"),
    ]
    return [(name, value) for name, value in found if value not in ("", "{}")]


# -- pictures ---------------------------------------------------------------------------------------------------------


def _pictures(shown: Sequence[Shown], right: Outcomes) -> list[dict[str, Any]]:
    """The gallery, as far as its bytes go."""
    found: list[dict[str, Any]] = []
    spent = 0
    for one in shown:
        row = one.row
        difference = one.x_adv - one.x
        most = float(difference.abs().max())
        scaled = 0.5 + difference / (2 * most) if most else torch.full_like(difference, 0.5)
        pictures = [
            _picture(one.x, "clean", f"clean point {row.index}, label {row.label}"),
            _picture(one.x_adv, "served", f"served in its place, answered {row.answer}"),
            _picture(scaled, f"difference x {1 / (2 * most):.3g}" if most else "no difference", "difference, scaled"),
        ]
        for name, (images, labels) in one.nearest.items():
            for place, (image, label) in enumerate(zip(images, labels, strict=True), 1):
                pictures.append(
                    _picture(image, f"{name} {place}: {label}", f"neighbour {place} in {name}, label {label}")
                )
        spent += sum(len(picture["src"]) for picture in pictures)
        if spent > BYTES:
            break
        words = f"label {row.label}, answered {row.answer}" + (f"; {row.violation}" if row.violation else "")
        found.append({"index": row.index, "kind": outcome(row, right), "words": words, "pictures": pictures})
    return found


def _picture(image: Tensor, caption: str, alt: str) -> dict[str, Any]:
    """An image (C, H, W) in [0, 1] as a data address."""
    values = (image.clamp(0, 1).permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    picture = Image.fromarray(values[:, :, 0] if values.shape[2] == 1 else values)
    form = "PNG" if max(values.shape[:2]) <= EXACT else "JPEG"
    buffer = io.BytesIO()
    picture.save(buffer, form, quality=85)
    source = f"data:image/{form.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return {"src": source, "alt": alt, "caption": caption, "width": values.shape[1], "height": values.shape[0]}

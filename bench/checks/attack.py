"""The contract of an attack: each check takes an `AttackSubject` and returns what it saw, or raises `Violated`."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.checks.verdict import Check, demand, under_global_seed
from bench.draws import Draws
from bench.game.crafting import craft
from bench.game.judge import rule
from bench.game.oracle import Around, GameOracle
from bench.game.resources import Resources
from bench.game.serving import Serving
from bench.planning.spec import RunSpec


class AttackSubject:
    """An attack, a deployed defense that it may run against, and a dozen victims.

    declined: what it says against the defense in whose place this one stands; "": it was the first.
    """

    def __init__(self, resources: Resources, spec: RunSpec, declined: str = "") -> None:
        self.resources = resources
        self.spec = spec
        self.declined = declined
        self.x, self.y = resources.of(spec).points(spec.indices)
        self.bounded = resources.of(spec).attack.kind == "budget"

    def images(self, eps: float | None = None) -> Tensor:
        """What the attack returns, crafted against a fresh game."""
        spec = self.spec
        if eps is not None:
            spec = replace(spec, threat=spec.threat.with_fields({"eps": eps}))
        return craft(self.resources.of(spec).attack, self.oracle(spec), self.x, self.y, spec, spec.indices).images

    def oracle(self, spec: RunSpec) -> GameOracle:
        """The oracle of a fresh game."""
        serving = self.resources.of(spec).serving(spec.noise_key(0))
        around = self._around(serving) if spec.threat.share else None
        return self.resources.of(spec).oracle(0, serving, around=around)

    def _around(self, serving: Serving) -> Around:
        """Nothing was sent before, and the points after the dozen are the other users'."""
        around = Around.nothing(self.x, self.y, serving.columns)
        others = self.spec.order[len(self.x) : 2 * len(self.x)]
        around.x, around.y = self.resources.of(self.spec).points(others)
        return around


def check_declines_with_a_reason_or_runs(subject: AttackSubject) -> str:
    """declines gives None or a reason, always the same one."""
    reason = subject.resources.of(subject.spec).declined()
    demand(not reason, f"declines said nothing when it was asked first, and now {reason!r}")
    return f"runs against {subject.spec.defense.name}" + (f"; {subject.declined}" if subject.declined else "")


def check_returns_images_of_the_right_shape(subject: AttackSubject) -> str:
    """Finite float images of x's shape."""
    images = subject.images()
    demand(images.shape == subject.x.shape, f"shape {tuple(images.shape)} where {tuple(subject.x.shape)} is due")
    demand(bool(torch.isfinite(images).all()), "some pixels are not finite")
    return f"{tuple(images.shape)}, finite"


def check_stays_in_the_ball_and_the_box(subject: AttackSubject) -> str:
    """No violation at the default radius and at 1, 2, 4, 8, 16 /255."""
    threat = subject.spec.threat
    radii = [threat.eps]
    if subject.bounded and threat.eps > 0:
        radii += [step / 255 for step in (1, 2, 4, 8, 16)]
    for eps in radii:
        allowed = threat.with_fields({"eps": eps})
        rulings = rule(subject.x, subject.images(eps), allowed, subject.bounded)
        first = next((ruling.violation for ruling in rulings if ruling.violation), "")
        demand(not first, f"at eps {eps:.4g}: {first}")
    return f"no violation at {len(radii)} radii"


def check_same_seed_same_images(subject: AttackSubject) -> str:
    """The images are a function of (seed, example), whatever the global generators hold; those are left alone."""
    first, moved = under_global_seed(1, subject.images)
    second, _ = under_global_seed(2, subject.images)
    demand(
        torch.equal(first, second), "the same seed gives other images: draw from `draws`, not from a global generator"
    )
    demand(not moved, "the attack moves torch's global generator: seed and restore it in a fork")
    return "equal bit for bit"


def check_no_radius_no_change(subject: AttackSubject) -> str:
    """At eps 0 a budget attack returns x."""
    if not subject.bounded:
        return "does not apply to an attack of minimal norm"
    gap = float((subject.images(0.0) - subject.x).abs().max())
    demand(gap == 0, f"at eps 0 the images differ from x by {gap:.2g}")
    return "returns x"


def check_remembers_nothing(subject: AttackSubject) -> str:
    """The attack object holds the same before and after a call."""
    attack = subject.resources.of(subject.spec).attack
    before = copy.deepcopy(vars(attack))
    oracle = subject.oracle(subject.spec)
    oracle.begin(subject.x, subject.y, subject.spec.indices)
    attack.perturb(oracle, subject.x.clone(), subject.y, Draws(0, "check", subject.spec.indices))
    after = vars(attack)
    names = before.keys() | after.keys()
    changed = sorted(name for name in names if not _same(before.get(name, _NOTHING), after.get(name, _NOTHING)))
    demand(not changed, f"a call left {changed} on the attack; what it remembers belongs in the oracle")
    return "nothing is kept between calls"


_NOTHING = object()


def _same(a: Any, b: Any) -> bool:
    """Equal values: tensors, arrays, containers and plain objects by their content, also where they have no `==`."""
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return bool(np.array_equal(a, b))
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if type(a).__eq__ is object.__eq__ and hasattr(a, "__dict__"):
        return _same(vars(a), vars(b))
    return bool(a == b)


ATTACK_CHECKS: tuple[Check, ...] = (
    check_declines_with_a_reason_or_runs,
    check_returns_images_of_the_right_shape,
    check_stays_in_the_ball_and_the_box,
    check_same_seed_same_images,
    check_no_radius_no_change,
    check_remembers_nothing,
)

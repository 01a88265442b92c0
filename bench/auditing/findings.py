"""The checks of an audit: what each one measures, its threshold, and what it means if it trips.

Sources: C19 Carlini et al. 2019; A18 Athalye et al. 2018; AA the flags of AutoAttack; IoAF Pintor et al. 2022; C22
Croce et al. 2022; GMSA Chen et al. 2022; Z22 Zimmermann et al. 2022. A threshold that no source gives says why it is
what it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Check:
    """One check. It trips if its value is above the threshold, below it, or at most equal to it (`sign`).

    value: the measured quantity, in words; meaning: one sentence that says what it means if the check trips.
    """

    id: str
    value: str
    threshold: float
    meaning: str
    sign: Literal["above", "below", "at most"] = "above"


@dataclass(frozen=True)
class Finding:
    """What a check found. value: shares are in [0, 1]."""

    id: str
    value: float
    threshold: float
    tripped: bool
    message: str


CHECKS: dict[str, Check] = {
    check.id: check
    for check in (
        Check("V1", "images that broke the threat model", 0, "An attack cheats, so its number is not to be used."),
        Check(
            "V2", "difference between what the strongest attack believed and what was judged", 0.005,
            "What the attack counted is not what the deployed defense answered; only the judge's number holds.",
        ),
        Check(
            "M1", "share of points whose answers are random without being declared so, or in a way that no key governs",
            0, "The defense is random in a way that it does not declare: its numbers do not repeat.",
        ),
        Check(
            "M2", "share of answers that are probabilities", 0.99,
            "It answers with probabilities: losses on logits have no gradient there. Attack the logits.",
        ),
        Check(
            "M3", "share of answers that change the state or take optimiser steps", 0,
            "It optimises while it answers: an attack on the network as trained attacks another network.",
        ),
        Check(  # a twentieth: fewer dead points move no number by more than its interval
            "M4", "share of points with a zero, NaN or infinite gradient", 0.05,
            "Gradients vanish: gradient attacks are blind there. Use BPDA, a relaxation, or attacks by query.",
        ),
        Check(
            "M5", "share of points whose answer depends on the batch or the order in it, undeclared", 0,
            "An answer depends on its company though it is not declared to: numbers change with the batch size.",
        ),
        Check(  # a point in a hundred: less is within any interval that is reported here
            "M6", "share of answers that change with the order of the stream, or with queries that were served before",
            0.01, "Answers depend on what came before: one stream is one draw. Use --repeats.",
        ),
        Check(
            "M7", "contract checks of snapshot and restore that fail", 0,
            "A restored state is not the one that was saved: resumed and simulated games are not the defense's.",
        ),
        Check(
            "M8", "modules that are left in training mode", 0,
            "A module answers in training mode: by dropout and batch statistics answers depend on company and chance.",
        ),
        Check(  # a tenth: a proxy that rounds or averages the same network stays closer
            "M9", "relative difference between its logits before it serves and those of its base", 0.1,
            "It answers with another network than its base: attacks on the trained network attack another one. Declare "
            "uses_base = False.",
        ),
        Check(  # two points: PGD keeps its last image, not its best
            "S1", "robust accuracy under PGD above that under one step", 0.02,
            "Many steps are weaker than one: the loss surface misleads the attack (C19).",
        ),
        Check(
            "S2", "robust accuracy under attacks with knowledge above that under attacks without", 0.002,
            "An attack without knowledge is stronger than one with: the latter is weak, or gradients are masked (AA).",
        ),
        Check(  # a twentieth: PGD may lose a point here and there from one radius to the next
            "S3", "share of points that fall at a radius and stand at a larger one", 0.05,
            "More room makes the attack weaker: it does not search well (C19).",
        ),
        Check(
            "S4", "robust accuracy where the perturbation is not bounded", 0.05,
            "Even without a bound the attack fails: it is broken, not the defense strong (C19).",
        ),
        Check(
            "S5", "robust accuracy lost by twice the steps and restarts", 0.005,
            "A longer attack finds more: the one that was reported stopped too early.",
        ),
        Check(
            "S6", "mean range of the scaled loss over the last 10 steps (0 for points that were broken)", 0.05,
            "The loss was still rising when the attack ended: give it more steps (IoAF).",
        ),
        Check(  # one point in a hundred: PGD may step over a narrow adversarial region at the end
            "S7", "share of points that an iterate broke and the returned image did not", 0.01,
            "The attack passed an adversarial image and returned another: it must keep its best (IoAF).",
        ),
        Check(
            "S8", "robust accuracy under the direct attack above that under random search", 0.002,
            "Random points beat the gradient: it is masked (A18, C19).",
        ),
        Check(
            "S9", "robust accuracy under the direct attack above that under images made on the static base", 0.002,
            "The base's images are stronger than the direct attack: the direct attack is weak (C22).",
        ),
        Check(
            "S10", "robust accuracy under the direct attack above that under a decision-based one", 0.002,
            "An attack that sees labels alone is stronger than the direct one: its gradient is masked (C19).",
        ),
        Check(  # two points, as S1
            "S11", "robust accuracy with the randomness known above that with it hidden", 0.02,
            "Knowing the randomness does not help the attack: it does not use what it knows (C19).",
        ),
        Check(
            "S12", "robust accuracy of the regular base alone under the same attack", 0.05,
            "The same attack does not even break the undefended network: it is too weak to say anything (control).",
        ),
        Check(  # a sound PGD-40 finds 90 to 95 % of them on digits, through real hills; one that is blind next to none
            "S13", "share of planted adversarial points that the same attack finds", 0.8,
            "The attack misses points that are certainly adversarial: its failure proves nothing (Z22).", "below",
        ),
        Check(  # two points, as S1
            "S14", "robust accuracy gained by more rounds of simulating and attacking", 0.02,
            "More rounds make the attack weaker: its copy is not the defense (GMSA).",
        ),
        Check(
            "S15", "lower end of the gain over the static base, worst case against worst case", 0.02,
            "Attacked as well as its base, the runtime part adds nothing that can be told from nothing (C22).",
            "at most",
        ),
        Check(
            "P1", "accuracy that other users lose by the attacker's inputs among theirs", 0,
            "It learns from what it serves, at the cost of users who attack nothing.",
        ),
    )
}  # fmt: skip


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """The findings in the order of `CHECKS`."""
    order = list(CHECKS)
    return sorted(findings, key=lambda one: order.index(one.id))


def finding(id_: str, value: float, detail: str, sure: bool = True) -> Finding:
    """The finding of a check. detail: its figures in words; the meaning is added if it trips.

    sure: the interval of the value excludes zero; if it does not, the check does not trip.
    """
    check = CHECKS[id_]
    over = {"above": value > check.threshold, "below": value < check.threshold, "at most": value <= check.threshold}
    tripped = sure and over[check.sign]
    message = f"{check.value[0].upper()}{check.value[1:]}: {detail}."
    return Finding(id_, value, check.threshold, tripped, f"{message} {check.meaning}" if tripped else message)

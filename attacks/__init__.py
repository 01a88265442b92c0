"""Attacks, one module per method. A built-in name is a class and a preset of the threat model."""

from bench.registry import register_attack


def register() -> None:
    """Register the built-in attacks."""
    register_attack(
        "clean",
        "attacks.clean:Clean",
        summary="no perturbation: the clean accuracy",
        preset={"weights": "none", "eps": 0.0, "norm": "linf"},
    )
    register_attack(
        "pgd",
        "attacks.pgd:PGD",
        summary="projected gradient descent on the trained weights (Madry et al. 2018)",
        preset={"weights": "trained"},
    )
    register_attack(
        "pgd-skip",
        "attacks.pgd:PGD",
        summary="PGD on the exact adapted weights",
        preset={"weights": "adapted", "bank": True, "known": 1.0, "delay": 0},
        protocol="probe",
    )
    register_attack(
        "pgd-skip-partial",
        "attacks.pgd:PGD",
        summary="PGD on a simulated copy that saw a part of the stream",
        preset={"weights": "simulated", "bank": True, "known": 0.5, "delay": 0},
        free=("known", "randomness"),
        protocol="probe",
    )
    register_attack(
        "pgd-skip-delayed",
        "attacks.pgd:PGD",
        summary="PGD on the exact adapted weights, served after `delay` further inputs",
        preset={"weights": "adapted", "bank": True, "known": 1.0, "delay": 50},
        free=("delay",),
        protocol="probe",
    )

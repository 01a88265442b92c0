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
    for name, target, summary in (
        ("fgsm", "gradient:FGSM", "one step along the gradient's sign (Goodfellow et al. 2015)"),
        ("bim", "gradient:BIM", "FGSM in many small steps (Kurakin et al. 2016)"),
        ("cw-l2", "carlini_wagner:CarliniWagnerL2", "smallest l2 perturbation (Carlini and Wagner 2017)"),
        ("jsma", "jsma:JSMA", "fewest changed pixels, by saliency maps (Papernot et al. 2016)"),
    ):
        register_attack(name, f"attacks.{target}", summary=summary, preset={"weights": "trained"})
    for name, surrogate, summary in (
        ("gray-box", "same", "PGD on another network of the same architecture, trained from another seed"),
        ("transfer", "other", "PGD on a network of another architecture"),
    ):
        register_attack(
            name,
            "attacks.pgd:PGD",
            summary=summary,
            preset={"weights": "surrogate", "surrogate": surrogate},
            free=("surrogate",),
        )
    for name, target, summary in (
        (
            "square",
            "query:Square",
            "random search with scores, within a budget of queries (Andriushchenko et al. 2020)",
        ),
        (
            "hopskipjump",
            "query:HopSkipJump",
            "boundary walk with labels, within a budget of queries (Chen et al. 2020)",
        ),
        ("hopskipjump-linf", "query:HopSkipJumpLinf", "the same, for the smallest linf perturbation"),
    ):
        register_attack(
            name,
            f"attacks.{target}",
            summary=summary,
            preset={"weights": "none", "queries": 1000},
            free=("queries", "queries_served"),
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
        free=("randomness",),
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
    for name, target, summary in (
        ("fpa", "FPA", "fixed point attack: PGD on the simulated defense as adapted to the image (Chen et al. 2022)"),
        ("gmsa-avg", "GMSAAvg", "PGD on the mean over all simulated adaptations to the image (Chen et al. 2022)"),
        ("gmsa-min", "GMSAMin", "PGD on the weakest of all simulated adaptations to the image (Chen et al. 2022)"),
    ):
        register_attack(
            name,
            f"attacks.transductive:{target}",
            summary=summary,
            preset={"weights": "simulated", "bank": True},
            free=("randomness",),
            protocol="replay",
        )
    register_attack(
        "autoattack",
        "attacks.autoattack:AutoAttack",
        summary="APGD-CE, targeted APGD-DLR, targeted FAB and Square on the trained weights (Croce and Hein 2020)",
        preset={"weights": "trained"},
    )
    register_attack(
        "autoattack-skip",
        "attacks.autoattack:AutoAttack",
        summary="AutoAttack on the exact adapted weights",
        preset={"weights": "adapted", "bank": True, "known": 1.0, "delay": 0},
        protocol="probe",
    )
    register_attack(
        "transfer-from-base",
        "attacks.pgd:PGD",
        summary="PGD on the trained weights, played in the game of pgd-skip, so that the two can be compared",
        preset={"weights": "trained"},
        protocol="probe",
    )
    register_attack(
        "random-search",
        "attacks.random_search:RandomSearch",
        summary="random points of the ball, sifted by the exact adapted weights where answers are dear",
        preset={"weights": "adapted", "bank": True, "queries": 200},
        free=("queries",),
        protocol="probe",
    )
    for name, target, summary in (
        ("bpda", "BPDA", "forward the defense, backward its proxy; bpda:ATTACK around any attack with gradients"),
        ("eot", "EOT", "the mean over draws of the defense's randomness; eot:ATTACK likewise"),
    ):
        register_attack(
            name, f"attacks.wrappers:{target}", summary=f"{summary} (Athalye et al. 2018)", wraps="pgd-skip"
        )

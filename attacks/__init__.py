"""Attacks, one module per method. Each built-in name combines a class with preset fields of the threat model."""

from typing import Any

from bench.registry import register_attack

ARXIV = "https://arxiv.org/abs/"
WU = "https://proceedings.mlr.press/v119/wu20f.html"

#: the paper that describes each attack
PAPERS = {
    "fgsm": f"{ARXIV}1412.6572",
    "bim": f"{ARXIV}1607.02533",
    "cw-l2": f"{ARXIV}1608.04644",
    "jsma": f"{ARXIV}1511.07528",
    "gray-box": f"{ARXIV}1605.07277",
    "transfer": f"{ARXIV}1605.07277",
    "square": f"{ARXIV}1912.00049",
    "hopskipjump": f"{ARXIV}1904.02144",
    "hopskipjump-linf": f"{ARXIV}1904.02144",
    "pgd": f"{ARXIV}1706.06083",
    "fpa": f"{ARXIV}2110.14735",
    "gmsa-avg": f"{ARXIV}2110.14735",
    "gmsa-min": f"{ARXIV}2110.14735",
    "autoattack": f"{ARXIV}2003.01690",
    "autoattack-skip": f"{ARXIV}2003.01690",
    "transfer-from-base": f"{ARXIV}2202.13711",
    "random-search": f"{ARXIV}1902.06705",
    "persistent": "https://openreview.net/forum?id=ZJ2ONmSgCS",
    "unrolled": f"{ARXIV}2202.13711",
    "apgd-unrolled": f"{ARXIV}2202.13711",
    "oars": f"{ARXIV}2303.06280",
    "diffhammer": "https://openreview.net/forum?id=ZJ2ONmSgCS",
    "dia": f"{ARXIV}2301.12576",
    "rttdp": f"{ARXIV}2410.04682",
    "bpda": f"{ARXIV}1802.00420",
    "eot": f"{ARXIV}1802.00420",
    "pgd-skip": WU,
    "pgd-skip-partial": WU,
    "pgd-skip-delayed": WU,
}


def _add(name: str, target: str, **known: Any) -> None:
    register_attack(name, f"attacks.{target}", paper=PAPERS.get(name, ""), **known)


def register() -> None:
    """Register the built-in attacks."""
    _add(
        "clean",
        "clean:Clean",
        summary="no perturbation; it measures the clean accuracy",
        preset={"weights": "none", "eps": 0.0, "norm": "linf"},
    )
    for name, target, summary in (
        ("fgsm", "gradient:FGSM", "one step along the sign of the gradient (Goodfellow et al. 2015)"),
        ("bim", "gradient:BIM", "FGSM in many small steps (Kurakin et al. 2016)"),
        ("cw-l2", "carlini_wagner:CarliniWagnerL2", "smallest l2 perturbation (Carlini and Wagner 2017)"),
        ("jsma", "jsma:JSMA", "smallest number of changed pixels, found by saliency maps (Papernot et al. 2016)"),
    ):
        _add(name, target, summary=summary, preset={"weights": "trained"})
    for name, surrogate, summary in (
        ("gray-box", "same", "PGD on another network of the same architecture, trained from another seed"),
        ("transfer", "other", "PGD on a network of another architecture"),
    ):
        _add(
            name,
            "pgd:PGD",
            summary=summary,
            preset={"weights": "surrogate", "surrogate": surrogate},
            free=("surrogate",),
        )
    for name, target, summary in (
        (
            "square",
            "query:Square",
            "random search on the scores, within a budget of queries (Andriushchenko et al. 2020)",
        ),
        (
            "hopskipjump",
            "query:HopSkipJump",
            "walk along the decision boundary, by labels alone, within a budget of queries (Chen et al. 2020)",
        ),
        ("hopskipjump-linf", "query:HopSkipJumpLinf", "HopSkipJump for the smallest linf perturbation"),
    ):
        _add(
            name,
            target,
            summary=summary,
            preset={"weights": "none", "queries": 1000},
            free=("queries", "queries_served", "accounts", "bans"),
        )
    _add(
        "pgd",
        "pgd:PGD",
        summary="projected gradient descent on the trained weights (Madry et al. 2018)",
        preset={"weights": "trained"},
    )
    _add(
        "pgd-skip",
        "pgd:PGD",
        summary="PGD on the exact adapted weights",
        preset={"weights": "adapted", "bank": True, "known": 1.0, "delay": 0},
        free=("randomness",),
        protocol="probe",
    )
    _add(
        "pgd-skip-partial",
        "pgd:PGD",
        summary="PGD on a simulated copy that has seen a part of the stream",
        preset={"weights": "simulated", "bank": True, "known": 0.5, "delay": 0},
        free=("known", "randomness"),
        protocol="probe",
    )
    _add(
        "pgd-skip-copies",
        "copies:PGDOnCopies",
        summary="PGD on several simulated copies that have seen the stream, each with draws of its own",
        preset={"weights": "simulated", "bank": True, "known": 1.0, "delay": 0},
        free=("known", "delay"),
        protocol="probe",
    )
    _add(
        "pgd-skip-delayed",
        "pgd:PGD",
        summary="PGD on the exact adapted weights; the image is served after `delay` further inputs",
        preset={"weights": "adapted", "bank": True, "known": 1.0, "delay": 50},
        free=("delay",),
        protocol="probe",
    )
    for name, target, summary in (
        ("fpa", "FPA", "fixed point attack: PGD on a simulated defense adapted to the image (Chen et al. 2022)"),
        ("gmsa-avg", "GMSAAvg", "PGD on the mean loss over all simulated adaptations (Chen et al. 2022)"),
        ("gmsa-min", "GMSAMin", "PGD on the lowest loss over all simulated adaptations (Chen et al. 2022)"),
    ):
        _add(
            name,
            f"transductive:{target}",
            summary=summary,
            preset={"weights": "simulated", "bank": True},
            free=("randomness",),
            protocol="replay",
        )
    _add(
        "autoattack",
        "autoattack:AutoAttack",
        summary="APGD-CE, targeted APGD-DLR, targeted FAB and Square on the trained weights (Croce and Hein 2020)",
        preset={"weights": "trained"},
    )
    _add(
        "autoattack-skip",
        "autoattack:AutoAttack",
        summary="AutoAttack on the exact adapted weights",
        preset={"weights": "adapted", "bank": True, "known": 1.0, "delay": 0},
        protocol="probe",
    )
    _add(
        "transfer-from-base",
        "pgd:PGD",
        summary="PGD on the trained weights in the protocol of pgd-skip, for a comparison with it",
        preset={"weights": "trained"},
        protocol="probe",
    )
    _add(
        "random-search",
        "random_search:RandomSearch",
        summary="random points in the ball; where queries are few, the adapted weights select the points to query",
        preset={"weights": "adapted", "bank": True, "queries": 200},
        free=("queries",),
        protocol="probe",
    )
    for name, target, summary in (
        ("bpda", "BPDA", "forward by the defense, backward by its proxy; bpda:ATTACK wraps a gradient attack"),
        ("eot", "EOT", "mean over draws of the defense's randomness; eot:ATTACK wraps a gradient attack"),
    ):
        _add(name, f"wrappers:{target}", summary=f"{summary} (Athalye et al. 2018)", wraps="pgd-skip")
    _add(
        "persistent",
        "pgd:PGD",
        summary="PGD on the exact adapted weights; every image is sent again and again, one wrong answer is enough",
        preset={"weights": "adapted", "bank": True, "known": 1.0, "delay": 0, "resubmits": 10},
        free=("resubmits", "randomness"),
        protocol="probe",
    )
    sends = {"eps": 1.0, "norm": "linf"}
    for name, target, summary, preset, free in (
        (
            "dia",
            "DIA",
            "images within a batch that harm the other users' answers (Wu et al. 2023)",
            {"weights": "adapted", "bank": True, "share": 0.05, "place": "within", "others": True, **sends},
            ("share", "eps"),
        ),
        (
            "rttdp",
            "RTTDP",
            "batches between those of other users, crafted on a surrogate that follows the defense (Su et al. 2025)",
            {"weights": "trained", "share": 0.5, "place": "interleaved", **sends, "eps": 0.3},
            ("share", "place", "eps"),
        ),
        (
            "repeat",
            "Repeat",
            "one image, sent again and again among other users",
            {"weights": "none", "share": 0.5, "place": "before", **sends},
            ("share", "place"),
        ),
    ):
        _add(name, f"poison:{target}", summary=summary, preset=preset, free=free, protocol="poison")
    _add(
        "greedy-poison",
        "greedy_poison:GreedyPoison",
        summary="inputs tried on a copy of the defense, after which it answers other users worst",
        preset={"weights": "adapted", "bank": True, "share": 0.5, "place": "before", "others": True, **sends},
        free=("share", "place", "eps", "randomness"),
        protocol="poison",
    )
    _add(
        "oars",
        "oars:OARS",
        summary="adapts to refusals of queries that are alike; oars:square, oars:hopskipjump (Feng et al. 2023)",
        preset={"queries_served": True},
        wraps="square",
    )
    _add(
        "diffhammer",
        "diffhammer:DiffHammer",
        summary="gradients of many draws, weighted by how far each can be broken (Wang et al. 2024)",
        preset={"weights": "adapted", "bank": True, "known": 1.0, "delay": 0, "resubmits": 10},
        free=("resubmits", "randomness"),
        protocol="probe",
    )
    _add(
        "unrolled",
        "unrolled:Unrolled",
        summary="through the defense's adaptation; unrolled:ATTACK wraps a gradient attack (Croce et al. 2022)",
        wraps="pgd-skip",
    )
    _add(
        "apgd-unrolled",
        "unrolled:APGDUnrolled",
        summary="APGD through the last steps of the defense's adaptation (Croce et al. 2022)",
        preset={"weights": "adapted", "bank": True, "known": 1.0, "delay": 0},
        protocol="probe",
    )

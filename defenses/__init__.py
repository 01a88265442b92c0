"""Defenses, one module per method. The built-in names stand here; listing them imports nothing heavy."""

from bench.registry import register_defense


def register() -> None:
    """Register the built-in defenses."""
    register_defense("regular", "defenses.regular:Regular", base=True, summary="theta_0 alone, trained on clean images")
    register_defense("deepnn", "defenses.deepnn:DeepNN", summary="vote of the nearest clean training images")
    register_defense("rmc", "defenses.rmc:RMC", summary="runtime masking and cleansing (Wu et al., ICML 2020)")
    register_defense(
        "rmc-plus", "defenses.rmc_plus:RMCPlus", summary="RMC with replacement in the augmented set (Wu et al.)"
    )

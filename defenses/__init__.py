"""Defenses, one module per method. The built-in names stand here; listing them imports nothing heavy."""

from bench.registry import register_defense


def register() -> None:
    """Register the built-in defenses."""
    for name, target, summary in (
        ("regular", "regular:Regular", "theta_0 alone, trained on clean images"),
        ("fgsm-at", "adversarial:FGSMTraining", "adversarial training with FGSM (Goodfellow et al. 2015)"),
        ("pgd-at", "adversarial:PGDTraining", "adversarial training with PGD (Madry et al. 2018)"),
        ("jacobian", "jacobian:Jacobian", "penalty on the Jacobian's Frobenius norm (Hoffman et al. 2019)"),
        ("cross-lipschitz", "cross_lipschitz:CrossLipschitz", "Cross-Lipschitz penalty (Hein and Andriushchenko 2017)"),
        ("feature-denoising", "denoising:FeatureDenoising", "denoising blocks, trained with PGD (Xie et al. 2019)"),
    ):
        register_defense(name, f"defenses.{target}", base=True, summary=summary)
    for name, target, summary in (
        ("deepnn", "deepnn:DeepNN", "vote of the nearest clean training images"),
        ("webnn", "webnn:WebNN", "vote of the nearest images of a large bank (Dubey et al. 2019)"),
        ("knn-at", "knn_at:KnnAT", "runtime adversarial training on clean neighbours (Wu et al., not to work)"),
        ("rmc", "rmc:RMC", "runtime masking and cleansing (Wu et al., ICML 2020)"),
        ("rmc-plus", "rmc_plus:RMCPlus", "RMC with replacement in the augmented set (Wu et al.)"),
        ("noise-vote", "noise_vote:NoiseVote", "vote over noisy copies: randomised smoothing (Cohen et al. 2019)"),
        ("dent", "dent:Dent", "adapts a modulation to each batch by its entropy (Wang et al. 2021)"),
        ("anti-adversary", "anti_adversary:AntiAdversary", "moves inputs to its own label (Alfarra et al. 2022)"),
    ):
        register_defense(name, f"defenses.{target}", summary=summary)

"""Defenses, one module per method. The built-in names stand here; listing them imports nothing heavy."""

from bench.registry import register_defense

ARXIV = "https://arxiv.org/abs/"
WU = "https://proceedings.mlr.press/v119/wu20f.html"

#: authors, year and venue of the papers
CITED = {
    "fgsm-at": "Goodfellow et al. 2015, ICLR",
    "pgd-at": "Madry et al. 2018, ICLR",
    "jacobian": "Hoffman et al. 2019, arXiv",
    "cross-lipschitz": "Hein and Andriushchenko 2017, NeurIPS",
    "feature-denoising": "Xie et al. 2019, CVPR",
    "deepnn": "Papernot and McDaniel 2018, arXiv",
    "webnn": "Dubey et al. 2019, CVPR",
    "knn-at": "Wu et al. 2020, ICML",
    "rmc": "Wu et al. 2020, ICML",
    "rmc-plus": "Wu et al. 2020, ICML",
    "noise-vote": "Cohen et al. 2019, ICML",
    "dent": "Wang et al. 2021, arXiv",
    "anti-adversary": "Alfarra et al. 2022, AAAI",
    "tent": "Wang et al. 2021, ICLR",
    "hedge": "Wu et al. 2021, arXiv",
    "purify": "Lee and Kim 2023, ICCV",
    "ttc": "Xing et al. 2025, CVPR",
    "input-transform": "Guo et al. 2018, ICLR",
    "random-transform": "Xie et al. 2018, ICLR",
    "squeeze-detect": "Xu et al. 2018, NDSS",
    "blacklight": "Li et al. 2022, USENIX Security",
}


def register() -> None:
    """Register the built-in defenses."""
    for name, target, summary, paper in (
        ("given", "given:Given", "a network as it is given; nothing is trained", ""),
        ("regular", "regular:Regular", "theta_0 alone, trained on clean images", ""),
        (
            "fgsm-at", "adversarial:FGSMTraining", "adversarial training with FGSM (Goodfellow et al. 2015)",
            f"{ARXIV}1412.6572",
        ),
        (
            "pgd-at", "adversarial:PGDTraining", "adversarial training with PGD (Madry et al. 2018)",
            f"{ARXIV}1706.06083",
        ),
        (
            "jacobian", "jacobian:Jacobian", "penalty on the Jacobian's Frobenius norm (Hoffman et al. 2019)",
            f"{ARXIV}1908.02729",
        ),
        (
            "cross-lipschitz", "cross_lipschitz:CrossLipschitz",
            "Cross-Lipschitz penalty (Hein and Andriushchenko 2017)", f"{ARXIV}1705.08475",
        ),
        (
            "feature-denoising", "denoising:FeatureDenoising",
            "denoising blocks, trained with PGD (Xie et al. 2019)", f"{ARXIV}1812.03411",
        ),
    ):  # fmt: skip
        register_defense(name, f"defenses.{target}", base=True, summary=summary, paper=paper, cited=CITED.get(name, ""))
    for name, target, summary, paper in (
        ("deepnn", "deepnn:DeepNN", "vote of the nearest clean training images", f"{ARXIV}1803.04765"),
        (
            "webnn", "webnn:WebNN", "vote of the nearest images of a large bank (Dubey et al. 2019)",
            f"{ARXIV}1903.01612",
        ),
        ("knn-at", "knn_at:KnnAT", "runtime adversarial training on clean neighbours (Wu et al., not to work)", WU),
        ("rmc", "rmc:RMC", "runtime masking and cleansing (Wu et al., ICML 2020)", WU),
        ("rmc-plus", "rmc_plus:RMCPlus", "RMC with replacement in the augmented set (Wu et al.)", WU),
        (
            "noise-vote", "noise_vote:NoiseVote", "vote over noisy copies: randomised smoothing (Cohen et al. 2019)",
            f"{ARXIV}1902.02918",
        ),
        (
            "dent", "dent:Dent", "adapts a modulation to each batch by its entropy (Wang et al. 2021)",
            f"{ARXIV}2105.08714",
        ),
        (
            "anti-adversary", "anti_adversary:AntiAdversary", "moves inputs to its own label (Alfarra et al. 2022)",
            f"{ARXIV}2103.14347",
        ),
        (
            "tent", "tent:Tent", "adapts batch norm to each batch by its entropy (Wang et al. 2021)",
            f"{ARXIV}2006.10726",
        ),
        ("hedge", "hedge:Hedge", "moves inputs to where no class is likely (Wu et al. 2021)", f"{ARXIV}2106.04938"),
        (
            "purify", "purify:Purify", "noise and a denoiser in several rounds (after Lee and Kim 2023)",
            f"{ARXIV}2303.09051",
        ),
        ("ttc", "ttc:TTC", "counterattacks the features of an input (Xing et al. 2025)", f"{ARXIV}2503.03613"),
        (
            "input-transform", "input_transform:InputTransform", "fewer bits, JPEG, median filter (Guo et al. 2018)",
            f"{ARXIV}1711.00117",
        ),
        (
            "random-transform", "input_transform:RandomTransform", "random size and place (Xie et al. 2018)",
            f"{ARXIV}1711.01991",
        ),
        (
            "squeeze-detect", "squeeze_detect:SqueezeDetect",
            "refuses inputs whose answer changes when they are squeezed (Xu et al. 2018)", f"{ARXIV}1704.01155",
        ),
        (
            "blacklight", "blacklight:Blacklight", "refuses near copies of earlier inputs (Li et al. 2022)",
            f"{ARXIV}2006.14042",
        ),
    ):  # fmt: skip
        register_defense(name, f"defenses.{target}", summary=summary, paper=paper, cited=CITED[name])

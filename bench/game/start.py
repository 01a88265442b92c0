"""The look at a network or a plug-in before its first row: what would make its number mean something else.

It runs where a part of a run is not the project's own. It takes a hundred clean answers and twenty gradients, which is
less than two steps of an attack on a hundred images.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from scipy.stats import binom
from torch import Tensor, nn

from bench import registry
from bench.contracts import Defense
from bench.errors import BadAnswer, one_line
from bench.fingerprint import tensors_in
from bench.planning.spec import RunSpec
from bench.registry import BUILT_IN

if TYPE_CHECKING:
    from bench.game.resources import RunResources

#: images that are answered, and of these the ones whose gradient is taken
ANSWERED, DESCENDED = 100, 20
#: how unlikely as many right answers must be by chance
CHANCE = 0.01
#: from this relative difference of logits on (median over the images), two networks are not the same
OTHER = 0.1
#: how far logits of the same image may differ
STEADY = 1e-3
#: what networks often want instead of pixels in [0, 1]: (mean, std), one number or one per channel
NORMALISATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "(0, 1 / 255)": ((0.0,), (1 / 255,)),
    "(0.5, 0.5)": ((0.5,), (0.5,)),
    "((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616))": ((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)),
    "(0.1307, 0.3081)": ((0.1307,), (0.3081,)),
}


def is_foreign(spec: RunSpec) -> bool:
    """Whether the network, the dataset or the defense of a run is somebody's own."""
    entries = [registry.defenses[spec.defense.name], registry.defenses[spec.base.name]]
    entries.append(registry.datasets[spec.dataset.name])
    network = spec.network.name
    own = ":" in network or (network in registry.models and registry.models[network].origin != BUILT_IN)
    return own or bool(spec.base.params.get("weights")) or any(entry.origin != BUILT_IN for entry in entries)


def look(run: RunResources) -> list[str]:
    """What a reader must know before the rows of a run, one line each.

    Raises `BadAnswer` where no row could be right: the attack needs a gradient, and the network has none.
    """
    spec = run.spec
    x, y = run.points(spec.order[: min(ANSWERED, spec.test_size)])
    network = run.trained()
    with torch.no_grad():
        logits = network(x)
        again = network(x)
    found = list(_answers(network, x, y, logits))
    if not torch.allclose(logits, again, rtol=0, atol=STEADY):
        found.append(
            "the network answers the same images differently when it is asked again (a dropout that is active in "
            "evaluation mode, or noise), so its rows do not repeat"
        )
    needs = run.attack.needs_gradients and spec.threat.weights != "none"
    found += _gradients(network, x[:DESCENDED], y[:DESCENDED], needs)
    if registry.defenses[spec.defense.name].origin != BUILT_IN:
        found += _steady(run, x)
    if not spec.is_base and (far := other_network(network, run.fitted(), x)) is not None and far > OTHER:
        found.append(
            f"the defense {spec.defense.name!r} answers with a network that is not its base {spec.base.name!r} (its "
            f"logits differ by {far:.0%}), so attacks that know the trained network attack another one; declare "
            f"uses_base = False, or build it on base.network"
        )
    return found


def _answers(network: nn.Module, x: Tensor, y: Tensor, logits: Tensor) -> Iterator[str]:
    count, classes = logits.shape
    right = int((logits.argmax(1) == y).sum())
    if count > 1 and float((logits - logits[:1]).abs().max()) <= 1e-6 * float(logits.abs().max()):
        yield "the network gives every image the same logits, so no attack changes anything; see how it is loaded"
    elif right <= binom.ppf(1 - CHANCE, count, 1 / classes):
        text = f"the network answers {right} of {count} clean images right, which is chance among {classes} classes"
        yield f"{text}{_better(network, x, y, right)}"


def _better(network: nn.Module, x: Tensor, y: Tensor, right: int) -> str:
    """What to try: the usual normalisation with which most images are answered right."""
    tried = {}
    for text, (mean, std) in NORMALISATIONS.items():
        if len(mean) in (1, x.shape[1]):
            shift, scale = (torch.tensor(values, device=x.device).view(1, -1, 1, 1) for values in (mean, std))
            with torch.no_grad():
                tried[text] = int((network((x - shift) / scale).argmax(1) == y).sum())
    best = max(tried, key=lambda text: tried[text])
    if tried[best] > max(2 * right, right + 0.1 * len(x)):
        return f"; with normalize={best} it answers {tried[best]}"
    return "; see that its weights, the order of its classes and its normalisation are those of these images"


def _gradients(network: nn.Module, x: Tensor, y: Tensor, needed: bool) -> list[str]:
    leaf = x.clone().requires_grad_(True)
    try:
        with torch.enable_grad():
            loss = nn.functional.cross_entropy(network(leaf), y, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, leaf)
    except RuntimeError as error:
        if needed:
            raise BadAnswer(
                f"the network gives no gradient with respect to its images ({one_line(error)}), as quantised ones and "
                f"those that leave torch do; attack it by queries (square, hopskipjump-linf), or give it a proxy"
            ) from error
        return []
    flat = gradient.flatten(1)
    dead = int(((flat.abs().amax(1) == 0) | ~torch.isfinite(flat).all(1)).sum())
    if dead <= len(x) // 2:
        return []
    return [
        f"the loss of {dead} of {len(x)} clean images has no gradient (zero or not finite): attacks by gradient are "
        f"blind there; leave out a softmax or a rounding, or attack by queries"
    ]


def _steady(run: RunResources, x: Tensor) -> Iterator[str]:
    """Whether a plug-in answers alike when it is asked again, and a static one also in smaller calls."""
    defense = run.fitted()
    x = x[: {"static": len(x), "online": 2, "batch": max(defense.batch_size, 1)}[defense.kind]]
    key = run.spec.noise_key(0)
    first, again = (defense.fork(key).predict(x.clone()) for _ in range(2))
    if not torch.allclose(first, again, rtol=0, atol=STEADY):
        yield (
            f"the defense {run.spec.defense.name!r} answers the same images differently with the same noise key "
            f"(dropout in training mode? noise of torch's global generator?), so its rows do not repeat: bench check"
        )
    elif defense.kind == "static" and len(x) > 1:
        parts = torch.cat([defense.fork(key).predict(part.clone()) for part in x.split(len(x) // 2)])
        if not torch.allclose(first, parts, rtol=0, atol=STEADY):
            yield (
                f"the defense {run.spec.defense.name!r} is declared static, but its answer to an image depends on the "
                f"others beside it (a batch norm in training mode?); see: bench check"
            )


def other_network(base: nn.Module, defense: Defense, x: Tensor) -> float | None:
    """How far the proxy of a defense that has served nothing is from its base on images x (N, C, H, W).

    The median over the images of |proxy - base| / |base|, of logits whose mean is taken away. 0.0 where the proxy holds
    most weights of the base itself, whatever it makes of its answers; None where it has no proxy to compare.
    """
    if not defense.differentiable:
        return None
    proxy = defense.proxy()
    own, held = tensors_in(dict(base.named_parameters())), tensors_in(proxy)
    shared = sum(count for content, count in own.items() if content in held)
    if shared >= 0.5 * sum(own.values()):
        return 0.0
    with torch.no_grad():
        theirs, ours = (logits - logits.mean(1, keepdim=True) for logits in (base(x), proxy(x)))
    far = (ours - theirs).norm(dim=1) / theirs.norm(dim=1).clamp_min(1e-12)
    return float(far.median())

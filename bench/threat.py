"""The threat model: what an attacker may do and know. A value that everybody reads and the oracle enforces."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from fractions import Fraction
from typing import Any, Literal, get_args

from bench.errors import BadValue, UnknownName
from bench.norms import NORMS, Norm

Weights = Literal["none", "surrogate", "trained", "simulated", "adapted"]
Randomness = Literal["private", "shared"]
Place = Literal["before", "within", "interleaved"]


@dataclass(frozen=True)
class ThreatModel:
    """What the attacker may do and know.

    norm            distance that bounds the perturbation
    eps             its radius, in units of [0, 1] pixels (a number of pixels for l0)
    weights         the network that `oracle.model()` returns: none; surrogate (another network, trained apart on the
                    same data with the base's recipe); trained (theta_0); simulated (the proxy of the
                    attacker's own copy of the defense, fed with what it observed); adapted (the exact proxy of the
                    deployed defense at crafting time)
    surrogate       the architecture of that other network: same, other (see `bench.models.OTHER`), or what base.model
                    may say; empty unless weights is surrogate
    bank            the attacker has the augmented set D'
    known           each background point is seen independently with this probability, in [0, 1]
    delay           background points served between crafting and answering (the paper's q)
    randomness      a simulated copy has its own noise key (private) or the defense's (shared)
    queries         how often the deployed defense may be asked about each example (0: never)
    queries_served  whether such a query changes the deployed state
    accounts        accounts from which the attacker asks about each example, for defenses that tell users apart
    bans            an account is closed by the first refusal of one of its queries
    resubmits       how often the attacker sends the image; one wrong answer is enough
    share           of all inputs, the share that the attacker sends among those of other users, in [0, 1). Above 0 the
                    other users' inputs are judged, which nobody perturbs (see the protocol `poison`)
    place           where it sends them: before the others, within their batches, or interleaved with theirs
    others          it knows the inputs of the other users with which its own are served, and their labels
    """

    norm: Norm = "linf"
    eps: float = 0.0
    weights: Weights = "none"
    surrogate: str = ""
    bank: bool = False
    known: float = 1.0
    delay: int = 0
    randomness: Randomness = "private"
    queries: int = 0
    queries_served: bool = False
    accounts: int = 1
    bans: bool = False
    resubmits: int = 1
    share: float = 0.0
    place: Place = "within"
    others: bool = False

    def __post_init__(self) -> None:
        for key, options in (
            ("norm", NORMS),
            ("weights", get_args(Weights)),
            ("randomness", get_args(Randomness)),
            ("place", get_args(Place)),
        ):
            value = getattr(self, key)
            if value not in options:
                raise BadValue(f"threat.{key} is {value!r}; it must be one of {', '.join(options)}.")
        if not (math.isfinite(self.eps) and self.eps >= 0):
            raise BadValue(f"eps is {self.eps}; give a number of at least 0, such as 8/255 or 0.3.")
        if bool(self.surrogate) != (self.weights == "surrogate"):
            raise BadValue(
                f"threat.surrogate is {self.surrogate!r} where threat.weights is {self.weights!r}; name an "
                f"architecture (same, other, or a network) for the weights of a surrogate, and only for those."
            )
        if not 0 <= self.known <= 1:
            raise BadValue(f"threat.known is {self.known}; it is a probability, so give a number from 0 to 1.")
        if self.delay < 0:
            raise BadValue(f"threat.delay is {self.delay}; give a number of points of at least 0.")
        if self.queries < 0:
            raise BadValue(f"threat.queries is {self.queries}; give a number of at least 0.")
        if not 0 <= self.share < 1:
            raise BadValue(
                f"threat.share is {self.share}; it is the attacker's share of all inputs: from 0 to below 1."
            )
        for key in ("accounts", "resubmits"):
            if getattr(self, key) < 1:
                raise BadValue(f"threat.{key} is {getattr(self, key)}; give a number of at least 1.")

    def with_fields(self, values: dict[str, Any]) -> ThreatModel:
        """A copy with some fields replaced; each value may be a string as typed on a command line."""
        types = {f.name: type(f.default) for f in fields(self)}
        for key in values:
            if key not in types:
                raise UnknownName("field of the threat model", key, types)
        return replace(self, **{key: convert(f"threat.{key}", value, types[key]) for key, value in values.items()})

    def to_dict(self) -> dict[str, Any]:
        """Its fields; those of `LATER` only where they say something, so that older keys hold."""
        return {name: value for name, value in asdict(self).items() if name not in LATER or value != LATER[name]}

    def card(self) -> str:
        """The threat card: the threat model in one sentence."""
        network = {
            "none": "no weights",
            "surrogate": f"a network of its own, trained on the same data ({self.surrogate} architecture)",
            "trained": "the trained weights, not the adapted ones",
            "simulated": "the weights of its own simulated copy of the defense",
            "adapted": "the deployed defense's weights as adapted when it crafts",
        }[self.weights]
        parts = [f"{self.norm} eps {self.eps:g}", f"the attacker has {network}"]
        if self.weights == "simulated":
            parts.append(f"sees each earlier input with probability {self.known:g}")
            parts.append(f"its copy's randomness is {self.randomness}")
        if self.delay:
            parts.append(f"{self.delay} more inputs are served before the attacked one")
        if self.bank:
            parts.append("has the augmented set")
        if self.queries:
            served = "which change" if self.queries_served else "which do not change"
            parts.append(f"may ask {self.queries} times per example, {served} the state")
        if self.accounts > 1 or self.bans:
            closed = ", each closed by its first refusal" if self.bans else ""
            parts.append(f"asks from {self.accounts} account{'s' if self.accounts > 1 else ''}{closed}")
        if self.resubmits > 1:
            parts.append(f"sends an image {self.resubmits} times, and one wrong answer is enough")
        if self.share:
            where = {"before": "before them", "within": "within their batches", "interleaved": "in between"}[self.place]
            parts.append(f"other users' inputs are judged; {self.share:.3g} of all are the attacker's, sent {where}")
            parts.append(f"the attacker {'knows' if self.others else 'does not know'} the others' inputs")
        return "; ".join(parts)


#: fields that came later, with the values that they have where nothing is said
LATER: dict[str, Any] = {
    "accounts": 1,
    "bans": False,
    "resubmits": 1,
    "share": 0.0,
    "place": "within",
    "others": False,
}

#: kinds of knowledge, weakest first, in which robust accuracy is summed up
Tier = Literal["gray-black-box", "train-time", "aware-realistic", "aware-full"]


def tier_of(threat: ThreatModel) -> Tier:
    """What the attacker knows of the defense, as one of four.

    gray-black-box   only answers of the defense, or a network of its own
    train-time       the trained weights, and not what the defense has become since
    aware-realistic  the defense some inputs ago (delay), or a copy that saw a part of the stream (known)
    aware-full       the defense as it serves now, or a copy that sees all that the attacker itself sends
    """
    if threat.weights in ("none", "surrogate"):
        return "gray-black-box"
    if threat.weights == "trained":
        return "train-time"
    return "aware-realistic" if threat.delay or threat.known < 1 else "aware-full"


def convert(key: str, value: Any, kind: type) -> Any:
    """`value` as a `kind`, where strings come from a command line or a TOML file."""
    if kind is float:
        return parse_number(key, value)
    if kind is bool:
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
        if isinstance(value, bool):
            return value
        raise BadValue(f"{key} is {value!r}; give true or false.")
    if kind is int:
        number = parse_number(key, value)
        if number != int(number):
            raise BadValue(f"{key} is {value!r}; give a whole number.")
        return int(number)
    return str(value)


def parse_number(key: str, value: Any) -> float:
    """A finite number from a number, `"0.3"` or a fraction such as `"8/255"`."""
    if isinstance(value, bool):
        raise BadValue(f"{key} is {value!r}; give a number.")
    try:
        number = float(value) if isinstance(value, (int, float)) else _from_text(str(value))
    except (ValueError, ZeroDivisionError, OverflowError):
        raise BadValue(f"{key} is {value!r}; give a number such as 0.3 or a fraction such as 8/255.") from None
    if not math.isfinite(number):
        raise BadValue(f"{key} is {value!r}; give a finite number such as 0.3 or 8/255.")
    return number


def _from_text(text: str) -> float:
    return float(Fraction(text.replace(" ", ""))) if "/" in text else float(text)

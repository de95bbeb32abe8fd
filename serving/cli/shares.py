"""Shares of traffic as people write and read them: `2=10%`, `3=50%,budget=20%,tenant=risk`."""

from typing import Final

from serving.core.traffic import Segment
from serving.errors import ParameterInvalid
from serving.registry.shares import ArmOrder, ShadowOrder, Shares

_PERCENT: Final = 100


def parse_canary(text: str) -> ArmOrder:
    """`VERSION=SHARE`. Raises ParameterInvalid."""
    version, _, share = text.partition("=")
    if not version or not share:
        raise ParameterInvalid(f"a canary is VERSION=SHARE, such as 2=10%, not {text[:80]!r}")
    return ArmOrder(version=version, weight=fraction(share))


def parse_shadow(text: str) -> ShadowOrder:
    """`VERSION[=SHARE][,budget=SHARE][,principal=P][,tenant=T][,header:NAME=V]`, segments any
    number of times. Raises ParameterInvalid."""
    first, *rest = text.split(",")
    version, _, share = first.partition("=")
    if not version:
        raise ParameterInvalid(f"a shadow begins with its version, not {text[:80]!r}")
    budget: float | None = None
    segments = []
    for part in rest:
        name, _, value = part.partition("=")
        if name == "budget":
            budget = fraction(value)
        else:
            segments.append(Segment(name.lower(), value))
    return ShadowOrder(
        version=version,
        share=fraction(share) if share else 1.0,
        budget=budget,
        segments=tuple(segments),
    )


def fraction(text: str) -> float:
    """`10%` or `0.1`. Raises ParameterInvalid."""
    number, is_percent = text.removesuffix("%"), text.endswith("%")
    try:
        value = float(number)
    except ValueError as error:
        raise ParameterInvalid(f"{text[:80]!r} is no share: say 10% or 0.1") from error
    return value / _PERCENT if is_percent else value


def percent(value: float) -> str:
    return f"{value * _PERCENT:.4g}%"


def canaries_text(shares: Shares) -> str:
    return ", ".join(f"{arm.version}={percent(arm.weight)}" for arm in shares.arms) or "-"


def shadows_text(shares: Shares) -> str:
    return ", ".join(map(shadow_text, shares.shadows)) or "-"


def shadow_text(shadow: ShadowOrder) -> str:
    """As `parse_shadow` reads it, without what goes without saying."""
    text = shadow.version if shadow.share >= 1 else f"{shadow.version}={percent(shadow.share)}"
    if shadow.budget is not None:
        text += f",budget={percent(shadow.budget)}"
    return text + "".join(f",{each.by}={each.value}" for each in shadow.segments)

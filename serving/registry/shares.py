"""What a model's traffic is made of: who answers how much, who gets copies of what, who stays warm.

Weights, shares and budgets are fractions here, in multiples of a ten-thousandth; gateways get them
as whole numbers of those (`core.traffic`).
"""

import re
from collections.abc import Iterable
from typing import Final

import msgspec

from serving.core.traffic import FULL, Segment, Sticky
from serving.errors import ParameterInvalid

MOST_BUDGET: Final = 100.0
MOST_NAMES: Final = 32
"""Of arms, of shadows, of warm versions, of segments of one shadow."""
MOST_TESTERS: Final = 1000
_SEGMENT: Final = re.compile(r"principal|tenant|header:[a-z0-9-]{1,64}")
_LABEL: Final = re.compile(r"[\x21-\x7e]{0,255}")


class ArmOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A version that answers a share of the requests. weight: 0 to 1; 0 keeps its place."""

    version: str
    weight: float


class ShadowOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A version that gets copies of what the stable one answered.

    share: of the requests that fit. budget: model time of the copies as a share of the stable
    version's own, above 1 where a candidate may cost more; None: no limit. segments: any must fit.
    """

    version: str
    share: float = 1.0
    budget: float | None = None
    segments: tuple[Segment, ...] = ()


class Warm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A version that stays deployed and connected without traffic. until_ns: wall time."""

    version: str
    until_ns: int


class Shares(msgspec.Struct, frozen=True, kw_only=True):
    """Who answers for a model, and who gets copies. stable: answers what the arms leave; empty for
    none. sticky: what keeps a caller on one side. salt: of the hash that decides which; empty: that
    of the experiment, or of the model. testers: subjects that may choose a version. experiment: the
    A/B test that the arms are of. warm: versions that stay ready for a while.
    """

    stable: str = ""
    shadows: tuple[ShadowOrder, ...] = ()
    arms: tuple[ArmOrder, ...] = ()
    sticky: Sticky = "request"
    salt: str = ""
    testers: tuple[str, ...] = ()
    experiment: str = ""
    warm: tuple[Warm, ...] = ()

    @property
    def versions(self) -> tuple[str, ...]:
        """Everything that gets traffic, each once: the stable version first, then arms, then shadows."""
        named = [self.stable, *(arm.version for arm in self.arms)]
        named += [shadow.version for shadow in self.shadows]
        return tuple(dict.fromkeys(filter(None, named)))


def whole(fraction: float) -> int:
    """In ten-thousandths."""
    return round(fraction * FULL)


def check_shares(shares: Shares) -> None:
    """Raises ParameterInvalid for what cannot be routed."""
    _check_names(shares)
    for label in (shares.salt, shares.experiment, *shares.testers):
        if _LABEL.fullmatch(label) is None:
            raise ParameterInvalid(f"{label[:80]!r} must be at most 255 visible ASCII characters")
    for arm in shares.arms:
        _check_fraction(arm.weight, f"the weight of {arm.version}", least=0)
    if sum(whole(arm.weight) for arm in shares.arms) > FULL:
        raise ParameterInvalid("the weights of the arms come to more than 1")
    for shadow in shares.shadows:
        _check_shadow(shadow)


def _check_names(shares: Shares) -> None:
    arms = [arm.version for arm in shares.arms]
    shadows = [shadow.version for shadow in shares.shadows]
    warm = [each.version for each in shares.warm]
    for names in (arms, shadows, warm, shares.testers):
        if len(set(names)) != len(names):
            raise ParameterInvalid("arms, shadows, warm versions and testers are named once each")
    if shares.stable in (*arms, *shadows) or (not shares.stable and (arms or shadows)):
        raise ParameterInvalid(
            "shadows and arms must differ from a stable version, and there must be one"
        )
    if max(len(arms), len(shadows), len(warm)) > MOST_NAMES:
        raise ParameterInvalid(f"at most {MOST_NAMES} arms, shadows and warm versions each")
    if len(shares.testers) > MOST_TESTERS:
        raise ParameterInvalid(f"at most {MOST_TESTERS} testers")


def _check_shadow(shadow: ShadowOrder) -> None:
    _check_fraction(shadow.share, f"the share of {shadow.version}")
    if shadow.budget is not None:
        _check_fraction(shadow.budget, f"the budget of {shadow.version}", most=MOST_BUDGET)
    if len(shadow.segments) > MOST_NAMES:
        raise ParameterInvalid(f"at most {MOST_NAMES} segments for a shadow")
    _check_segments(shadow.segments)


def _check_segments(segments: Iterable[Segment]) -> None:
    for segment in segments:
        if _SEGMENT.fullmatch(segment.by) is None:
            raise ParameterInvalid(
                f"a segment is by principal, tenant or header:NAME, not {segment.by[:80]!r}"
            )
        if len(segment.value) > 255:  # noqa: PLR2004 - as long as a subject
            raise ParameterInvalid("the value of a segment has at most 255 characters")


def _check_fraction(value: float, what: str, *, least: int = 1, most: float = 1.0) -> None:
    """least: in ten-thousandths."""
    if not 0 <= value <= most or whole(value) < least:
        lowest = f"{least / FULL:g}"
        raise ParameterInvalid(f"{what} must be {lowest} to {most:g}, not {value:g}")

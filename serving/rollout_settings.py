"""Settings of rollouts: how often they are looked at, and how long what answered before stays warm."""

from typing import Annotated

from pydantic import Field

from serving.setting_types import Group, Seconds


class RolloutSettings(Group):
    """A candidate takes over step by step; what a rollout's own plan does not say is said here."""

    tick_s: Seconds = 1.0
    """How often the gates of a running rollout are read."""
    warm_s: Annotated[float, Field(ge=0, le=366 * 86_400)] = 3600.0
    """How long the version that answered before stays deployed after a promotion: until then a
    rollback needs no deployment."""
    start_s: Seconds = 300.0
    """How long a candidate may take to come up before its rollout is given up."""
    recent_s: Seconds = 30.0
    """Gates are read over a whole step, and over about this long: what breaks late in a long step
    shows as soon as what breaks at once."""
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.01
    """Error rate of the intervals that gates on counts are judged by."""

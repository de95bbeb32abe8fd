"""What is asked when a file of deployments is applied, and what is answered: values only."""

from typing import Any, Final, Literal

import msgspec

from serving.registry.entities import Traffic
from serving.registry.orders import TrafficOrder

DEFAULT_REASON: Final = "serving apply"


class ApplyOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """deployments: as in a file of settings. plan_only: change nothing. prune: take the traffic of
    models that the file does not name."""

    deployments: list[dict[str, Any]]
    plan_only: bool = False
    prune: bool = False
    reason: str = DEFAULT_REASON


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step. what: a version as `model@version`, or a model. before, after: its traffic."""

    kind: Literal["admit", "traffic", "blocked"]
    what: str
    detail: str = ""
    before: Traffic | None = None
    after: TrafficOrder | None = None


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """The plan, and whether it was made. left_out: optional models that cannot run here, and why."""

    steps: tuple[Step, ...]
    made: bool = False
    left_out: tuple[tuple[str, str], ...] = ()

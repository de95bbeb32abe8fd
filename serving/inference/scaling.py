"""How many replicas a model version should have, from what its replicas tell.

Ray Serve's own policy counts requests, but a frame of 64 rows is one request to it and frames do
not pass through it at all. So replicas report how busy their session is and how long rows wait, and
`replicas_wanted` runs in Serve's controller: cheap, importable there, no import of Ray. Serve adds
the delays and the bounds of the deployment.
"""

import math
from collections.abc import Collection, Mapping
from typing import Any, Final, Protocol

from serving.inference.counters import ReplicaStatistics

POLICY: Final = "serving.inference.scaling:replicas_wanted"
TARGET_BUSY_FRACTION: Final = 0.7
LONG_QUEUE_MS: Final = 50.0
"""A wait that a batch in progress does not explain: one more replica, however idle they look."""
UPSCALE_DELAY_S: Final = 5.0
DOWNSCALE_DELAY_S: Final = 120.0
LOOK_BACK_S: Final = 10.0


class ScalingContext(Protocol):
    """The part of `ray.serve.config.AutoscalingContext` that counts here."""

    current_num_replicas: int
    target_num_replicas: int

    @property
    def aggregated_metrics(self) -> Mapping[str, Mapping[Any, float]] | None: ...


def replicas_wanted(context: ScalingContext) -> tuple[int, dict[str, Any]]:
    """The policy as Serve calls it: the wanted number and a state, of which there is none."""
    metrics = context.aggregated_metrics or {}
    wanted = decide(
        busy=metrics.get("busy_fraction", {}).values(),
        queue_ms=metrics.get("p95_queue_ms", {}).values(),
        current=context.target_num_replicas,
    )
    return wanted, {}


def decide(*, busy: Collection[float], queue_ms: Collection[float], current: int) -> int:
    """Replicas that bring the busy share to the target; at least one more while rows wait long.

    busy, queue_ms: one value per replica; a replica that has not reported is absent. `current` when
    none has.
    """
    if not busy:
        return current
    # A replica without a report yet is taken to be as busy as the others.
    wanted = math.ceil(sum(busy) / len(busy) * current / TARGET_BUSY_FRACTION)
    if any(wait > LONG_QUEUE_MS for wait in queue_ms):
        wanted = max(wanted, current + 1)
    return max(wanted, 1)


def scaling_figures(statistics: ReplicaStatistics) -> dict[str, float]:
    """What a replica reports for `replicas_wanted`."""
    return {
        "busy_fraction": statistics.busy_fraction,
        "queued_rows": float(statistics.queued_rows),
        "p95_queue_ms": statistics.p95_queue_ms,
    }

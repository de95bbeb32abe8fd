"""Copies of answered requests for candidate versions: bounded, best effort, dropped first.

A copy is made only after the primary's answer has left, from the primary's own buffers, and only
if the primary was answered: refused, expired and abandoned requests are not mirrored. A candidate
has its own queue, its own replicas and its own credits, so a slow, failing or hanging one can fill
nothing but its own queue; above `max_queued_rows` copies are dropped and counted, never silently.
"""

from collections.abc import Callable, Sequence

from serving.gateway.batching import VersionQueue
from serving.gateway.calls import Call
from serving.settings import ShadowSettings

Dropped = Callable[[VersionQueue], None]
Admit = Callable[[Call], None]


class Mirror:
    """Sends copies. `admit` gives a copy its identity; `dropped` counts one that had no room."""

    def __init__(self, settings: ShadowSettings, *, admit: Admit, dropped: Dropped) -> None:
        self._settings = settings
        self._admit = admit
        self._dropped = dropped

    def mirror(self, calls: Sequence[Call], candidates: Sequence[VersionQueue]) -> None:
        """Queues a copy of each answered call for each candidate that has room."""
        for queue in candidates:
            for call in calls:
                if queue.queued_rows + call.rows > self._settings.max_queued_rows:
                    self._dropped(queue)
                    continue
                copy = Call(call.pipeline, queue, call.request, call.principal)
                copy.shadow_of = call.sequence
                copy.trace_id = call.trace_id
                copy.arrived_ns = call.pipeline.now_ns()
                copy.deadline_ns = copy.arrived_ns + round(self._settings.deadline_s * 1e9)
                self._admit(copy)
                queue.append(copy)

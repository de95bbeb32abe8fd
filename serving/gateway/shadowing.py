"""Copies of answered requests for candidate versions: bounded, best effort, dropped first.

A copy is made only after the primary's answer has left, from the primary's own buffers, and only
if the primary was answered: refused, expired and abandoned requests are not mirrored. A candidate
has its own queue, its own replicas and its own credits, so a slow, failing or hanging one can fill
nothing but its own queue. Above `max_queued_rows` waiting, or `max_bytes` held by copies that
have no answer yet, copies are dropped and counted, never silently. So they are as soon as half of
what would make the worker refuse callers is in use: a copy is never made at a caller's cost.
"""

from collections.abc import Callable, Sequence

from serving.gateway.batching import VersionQueue
from serving.gateway.calls import Call
from serving.gateway_settings import ShadowSettings

Dropped = Callable[[VersionQueue], None]
Admit = Callable[[Call], None]


class Mirror:
    """Sends copies. `admit` gives a copy its identity; `dropped` counts one that had no room."""

    def __init__(self, settings: ShadowSettings, *, admit: Admit, dropped: Dropped) -> None:
        self._settings = settings
        self._admit = admit
        self._dropped = dropped
        self._bytes: dict[VersionQueue, int] = {}

    def mirror(self, calls: Sequence[Call], candidates: Sequence[VersionQueue]) -> None:
        """Queues a copy of each answered call for each candidate that has room."""
        for queue in candidates:
            queue.takes_copies = True
            if calls[0].queue.seals:
                queue.note_subject()
            for call in calls:
                if not self._has_room(queue, call):
                    self._dropped(queue)
                    continue
                self._bytes[queue] = self._bytes.get(queue, 0) + call.request.size_bytes
                queue.append(self._copy(call, queue))

    def skip(self, calls: Sequence[Call], candidates: Sequence[VersionQueue]) -> None:
        """Makes no copies, and counts them as dropped."""
        for queue in candidates:
            for _ in calls:
                self._dropped(queue)

    def release(self, copy: Call) -> None:
        """The copy's record is written, or cannot be: its inputs are no longer held."""
        left = self._bytes.get(copy.queue, 0) - copy.request.size_bytes
        if left:
            self._bytes[copy.queue] = left
        else:
            self._bytes.pop(copy.queue, None)

    def _has_room(self, queue: VersionQueue, call: Call) -> bool:
        settings = self._settings
        return (
            queue.queued_rows + call.rows <= settings.max_queued_rows
            and self._bytes.get(queue, 0) + call.request.size_bytes <= settings.max_bytes
        )

    def _copy(self, call: Call, queue: VersionQueue) -> Call:
        copy = Call(call.pipeline, queue, call.request, call.principal)
        copy.shadow_of = call.sequence
        copy.trace_id = call.trace_id
        copy.arrived_ns = copy.since_ns = call.pipeline.now_ns()
        copy.deadline_ns = copy.arrived_ns + round(self._settings.deadline_s * 1e9)
        self._admit(copy)
        return copy

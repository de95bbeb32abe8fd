"""Copies of answered requests for candidate versions: bounded, best effort, dropped first.

A copy is made only after the primary's answer has left, from the primary's own buffers, and only
if the primary was answered: refused, expired and abandoned requests are not mirrored. A candidate
has its own queue, its own replicas and its own credits, so a slow, failing or hanging one can fill
nothing but its own queue. Above `max_queued_rows` waiting, or `max_bytes` held by copies that
have no answer yet, copies are dropped and counted, never silently. So they are as soon as half of
what would make the worker refuse callers is in use: a copy is never made at a caller's cost.

A candidate may get a share of the requests, or those of some segments. The share is taken by the
sequence of the request alone (`splitting.point_of_sequence`): anybody can tell from a record whether
it was to be copied, what it holds makes no difference, and candidates with equal shares get the same
requests. A budget bounds the model time of the copies by that of the primary's answers: what those
earn, copies spend. A copy is made while anything is left, whatever it will cost, and what it cost more
is owed: so its size makes no difference either. What is left unspent is good for `SAVED_S`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from serving.core.traffic import FULL, Shadow
from serving.gateway.batching import VersionQueue
from serving.gateway.calls import Call
from serving.gateway.splitting import point_of_sequence
from serving.gateway_settings import ShadowSettings
from serving.telemetry.families import Reason

SAVED_S: Final = 1.0
"""So much model time a candidate can have saved up."""

Admit = Callable[[Call], None]


class Tell(Protocol):
    """Counts copies: `telemetry.CallTelemetry`."""

    def mirrored(self, queue: VersionQueue, copies: int) -> None: ...
    def dropped(self, queue: VersionQueue, reason: Reason) -> None: ...


@dataclass(frozen=True, slots=True)
class Candidate:
    """A version that gets copies, and of what."""

    queue: VersionQueue
    shadow: Shadow

    def pick(self, calls: Sequence[Call]) -> Sequence[Call]:
        """The calls that it gets copies of, were there room for all."""
        shadow = self.shadow
        if shadow.is_full:
            return calls
        segments = frozenset(shadow.segments)
        return [
            call
            for call in calls
            if point_of_sequence(call.sequence) < shadow.share
            and (not segments or not segments.isdisjoint(call.segments))
        ]


@dataclass(slots=True)
class _Budget:
    """Microseconds of model time that copies may still take, and what copies on their way took."""

    left_us: float = 0.0
    charged: dict[Call, float] = field(default_factory=dict)

    def earn(self, earned_us: float) -> None:
        self.left_us = min(self.left_us + earned_us, SAVED_S * 1e6)

    def charge(self, copy: Call, expected_us: float) -> None:
        """What the primary took stands for what the copy will take."""
        self.charged[copy] = expected_us
        self.left_us -= expected_us

    def settle(self, copy: Call) -> None:
        """The copy has its end: what it took counts, where that is known."""
        expected_us = self.charged.pop(copy, None)
        if expected_us is not None and copy.batch_size:
            self.left_us += expected_us - copy.model_us


class Mirror:
    """Sends copies. `admit` gives a copy its identity."""

    def __init__(self, settings: ShadowSettings, *, admit: Admit, tell: Tell) -> None:
        self._settings = settings
        self._admit = admit
        self._tell = tell
        self._bytes: dict[VersionQueue, int] = {}
        self._budgets: dict[VersionQueue, _Budget] = {}

    def mirror(self, calls: Sequence[Call], candidates: Sequence[Candidate]) -> None:
        """Queues copies of answered calls for each candidate that has room."""
        for candidate in candidates:
            candidate.queue.takes_copies = True
            if calls[0].queue.seals:
                candidate.queue.note_subject()
            budget = self._budget(candidate, calls)
            made = 0
            for call in candidate.pick(calls):
                made += self._send(call, candidate.queue, budget)
            self._tell.mirrored(candidate.queue, made)

    def _send(self, call: Call, queue: VersionQueue, budget: _Budget | None) -> bool:
        """Whether there was room for a copy, and money."""
        if budget is not None and budget.left_us <= 0:
            self._tell.dropped(queue, "budget")
            return False
        if not self._has_room(queue, call):
            self._tell.dropped(queue, "room")
            return False
        self._bytes[queue] = self._bytes.get(queue, 0) + call.request.size_bytes
        copy = self._copy(call, queue)
        if budget is not None:
            budget.charge(copy, call.model_us)
        queue.append(copy)
        return True

    def skip(self, calls: Sequence[Call], candidates: Sequence[Candidate]) -> None:
        """Makes no copies, and counts them as dropped."""
        for candidate in candidates:
            self._budget(candidate, calls)
            for _ in candidate.pick(calls):
                self._tell.dropped(candidate.queue, "pressed")

    def release(self, copy: Call) -> None:
        """The copy's record is written, or cannot be: its inputs are no longer held."""
        left = self._bytes.get(copy.queue, 0) - copy.request.size_bytes
        if left:
            self._bytes[copy.queue] = left
        else:
            self._bytes.pop(copy.queue, None)
        if self._budgets and copy.queue in self._budgets:
            self._budgets[copy.queue].settle(copy)

    def retain(self, candidates: Sequence[Candidate]) -> None:
        """Forgets the budgets of all others."""
        live = {each.queue for each in candidates if each.shadow.budget is not None}
        self._budgets = {queue: it for queue, it in self._budgets.items() if queue in live}

    def _budget(self, candidate: Candidate, calls: Sequence[Call]) -> _Budget | None:
        """What is left with what `calls` have earned; None without a limit."""
        share = candidate.shadow.budget
        if share is None:
            return None
        budget = self._budgets.get(candidate.queue)
        if budget is None:
            budget = self._budgets[candidate.queue] = _Budget()
        budget.earn(share / FULL * sum(call.model_us for call in calls))
        return budget

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

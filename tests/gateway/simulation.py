"""A world of known capacity in virtual time: callers who come when they come, a replica that takes
its time, and a pipeline between them that is the real one.

The replica is the product's own (its frames, its order, its expiry) but for the model, which takes
`run_s` for a batch of at most `batch_rows` rows, however few there are: 8 rows in 20 ms are 400 a
second. Seconds of load take a fraction of that, and are the same every time.
"""

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from serving.core.batches import BatchPart, RowFailure
from serving.core.clock import ManualClock
from serving.core.models import BatchLimits
from serving.core.principals import Role
from serving.errors import ServingError
from serving.gateway.calls import Call
from serving.gateway.forming import Frame
from serving.inference.merging import PendingFrame, form_batch, merge_inputs, split_outputs
from tests.gateway.stand import DOUBLER, Client, Stand, a_snapshot, a_stand, counted, doubled

SWEEP_S: Final = 0.02
BATCH_ROWS: Final = 8
RUN_S: Final = 0.02
CAPACITY: Final = BATCH_ROWS / RUN_S
_NO_DEADLINE: Final = 2**63


class Events:
    """What happens when, on a clock that jumps from one moment to the next."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def at(self, seconds: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (round(seconds * 1e9), next(self._order), happen))

    def after(self, seconds: float, happen: Callable[[], None]) -> None:
        self.at(self._clock.monotonic_ns() / 1e9 + seconds, happen)

    def run(self, until_s: float, *, each: Callable[[], None]) -> None:
        """Everything that is due by then, with `each` after every event."""
        while self._heap and self._heap[0][0] <= until_s * 1e9:
            due_ns, _, happen = heapq.heappop(self._heap)
            self._clock.advance(max(due_ns - self._clock.monotonic_ns(), 0) / 1e9)
            happen()
            each()
        self._clock.advance(max(until_s - self._clock.monotonic_ns() / 1e9, 0))


class TimedReplica:
    """A link to a replica that runs one batch after another; fits `gateway.forming.ReplicaLink`.

    run_s: may be changed at any time; counts from the next run. ran: the first column of every batch.
    """

    def __init__(
        self,
        events: Events,
        clock: ManualClock,
        *,
        wake: Callable[[], None],
        batch_rows: int = BATCH_ROWS,
        run_s: float = RUN_S,
        credit: int = 2,
    ) -> None:
        self.ready = True
        self.closed = False
        self.outstanding_rows = 0
        self.run_s = run_s
        self.ran: list[list[float]] = []
        self._events = events
        self._clock = clock
        self._wake = wake
        self._batch_rows = batch_rows
        self.credits = credit
        self._frames: set[Frame] = set()
        self._pending: deque[PendingFrame] = deque()
        self._running = False
        self._batch_id = 0

    @property
    def has_credit(self) -> bool:
        return self.ready and len(self._frames) < self.credits

    def send(self, sink: Frame) -> None:
        batch, now_ns = sink.batch, self._clock.monotonic_ns()
        self._frames.add(sink)
        self.outstanding_rows += batch.rows
        arrays = tuple(tensor.array(batch.rows) for tensor in batch.tensors)
        deadline_ns = now_ns + batch.budget_us * 1000 if batch.budget_us else _NO_DEADLINE

        def reply(answer: object) -> None:
            self._frames.discard(sink)
            self.outstanding_rows -= batch.rows
            sink.answered(answer)  # type: ignore[arg-type]  # a BatchAnswer, as PendingFrame replies
            self._wake()

        self._pending.append(PendingFrame(batch, arrays, now_ns, deadline_ns, reply))
        if not self._running:
            self._begin()

    def check(self, now_ns: int) -> None:
        """Never silent."""

    def abort(self) -> None:
        """The connection is gone, and everything on it."""
        self.ready, self.closed = False, True
        self._pending.clear()
        frames, self._frames, self.outstanding_rows = self._frames, set(), 0
        for frame in frames:
            frame.lost()

    def _begin(self) -> None:
        now_ns = self._clock.monotonic_ns()
        for frame in [frame for frame in self._pending if frame.deadline_ns < now_ns]:
            self._pending.remove(frame)
            frame.reply(frame.fail(RowFailure.EXPIRED))
        self._running = bool(self._pending)
        if not self._pending:
            return
        slices = form_batch(self._pending, max_rows=self._batch_rows)
        inputs = merge_inputs(slices)[0]
        self.ran.append(inputs[:, 0].tolist())
        queue_us = (now_ns - min(s.frame.arrived_ns for s in slices)) // 1000
        rows = len(inputs)
        self._batch_id += 1
        part = BatchPart(rows, self._batch_id, rows, 0, queue_us, round(self.run_s * 1e6))

        def end() -> None:
            if not self.closed:
                complete = split_outputs(slices, [doubled(inputs)], {}, part)
                self._begin()
                for frame in complete:
                    frame.reply(frame.answer())

        self._events.after(self.run_s, end)


class Caller(Client):
    """One request, due at a moment, and when it heard what became of it. Times are seconds.

    then: what its caller does when it has heard.
    """

    def __init__(self, due_s: float, clock: ManualClock, value: float, **request: Any) -> None:
        super().__init__(value, **request)
        self.value = value
        self.due_s = due_s
        self.ended_s = 0.0
        self.admitted = False
        self.then: Callable[[], None] = lambda: None
        self._clock = clock

    def send(self, payload: bytes) -> None:
        super().send(payload)
        self._end()

    def refuse(self, error: ServingError, *, prediction_id: str | None = None) -> None:
        super().refuse(error, prediction_id=prediction_id)
        self._end()

    def watch(self, call: Call) -> None:
        super().watch(call)
        self.admitted = True

    def _end(self) -> None:
        self.ended_s = self._clock.monotonic_ns() / 1e9
        self.then()

    @property
    def answered(self) -> bool:
        return bool(self.answers)

    @property
    def took_s(self) -> float:
        return self.ended_s - self.due_s


@dataclass(slots=True)
class Outcome:
    """What the requests of a time came to."""

    asked: list[Caller] = field(default_factory=list)

    def between(self, start_s: float, end_s: float) -> "Outcome":
        """Of those that were due in this time."""
        return Outcome([each for each in self.asked if start_s <= each.due_s < end_s])

    @property
    def answered(self) -> list[Caller]:
        return [each for each in self.asked if each.answered]

    @property
    def success(self) -> float:
        return len(self.answered) / len(self.asked)

    def rate_within(self, seconds: float, *, over_s: float) -> float:
        """Goodput: answers that took at most so long, per second of a time."""
        return sum(each.took_s <= seconds for each in self.answered) / over_s

    def quantile_s(self, quantile: float) -> float:
        """Of the times of answers."""
        return float(np.quantile([each.took_s for each in self.answered], quantile))

    @property
    def codes(self) -> set[str]:
        return {code for each in self.asked for code in each.codes}


class World:
    """A stand with one timed replica of `DOUBLER`, no candidate, and a clock that events move."""

    def __init__(self, folder: Path, *, objective_ms: float = 100.0, **groups: Any) -> None:
        """groups: settings; limits of callers and models are out of the way unless they are named."""
        generous = {"max_in_flight": 10**6, "max_in_flight_per_model": 10**6}
        generous |= {"max_in_flight_per_caller": 10**6, "max_queued_rows": 10**6}
        given = groups.pop("admission", {})
        assert isinstance(given, dict)
        self.stand: Stand = a_stand(folder, admission=generous | given, **groups)
        self.clock = self.stand.clock
        self.events = Events(self.clock)
        limits = BatchLimits(max_batch_size=BATCH_ROWS, latency_objective_ms=objective_ms)
        self.version = replace(DOUBLER, batching=limits)
        self.stand.pipeline.apply(a_snapshot(self.version, epoch=2, shadows=()))
        self.queue = self.stand.queue(self.version)
        self.replica = TimedReplica(self.events, self.clock, wake=self.queue.wake)
        self.queue.links.append(self.replica)
        self._values = itertools.count(1)
        self._sweep()

    def open_loop(
        self,
        rate_per_s: float,
        *,
        subject: str = "ada",
        start_s: float = 0.0,
        end_s: float,
        seed: int = 1,
        **request: Any,
    ) -> Outcome:
        """Requests that come at random at a rate, whatever becomes of them. request: see `Client`."""
        outcome = Outcome()
        token = self.stand.issuer.issue(subject=subject, roles=[Role.CALLER])
        for due_s in poisson(rate_per_s, start_s=start_s, end_s=end_s, seed=seed):
            value = float(next(self._values))
            caller = Caller(due_s, self.clock, value, token=token, **request)
            outcome.asked.append(caller)
            self.events.at(due_s, partial(self.ask, caller))
        return outcome

    def closed_loop(self, callers: int, *, pause_s: float, end_s: float) -> None:
        """So many callers; each asks again a while after its answer, never two after the same."""
        token = self.stand.issuer.issue(subject="ada", roles=[Role.CALLER])
        pauses = itertools.cycle(pause_s * (0.5 + step / callers) for step in range(callers))

        def come() -> None:
            now_s = self.clock.monotonic_ns() / 1e9
            caller = Caller(now_s, self.clock, float(next(self._values)), token=token)
            if now_s < end_s:
                caller.then = lambda: self.events.after(next(pauses), come)
                self.ask(caller)

        for index in range(callers):
            self.events.at(pause_s * index / callers, come)

    def ask(self, caller: Caller) -> None:
        """Sends one request now."""
        try:
            self.stand.pipeline.infer(caller)
        except ServingError as error:
            caller.refuse(error)

    @property
    def late_rows(self) -> float:
        """Rows that were run although their deadline had passed."""
        return counted(self.stand, "serving_executed_after_deadline_total{")

    def run(self, until_s: float) -> None:
        self.events.run(until_s, each=self.stand.turns.run)

    def _sweep(self) -> None:
        self.stand.pipeline.sweep()
        self.events.after(SWEEP_S, self._sweep)


def poisson(rate_per_s: float, *, start_s: float, end_s: float, seed: int) -> Iterator[float]:
    """Moments of a Poisson process."""
    random = np.random.default_rng(seed)
    moment_s = start_s
    while True:
        moment_s += float(random.exponential(1 / rate_per_s))
        if moment_s >= end_s:
            return
        yield moment_s

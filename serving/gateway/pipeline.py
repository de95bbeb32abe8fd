"""A request's way: authenticate, authorize, admit, route, batch, record, answer, mirror.

`Pipeline.infer` is called by a wire adapter with its half of the request and returns at once. What
follows is driven by events on the same loop: the queue forms frames (`serving.gateway.batching`), a
replica answers, and the record of every admitted request, whatever its fate, goes to the prediction
log; the answer leaves when the log says that the record is durable, and never without it. Only then
is the request mirrored to candidates. Per request there is one call object and no task, timer,
future or lock; everything that can be is done per frame.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import structlog

from serving.access.authorization import authorize_inference, authorize_operation
from serving.access.tokens import Authenticator
from serving.core.batches import BatchAnswer, RowFailure
from serving.core.clock import Clock
from serving.core.models import ModelVersion
from serving.core.predictions import Fate
from serving.core.principals import Principal
from serving.core.traffic import Snapshot
from serving.errors import (
    DeadlineExceeded,
    InternalError,
    NonFiniteInput,
    NoReplica,
    QueueFull,
    ReplicaLost,
    ServingError,
)
from serving.gateway.admission import Admission
from serving.gateway.answers import FATES, explain, failed, hand_out, kinds, place
from serving.gateway.batching import VersionQueue
from serving.gateway.calls import Call, Exchange, caller_name
from serving.gateway.forming import Frame
from serving.gateway.lanes import level_of
from serving.gateway.outcomes import OutcomeIntake
from serving.gateway.quotas import Quotas
from serving.gateway.recording import Recorder
from serving.gateway.routing import Route, RoutingTable
from serving.gateway.shadowing import Mirror
from serving.gateway.splitting import fitting
from serving.gateway.telemetry import CallTelemetry
from serving.predictionlog.format import Flag
from serving.settings import Settings

logger = structlog.get_logger()

QueueFactory = Callable[[ModelVersion, "Pipeline"], VersionQueue]


class Pipeline:
    """The request path of one gateway worker."""

    def __init__(
        self,
        settings: Settings,
        *,
        authenticator: Authenticator,
        recorder: Recorder,
        telemetry: CallTelemetry,
        clock: Clock,
        make_queue: QueueFactory,
        quotas: Quotas | None = None,
    ) -> None:
        """quotas: None where nobody has one."""
        self.now_ns = clock.monotonic_ns
        self.table = RoutingTable(Snapshot(epoch=0), {}, self._make_queue, turns={})
        self.admission = Admission(settings.admission)
        self._settings = settings.admission
        self._authenticator = authenticator
        self.outcomes = OutcomeIntake(recorder.events, clock)
        self._recorder = recorder
        self._telemetry = telemetry
        self._clock = clock
        self._queue_factory = make_queue
        self._quotas = quotas
        self._mirror = Mirror(settings.shadow, admit=self.identify, tell=telemetry)
        self._retired: list[VersionQueue] = []
        self._wall_offset_ns = clock.wall_ns() - clock.monotonic_ns()
        self._now_s = clock.wall_ns() / 1e9

    # -- a request's way in ----------------------------------------------------------------------

    def infer(self, exchange: Exchange) -> None:
        """Takes one request in. Raises a ServingError when it is refused before admission."""
        principal = self._authenticator.authenticate(exchange.authorization, self._now_s)
        authorize_inference(principal, exchange.model)
        route = self.table.choose(exchange.model)
        if route.is_plain and exchange.version is None:
            queue = route.stable
            call = self._admit(exchange, principal, queue)
        else:
            queue = self._choose(route, exchange, principal)
            call = self._admit(exchange, principal, queue)
            self._mark(call, route, exchange, principal)
        exchange.watch(call)
        if queue.cache is None or not queue.cache.answers(call, principal.tenant, self.answered):
            queue.append(call)

    def _choose(self, route: Route, exchange: Exchange, principal: Principal) -> VersionQueue:
        """The version whose turn it is, or the one that an operator or a tester chose."""
        version, policy = exchange.version, route.policy
        if version is None:
            return route.stable if route.split is None else route.split.choose(exchange, principal)
        if version == policy.stable:
            return route.stable
        self.table.check_grave(policy.model, version)
        if principal.subject not in policy.testers:
            authorize_operation(principal, policy.model)
        return self.table.pinned(policy.model, version)

    def _mark(self, call: Call, route: Route, exchange: Exchange, principal: Principal) -> None:
        """Notes of the call what only some routes look at."""
        if exchange.version is not None:
            call.kind = Flag.CHOSEN
            call.queue.kinds = True
        if route.segments:
            call.segments = fitting(route.segments, exchange, principal)

    def _admit(self, exchange: Exchange, principal: Principal, queue: VersionQueue) -> Call:
        """A call with a place inside, its time counted from now.

        What is refused here, or before, is counted and not recorded; refusing before the body is
        decoded is what makes it cheap.
        """
        self._recorder.check(queue)
        model = exchange.model
        share = self.admission.admit(principal.subject, model, queue.queued_rows)
        account = None
        try:
            if self._quotas is not None:
                account = self._quotas.admit(principal)
            if queue.queued_rows >= queue.alarm_rows:
                queue.foresee(share, exchange.timeout_s or self._settings.default_deadline_s)
            request = exchange.decode(queue.version)
            timeout_s = request.timeout_s or self._settings.default_deadline_s
            if timeout_s < queue.doubtful_s:
                queue.foresee(share, timeout_s, level=level_of(request.priority))
            self.admission.hold(request.size_bytes)
        except BaseException:
            self.admission.release(share, model, 0)
            if account is not None:
                account.leave()
            raise
        call = Call(self, queue, request, caller_name(principal))
        call.exchange = exchange
        call.share = share
        call.account = account
        if request.priority:
            call.level = level_of(request.priority)
            if request.subject:
                queue.note_subject()
        call.arrived_ns = call.since_ns = now_ns = self.now_ns()
        call.deadline_ns = now_ns + int(min(timeout_s, self._settings.max_deadline_s) * 1e9)
        self._telemetry.begin(call, exchange.traceparent)
        self.identify(call)
        return call

    def identify(self, call: Call) -> None:
        """Gives a call its place in the log: from here on it ends with exactly one record."""
        call.sequence = self._recorder.next_sequence()
        call.time_ns = call.arrived_ns + self._wall_offset_ns

    # -- what becomes of it ----------------------------------------------------------------------

    def answered(self, frame: Frame, answer: BatchAnswer) -> None:
        """A replica answered a frame."""
        calls = [call for call in frame.calls if not call.done]
        place(frame.calls, answer.parts, self.now_ns())
        if len(calls) < len(frame.calls):
            self._telemetry.executed_late([call for call in frame.calls if call.done], answer)
        lost = failed(calls, answer)
        served = [call for call in calls if call not in lost] if lost else calls
        for call, error in lost.items():
            self._fail(call, FATES[error], explain(error))
        for group in kinds(served) if frame.queue.takes_parts else (served,):
            if group:
                self._try_to_serve(group, answer)

    def _try_to_serve(self, calls: list[Call], answer: BatchAnswer) -> None:
        try:
            self._serve(calls, answer)
        except Exception:
            # Outermost: what cannot be recorded or told is nobody's answer, and nobody waits for it.
            logger.exception("an answer cannot be used", model=calls[0].queue.version.key)
            for call in calls:
                call.outputs = ()
                self._fail(call, Fate.INVALID_OUTPUT, explain(RowFailure.INVALID_OUTPUT))

    def _serve(self, calls: list[Call], answer: BatchAnswer) -> None:
        for call in calls:
            call.done = True
        hand_out(calls, answer)
        shapes = tuple(output.row_shape for output in answer.outputs)
        records = self._recorder.encode(calls, Fate.OK, output_shapes=shapes)
        payloads = [call.exchange.encode(call) if call.exchange else None for call in calls]
        recorded = self._delivered if calls[0].is_part else self._recorded
        self._recorder.record_answers(calls, records, partial(recorded, calls, payloads))

    def _recorded(self, calls: list[Call], payloads: list[Any], error: ServingError | None) -> None:
        """The records of answered calls are durable, or cannot be: the answers leave, or do not."""
        if error is not None:
            self._telemetry.unrecorded(calls, error)
            self._recorder.refused(calls)
            for call in calls:
                self._refuse(call, error)
            return
        self._recorder.answered(calls)
        for call, payload in zip(calls, payloads, strict=True):
            if call.exchange is not None:
                call.exchange.send(payload)
            self._release(call)
        self._telemetry.served(calls, self.now_ns())
        if self._quotas is not None:
            self._quotas.charge(calls)
        if calls[0].queue.takes_copies:
            calls = [call for call in calls if not call.shadow_of]
        if calls:
            self._shadow(calls)

    def _delivered(
        self, parts: list[Call], payloads: list[Any], error: ServingError | None
    ) -> None:
        """As `_recorded`, for parts of ensembles: they hold no place, and nobody copies them."""
        if error is not None:
            self._recorder.refused(parts)
            for call in parts:
                self._refuse(call, error)
            return
        self._recorder.answered(parts)
        for call, payload in zip(parts, payloads, strict=True):
            if call.exchange is not None:
                call.exchange.send(payload)
        self._telemetry.served(parts, self.now_ns())

    def _shadow(self, calls: list[Call]) -> None:
        queue = calls[0].queue
        candidates = self.table.shadows_of(queue)
        if not candidates:
            return
        if queue.pressed or self.admission.pressed(queue.version.model):
            self._mirror.skip(calls, candidates)
        else:
            self._mirror.mirror(calls, candidates)

    # -- fates other than an answer --------------------------------------------------------------

    def abandoned(self, call: Call) -> None:
        """The client went away before its answer."""
        self._end(call)
        records = self._recorder.encode([call], Fate.CLIENT_GONE)

        def recorded(log_error: ServingError | None) -> None:
            self._recorder.failed(log_error)
            if not call.is_part:
                self._release(call)

        self._recorder.record_failure(call, records, recorded)
        self._telemetry.failed(call, Fate.CLIENT_GONE, None)

    def expired(self, call: Call) -> None:
        """The deadline passed while the call was waiting or running."""
        if call.frame is None and not call.queue.ready:
            self._fail(call, Fate.REPLICA_LOST, NoReplica("no replica of this model is up"))
        else:
            self._fail(call, Fate.TIMEOUT, explain(RowFailure.EXPIRED))

    def hopeless(self, call: Call) -> None:
        error = DeadlineExceeded("the deadline cannot be met; permit more time or retry later")
        self._fail(call, Fate.TIMEOUT, error)

    def shed(self, call: Call) -> None:
        self._fail(call, Fate.TIMEOUT, QueueFull("waited too long for its turn; retry later"))

    def retried(self, call: Call) -> None:
        self._telemetry.retried(call)

    def exhausted(self, call: Call) -> None:
        error = ReplicaLost("the replica died while running this request; retry later")
        self._fail(call, Fate.REPLICA_LOST, error)

    def not_finite(self, call: Call) -> None:
        error = NonFiniteInput("inputs must not contain NaN or infinity")
        self._fail(call, Fate.INVALID_INPUT, error)

    def broken(self, call: Call) -> None:
        error = InternalError("something went wrong here; quote the request id to the operator")
        self._fail(call, Fate.INVALID_INPUT, error)

    def stage_failed(self, call: Call, fate: Fate, error: ServingError, *, stage: str) -> None:
        """An ensemble's call fails because one of its stages did; its record names the stage."""
        self._fail(call, fate, error, stage=stage)

    def _fail(self, call: Call, fate: Fate, error: ServingError, *, stage: str = "") -> None:
        self._end(call)
        reason = f"{error.code}: stage {stage}" if stage else error.code
        records = self._recorder.encode([call], fate, reason=reason)

        def recorded(log_error: ServingError | None) -> None:
            self._recorder.failed(log_error)
            self._refuse(call, log_error or error)

        self._recorder.record_failure(call, records, recorded)
        self._telemetry.failed(call, fate, error)

    def _end(self, call: Call) -> None:
        call.done = True
        call.total_us = (self.now_ns() - call.arrived_ns) // 1000
        call.queue.discard(call)

    def _refuse(self, call: Call, error: ServingError) -> None:
        if call.exchange is not None:
            call.exchange.refuse(error, prediction_id=self._recorder.prediction_id(call.sequence))
        if not call.is_part:
            self._release(call)

    def _release(self, call: Call) -> None:
        """Gives back what the call held; a part holds nothing, and is never told here."""
        share, call.share = call.share, None
        if share is not None:
            self.admission.release(share, call.queue.version.model, call.request.size_bytes)
            if call.account is not None:
                call.account.leave()
        elif call.shadow_of:
            self._mirror.release(call)

    # -- upkeep ----------------------------------------------------------------------------------

    def prediction_id(self, call: Call) -> str:
        """The id under which the call's record is found."""
        return self._recorder.prediction_id(call.sequence)

    def apply(self, snapshot: Snapshot) -> None:
        """Swaps the routing table; queues of unchanged versions keep their calls.

        A version that left, or changed, is looked after until its last call has its fate.
        """
        before = self.table.queues
        self.table = RoutingTable(
            snapshot,
            before,
            self._make_queue,
            turns=self.table.turns,
            diverted=self._telemetry.diverted,
        )
        self._mirror.retain(self.table.candidates)
        self._recorder.epoch = snapshot.epoch
        kept = self.table.queues
        self._retired += [queue for key, queue in before.items() if kept.get(key) is not queue]

    def sweep(self) -> None:
        """Deadlines and silent replicas; called every few milliseconds, not per request."""
        now_ns = self.now_ns()
        self._wall_offset_ns = self._clock.wall_ns() - now_ns
        self._now_s = (now_ns + self._wall_offset_ns) / 1e9
        self.table.relieve()
        for queue in [*self.table.queues.values(), *self._retired]:
            queue.sweep(now_ns)
        self._retired = [queue for queue in self._retired if not queue.idle]
        if self._quotas is not None:
            self._quotas.rest()

    @property
    def versions(self) -> set[tuple[str, str]]:
        """Model and version of every queue, those included that only end the calls they have."""
        queues = [*self.table.queues.values(), *self._retired]
        return {(queue.version.model, queue.version.version) for queue in queues}

    @property
    def idle(self) -> bool:
        """Whether every admitted request has its answer; copies for candidates do not count."""
        return self.admission.in_flight == 0

    def queue(self, key: str) -> VersionQueue | None:
        """The queue of a `model@version`, while the table has one."""
        return self.table.queues.get(key)

    def _make_queue(self, version: ModelVersion) -> VersionQueue:
        return self._queue_factory(version, self)

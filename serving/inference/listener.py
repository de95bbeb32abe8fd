"""The replica's side of the frame channel: one thread that reads, merges, runs and answers.

Theory of operation. The thread owns everything: sockets, pending frames, the session. It waits for
sockets only while nothing is pending; otherwise it takes what the sockets hold without waiting,
forms a batch, runs it and answers. While the model runs, frames gather in the sockets' buffers
(credits bound them), and they are the next batch: no timer, no lock, no hand-over between threads.
`session.run` releases the GIL, so the Ray actor around it stays responsive.

A frame whose time has passed is answered without being run, or without the rest of it being run. A
batch that cannot be put together or answered fails alone (`running` says what becomes of its run).
When the model fails on everything (`breaker`) the replica hangs up, so that its model is not ready, and
greets gateways again when it answers.
Malformed bytes close the connection they came on and touch nothing else. If the thread ends for any
reason its connections close, so that gateways go elsewhere at once.
"""

import contextlib
import selectors
import socket
import threading
from collections import deque
from collections.abc import Sequence
from typing import Final, Protocol

import structlog

from serving.core.batches import BatchAnswer, BatchPart, RowBatch, RowFailure
from serving.core.clock import Clock
from serving.core.elements import ElementsInvalid
from serving.core.tensors import Array
from serving.errors import FrameInvalid, ReplicaLost, SettingInvalid
from serving.gateway_settings import ChannelSettings
from serving.inference.breaker import Breaker
from serving.inference.connection import FrameConnection
from serving.inference.counters import Counters, ReplicaStatistics
from serving.inference.frames import MOST_US, sent_ns_of
from serving.inference.merging import (
    PendingFrame,
    Slice,
    form_batch,
    merge_inputs,
    split_outputs,
)
from serving.inference.places import Place
from serving.inference.rehearsal import BatchSizes, Rehearsal, fit_of, sample
from serving.inference.running import Runner, WatchedRunner

logger = structlog.get_logger()

_IDLE_WAIT_S: Final = 1.0
_MAX_STRANGERS: Final = 64
"""Connections whose handshake is not over; more of them make room for the next."""
_NO_DEADLINE: Final = 2**63 - 1


class BatchTracing(Protocol):
    """Where the span of one batch goes. `links`: (trace id, span id) of its sampled requests."""

    def record(
        self,
        *,
        batch_id: int,
        rows: int,
        start_ns: int,
        end_ns: int,
        links: Sequence[tuple[bytes, bytes]],
        failed: bool,
    ) -> None: ...


class ReplicaListener:
    """Serves frames for one runner at one place. Started by `start`, ended by `stop`."""

    _listening: socket.socket
    _selector: selectors.BaseSelector
    _wake_reader: socket.socket
    _wake_writer: socket.socket

    def __init__(
        self,
        runner: Runner,
        *,
        replica: str,
        place: Place,
        channel: ChannelSettings,
        run_timeout_s: float,
        clock: Clock,
        tracing: BatchTracing | None = None,
    ) -> None:
        self._place = place
        self._version = runner.version
        self._sizes = BatchSizes(runner.version)
        self._running = WatchedRunner(runner, run_timeout_s=run_timeout_s, clock=clock)
        self._padder = self._running.padder
        self._breaker = Breaker(runner.version.key, try_sample=self._sample_runs, clock=clock)
        self._breaker.armed = runner.version.batched
        self._channel = channel
        self._clock = clock
        # CPU time is blind to neighbours that take the core; a device needs the wall's.
        self._cost_ns = clock.thread_ns if runner.runs_on_caller else clock.monotonic_ns
        self._tracing = tracing
        self._pending: deque[PendingFrame] = deque()
        self._connections: set[FrameConnection] = set()
        self._stopping = threading.Event()
        self._probes: deque[PendingFrame] = deque()
        self._thread = threading.Thread(target=self._loop, name="replica-loop", daemon=True)
        # The high half tells replicas apart, the low half counts.
        self._batch_id = int.from_bytes(replica.encode()[-4:].rjust(4, b"\0"), "little") << 32
        self._counters = Counters()

    # -- from outside the thread -----------------------------------------------------------------

    def warm_up(self) -> None:
        """Tries and times the model: see `rehearsal`. Raises ModelFailed and ArtifactInvalid."""
        rehearsal = Rehearsal(self._version, self._running, self._sizes, cost_ns=self._cost_ns)
        self._breaker.armed = rehearsal.run()

    def start(self) -> None:
        """Opens its place and starts the thread. Raises OSError."""
        self._listening = self._place.open()
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listening, selectors.EVENT_READ, self._accept)
        self._selector.register(self._wake_reader, selectors.EVENT_READ, self._woken)
        self._thread.start()
        self._running.start()

    def stop(self, *, drain_s: float = 5.0) -> None:
        """Accepts nothing new, answers what came in within `drain_s`, closes everything.

        Frames that come from now on are handed back. After `drain_s` the run in progress is
        terminated, and what had no answer is lost with its connection, to be sent elsewhere.
        """
        if self._thread.ident is None:
            return
        self._stopping.set()
        self._wake()
        if not self._running.join(drain_s):
            self._running.abandon()
            self._wake()
            self._running.join(drain_s)
        self._thread.join(drain_s)
        self._place.close()

    @property
    def address(self) -> str:
        """Where gateways reach it, once started."""
        return self._place.address

    @property
    def stopping(self) -> bool:
        """Whether frames that come from now on are handed back."""
        return self._stopping.is_set()

    def statistics(self) -> ReplicaStatistics:
        return self._counters.statistics(
            queued_rows=sum(frame.batch.rows - frame.taken_rows for frame in list(self._pending)),
            best_batch_size=self._sizes.longest.best_rows,
            alone=self._sizes.alone,
            failing=self._breaker.is_open,
        )

    def check(self, *, wait_s: float = 5.0) -> None:
        """Raises ReplicaLost unless a real row, queued like any other, is answered in `wait_s`.

        Also when run after run had to be ended: then the replica is to be replaced.
        """
        if self._running.lost:
            raise ReplicaLost("the device is lost")
        if self._running.stuck:
            raise ReplicaLost("the model's runs do not end by themselves")
        if self._breaker.is_open:
            raise ReplicaLost("the model fails on everything")
        answered = threading.Event()
        failures: list[dict[int, RowFailure]] = []

        def reply(answer: BatchAnswer) -> None:
            failures.append(answer.failures)
            answered.set()

        probe = sample(self._version, self._padder)
        probe.arrived_ns, probe.reply = self._clock.monotonic_ns(), reply
        self._probes.append(probe)
        self._wake()
        if not answered.wait(wait_s):
            raise ReplicaLost("the replica's loop makes no progress")
        if any(failures) and self._breaker.armed:
            raise ReplicaLost("the model fails on a sample row")

    # -- the thread ------------------------------------------------------------------------------

    def _loop(self) -> None:
        try:
            while self._turn():
                pass
        except Exception:
            # Outermost: the connections must close and the log must say why.
            logger.exception("the replica's loop failed", model=self._version.key)
        finally:
            self._close()

    def _turn(self) -> bool:
        """Reads, runs one batch, answers. False when it was told to stop and nothing is left."""
        # Looked at before the sockets: what they hold by now is read, and handed back, below.
        stopping = self._stopping.is_set()
        wait_s = 0 if self._pending or (stopping and not self._unsent()) else _IDLE_WAIT_S
        for key, events in self._selector.select(wait_s):
            key.data(events)
        while self._probes:
            self._pending.append(self._probes.popleft())
        if self._breaker.closed_again():
            for connection in list(self._connections):
                connection.greet()
        if self._pending:
            self._step()
        self._counters.tick(self._clock.monotonic_ns())
        return not self._running.abandoned and (
            not stopping or bool(self._pending) or self._unsent()
        )

    def _flush(self) -> None:
        """Sends the answers of a batch, those on one connection together."""
        for connection in list(self._connections):
            connection.flush()

    def _unsent(self) -> bool:
        return any(connection.unsent for connection in self._connections)

    def _step(self) -> None:
        """Runs one batch: form, run, split, answer."""
        start_ns = self._clock.monotonic_ns()
        self._expire(start_ns)
        if not self._pending:
            return
        cost_ns = self._cost_ns()
        profile = self._sizes.of(self._pending[0].fit)
        slices = form_batch(self._pending, max_rows=profile.best_rows)
        rows = sum(s.stop - s.start for s in slices)
        queue_ns = start_ns - min(s.frame.arrived_ns for s in slices)
        outputs, failures = self._run(slices, rows)
        if self._running.abandoned:
            return
        if self._running.lost:
            # Unanswered, so that gateways ask another replica; Serve puts a new one in this one's place.
            self._close_connections()
            return
        end_ns = self._clock.monotonic_ns()
        self._counters.ran(rows=rows, run_ns=end_ns - start_ns, queue_ns=queue_ns)
        self._counters.failures += len(failures)
        self._batch_id += 1
        queue_us, run_us = queue_ns // 1000, (end_ns - start_ns) // 1000
        part = BatchPart(
            rows, self._batch_id, rows, 0, min(queue_us, MOST_US), min(run_us, MOST_US)
        )
        for frame in split_outputs(slices, outputs, failures, part, padder=self._padder):
            self._answer(frame)
        self._flush()
        if not failures:
            profile.ran(rows, (self._cost_ns() - cost_ns) / 1e9)
        if self._breaker.ran(failed=len(failures) == rows):
            self._hang_up()
        self._trace(slices, start_ns=start_ns, end_ns=end_ns, failed=bool(failures))

    def _run(self, slices: list[Slice], rows: int) -> tuple[list[Array], dict[int, RowFailure]]:
        try:
            inputs = merge_inputs(slices, self._padder)
        except Exception:
            # Nothing a caller sent should do this; if it does, only its batch pays.
            logger.exception("no batch", model=self._version.key)
            return [], dict.fromkeys(range(rows), RowFailure.MODEL_ERROR)
        return self._running.run(inputs)

    def _answer(self, frame: PendingFrame) -> None:
        try:
            answer = frame.answer()
        except Exception:
            # What the model gave cannot be put in a frame: nobody's answer, and not the loop's end.
            logger.exception("no answer", model=self._version.key)
            answer = frame.fail(RowFailure.INVALID_OUTPUT)
        frame.reply(answer)

    def _hang_up(self) -> None:
        while self._pending:
            frame = self._pending.popleft()
            frame.reply(frame.fail(RowFailure.MODEL_ERROR))
        self._flush()
        self._close_connections()

    def _close_connections(self) -> None:
        self._pending.clear()
        for connection in list(self._connections):
            connection.close()

    def _sample_runs(self) -> bool:
        frame = sample(self._version, self._padder)
        _, failures = self._running.run(merge_inputs([Slice(frame, 0, 1)], self._padder))
        return not failures

    def _expire(self, now_ns: int) -> None:
        """Answers frames whose time has passed without running them, or the rest of them."""
        for frame in [frame for frame in self._pending if frame.deadline_ns < now_ns]:
            self._pending.remove(frame)
            self._counters.expired_rows += frame.batch.rows - frame.answered_rows
            frame.reply(frame.fail(RowFailure.EXPIRED))
        self._flush()

    def _trace(self, slices: Sequence[Slice], *, start_ns: int, end_ns: int, failed: bool) -> None:
        if self._tracing is None:
            return
        links = [
            (link.trace_id, link.span_id)
            for s in slices
            for link in s.frame.batch.links
            if s.start <= link.row < s.stop
        ]
        if links or failed:
            offset_ns = self._clock.wall_ns() - self._clock.monotonic_ns()
            self._tracing.record(
                batch_id=self._batch_id,
                rows=sum(s.stop - s.start for s in slices),
                start_ns=start_ns + offset_ns,
                end_ns=end_ns + offset_ns,
                links=links,
                failed=failed,
            )

    # -- sockets ---------------------------------------------------------------------------------

    def _accept(self, _events: int) -> None:
        # OSError: the peer has gone already, or there is no descriptor left; the loop goes on.
        # SettingInvalid: the certificate's files are being replaced.
        with contextlib.suppress(OSError, SettingInvalid):
            self._forget_strangers()
            accepted, _ = self._listening.accept()
            if self._running.lost:
                accepted.close()
                return
            peer = self._welcome(accepted)
            connection = FrameConnection(
                peer,
                version=self._version,
                channel=self._channel,
                selector=self._selector,
                received=self._received,
                closed=self._connections.discard,
            )
            self._connections.add(connection)
            if not self._breaker.is_open:
                connection.greet()

    def _welcome(self, accepted: socket.socket) -> socket.socket:
        try:
            return self._place.receive(accepted)
        except (OSError, SettingInvalid):
            accepted.close()
            raise

    def _forget_strangers(self) -> None:
        """Drops those that have not shown who they are when too many wait for that."""
        strangers = [each for each in self._connections if not each.is_known]
        for connection in strangers if len(strangers) >= _MAX_STRANGERS else []:
            connection.close()

    def _received(self, connection: FrameConnection, frame_id: int, batch: RowBatch) -> None:
        if self._stopping.is_set():
            connection.refuse_draining(frame_id)
            return
        try:
            arrays = tuple(tensor.array(batch.rows) for tensor in batch.tensors)
        except ElementsInvalid as error:
            raise FrameInvalid(str(error)) from error
        now_ns = self._clock.monotonic_ns()
        sent_ns = sent_ns_of(batch, now_ns) if self._place.shares_clock else now_ns
        deadline_ns = sent_ns + batch.budget_us * 1000 if batch.budget_us else _NO_DEADLINE

        def reply(answer: BatchAnswer) -> None:
            connection.answer(frame_id, answer)

        fit = fit_of(arrays, self._padder)
        self._pending.append(PendingFrame(batch, arrays, sent_ns, deadline_ns, reply, fit))

    def _wake(self) -> None:
        if self._thread.is_alive():
            with contextlib.suppress(OSError):
                self._wake_writer.send(b"\0")

    def _woken(self, _events: int) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wake_reader.recv(4096)

    def _close(self) -> None:
        self._close_connections()
        self._listening.close()
        self._selector.close()
        self._wake_reader.close()
        self._wake_writer.close()
        self._running.end()

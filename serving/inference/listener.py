"""The replica's side of the frame channel: one thread that reads, merges, runs and answers.

Theory of operation. The thread owns everything: sockets, pending frames, the session. It waits for
sockets only while nothing is pending; otherwise it takes what the sockets hold without waiting,
forms a batch, runs it and answers. While the model runs, frames gather in the sockets' buffers
(credits bound them), and they are the next batch: no timer, no lock, no hand-over between threads.
`session.run` releases the GIL, so the Ray actor around it stays responsive.

A frame whose time has passed is answered without being run, or without the rest of it being run. A
run that lasts longer than `run_timeout_s` is terminated by a watchdog and its rows fail, without
bisection. Malformed bytes close the connection they came on and touch nothing else. If the thread
ends for any reason its connections close, so that gateways go elsewhere at once.
"""

import contextlib
import selectors
import socket
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import structlog

from serving.core.batches import BatchAnswer, BatchPart, RowBatch, RowFailure
from serving.core.clock import Clock
from serving.core.models import ModelVersion
from serving.core.tensors import Array
from serving.errors import ModelFailed, OutputInvalid, ReplicaLost
from serving.inference.connection import FrameConnection
from serving.inference.counters import Counters
from serving.inference.frames import encode_answer
from serving.inference.merging import (
    PendingFrame,
    Slice,
    form_batch,
    merge_inputs,
    run_isolating,
    split_outputs,
)
from serving.inference.profile import BatchProfile
from serving.settings import ChannelSettings

logger = structlog.get_logger()

_IDLE_WAIT_S: Final = 1.0
_VARIABLE_DIMENSION: Final = 16
_WARM_UP_RUNS: Final = 3
_REHEARSED_FRAME_ROWS: Final = 16
_NO_DEADLINE: Final = 2**63 - 1
_MAX_WAIT_US: Final = 120_000_000
"""No frame lay in a socket longer: a time of sending that says so is not of our clock."""
_MAX_US: Final = 2**32 - 1
"""What a frame can say about a time; more only after the process was stopped for over an hour."""


class Runner(Protocol):
    """What runs a batch: one model version on one device."""

    version: ModelVersion
    runs_on_caller: bool
    """The calling thread does all the work, so that its CPU time is what a run costs."""

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """Arrays in the order of the version's outputs. Raises ModelFailed."""

    def terminate(self) -> None:
        """Makes the run in progress fail soon; called from another thread."""


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


@dataclass(frozen=True, slots=True)
class ReplicaStatistics:
    """What a replica tells about itself. Totals since its start; `busy_fraction` of late."""

    queued_rows: int = 0
    busy_fraction: float = 0.0
    batches: int = 0
    rows: int = 0
    failures: int = 0
    run_seconds: float = 0.0
    best_batch_size: int = 0
    p95_queue_ms: float = 0.0
    expired_rows: int = 0
    batch_sizes: dict[int, int] = field(default_factory=dict)


class ReplicaListener:
    """Serves frames for one runner on one Unix socket. Started by `start`, ended by `stop`."""

    _listening: socket.socket
    _selector: selectors.BaseSelector
    _wake_reader: socket.socket
    _wake_writer: socket.socket

    def __init__(
        self,
        runner: Runner,
        *,
        replica: str,
        path: Path,
        channel: ChannelSettings,
        run_timeout_s: float,
        clock: Clock,
        tracing: BatchTracing | None = None,
    ) -> None:
        self.path = path
        self.profile = BatchProfile(runner.version.batching)
        self._runner = runner
        self._channel = channel
        self._run_timeout_ns = round(run_timeout_s * 1e9)
        self._clock = clock
        # CPU time is blind to neighbours that take the core; a device needs the wall's.
        self._cost_ns = clock.thread_ns if runner.runs_on_caller else clock.monotonic_ns
        self._tracing = tracing
        self._pending: deque[PendingFrame] = deque()
        self._connections: set[FrameConnection] = set()
        self._stopping = threading.Event()
        self._abandoned = False
        self._ended = threading.Event()
        self._run_started_ns: int | None = None
        self._overdue_ns: int | None = None
        self._probes: deque[PendingFrame] = deque()
        self._thread = threading.Thread(target=self._loop, name="replica-loop", daemon=True)
        self._watchdog = threading.Thread(target=self._watch, name="replica-watch", daemon=True)
        # The high half tells replicas apart, the low half counts.
        self._batch_id = int.from_bytes(replica.encode()[-4:].rjust(4, b"\0"), "little") << 32
        self._counters = Counters()

    # -- from outside the thread -----------------------------------------------------------------

    def warm_up(self) -> None:
        """Learns the best batch size from a few batches of each; raises ModelFailed if a row fails.

        Sizes are timed as frames of 16 rows, as a gateway would send them, and over the whole step
        from forming to answering: for a small model that is most of the cost. A size at which
        batches fail (no room on the device) costs what bisecting them costs, and is not chosen.
        """
        self._runner.run(_sample(self._runner.version, rows=1))
        for size in self.profile.sizes:
            cost_s = min(self._rehearse(size) for _ in range(_WARM_UP_RUNS))
            self.profile.measured(size, cost_s)
            if not self.profile.fits(size):
                return

    def start(self) -> None:
        """Binds the socket, readable for this user only, and starts the thread."""
        self._listening = _bind(self.path)
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listening, selectors.EVENT_READ, self._accept)
        self._selector.register(self._wake_reader, selectors.EVENT_READ, self._woken)
        self._thread.start()
        self._watchdog.start()

    def stop(self, *, drain_s: float = 5.0) -> None:
        """Accepts nothing new, answers what came in within `drain_s`, closes everything.

        Frames that come from now on are handed back. After `drain_s` the run in progress is
        terminated, and what had no answer is lost with its connection, to be sent elsewhere.
        """
        if self._thread.ident is None:
            return
        self._stopping.set()
        self._wake()
        if not self._ended.wait(drain_s):
            self._abandoned = True
            self._runner.terminate()
            self._wake()
        self._thread.join(drain_s)
        self._watchdog.join(drain_s)
        self.path.unlink(missing_ok=True)

    @property
    def stopping(self) -> bool:
        """Whether frames that come from now on are handed back."""
        return self._stopping.is_set()

    def statistics(self) -> ReplicaStatistics:
        counters = self._counters
        return ReplicaStatistics(
            queued_rows=sum(frame.batch.rows - frame.taken_rows for frame in list(self._pending)),
            busy_fraction=counters.busy_fraction,
            batches=counters.batches,
            rows=counters.rows,
            failures=counters.failures,
            run_seconds=counters.run_ns / 1e9,
            best_batch_size=self.profile.best_rows,
            p95_queue_ms=counters.p95_queue_ms(),
            expired_rows=counters.expired_rows,
            batch_sizes=dict(counters.batch_sizes),
        )

    def check(self, *, wait_s: float = 5.0) -> None:
        """Raises ReplicaLost unless a real row, queued like any other, is answered in `wait_s`."""
        answered = threading.Event()
        failures: list[dict[int, RowFailure]] = []

        def reply(answer: BatchAnswer) -> None:
            failures.append(answer.failures)
            answered.set()

        version = self._runner.version
        batch = RowBatch(digest=version.digest, rows=1, tensors=())
        now_ns = self._clock.monotonic_ns()
        inputs = tuple(_sample(version, rows=1))
        self._probes.append(PendingFrame(batch, inputs, now_ns, _NO_DEADLINE, reply))
        self._wake()
        if not answered.wait(wait_s):
            raise ReplicaLost("the replica's loop makes no progress")
        if any(failures):
            raise ReplicaLost("the model fails on a sample row")

    # -- the thread ------------------------------------------------------------------------------

    def _loop(self) -> None:
        try:
            while self._turn():
                pass
        except Exception:
            # Outermost: the connections must close and the log must say why.
            logger.exception("the replica's loop failed", model=self._runner.version.key)
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
        if self._pending:
            self._step()
        self._counters.tick(self._clock.monotonic_ns())
        return not self._abandoned and (not stopping or bool(self._pending) or self._unsent())

    def _unsent(self) -> bool:
        return any(connection.unsent for connection in self._connections)

    def _step(self) -> None:
        """Runs one batch: form, run, split, answer."""
        start_ns = self._clock.monotonic_ns()
        self._expire(start_ns)
        if not self._pending:
            return
        cost_ns = self._cost_ns()
        slices = form_batch(self._pending, max_rows=self.profile.best_rows)
        inputs = merge_inputs(slices)
        rows = len(inputs[0])
        queue_ns = start_ns - min(s.frame.arrived_ns for s in slices)
        self._run_started_ns = start_ns
        outputs, failures = self._run(inputs)
        self._run_started_ns = None
        if self._abandoned:
            return
        end_ns = self._clock.monotonic_ns()
        self._counters.ran(rows=rows, run_ns=end_ns - start_ns, queue_ns=queue_ns)
        self._counters.failures += len(failures)
        self._batch_id += 1
        queue_us, run_us = queue_ns // 1000, (end_ns - start_ns) // 1000
        part = BatchPart(
            rows, self._batch_id, rows, 0, min(queue_us, _MAX_US), min(run_us, _MAX_US)
        )
        for frame in split_outputs(slices, outputs, failures, part):
            frame.reply(frame.answer())
        if not failures:
            self.profile.ran(rows, (self._cost_ns() - cost_ns) / 1e9)
        self._trace(slices, start_ns=start_ns, end_ns=end_ns, failed=bool(failures))

    def _run(self, inputs: Sequence[Array]) -> tuple[list[Array], dict[int, RowFailure]]:
        rows = len(inputs[0])
        version = self._runner.version
        try:
            return run_isolating(self._run_once, inputs, version=version)
        except OutputInvalid as error:
            terminated = isinstance(error, _Terminated)
            reason = RowFailure.EXPIRED if terminated else RowFailure.INVALID_OUTPUT
            logger.warning("batch failed", model=version.key, rows=rows, error=str(error))
            return [], dict.fromkeys(range(rows), reason)

    def _run_once(self, inputs: Sequence[Array]) -> list[Array]:
        try:
            return self._runner.run(inputs)
        except ModelFailed as error:
            if self._abandoned or self._overdue_ns == self._run_started_ns is not None:
                raise _Terminated(error.message) from error
            raise
        except Exception as error:
            # A runner translates its own failures; what it forgot must not end the loop.
            logger.exception("the runner failed", model=self._runner.version.key)
            raise ModelFailed("the runner failed in an unexpected way") from error

    def _expire(self, now_ns: int) -> None:
        """Answers frames whose time has passed without running them, or the rest of them."""
        for frame in [frame for frame in self._pending if frame.deadline_ns < now_ns]:
            self._pending.remove(frame)
            self._counters.expired_rows += frame.batch.rows - frame.answered_rows
            frame.reply(frame.expire())

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
        with contextlib.suppress(OSError):
            peer, _ = self._listening.accept()
            connection = FrameConnection(
                peer,
                version=self._runner.version,
                channel=self._channel,
                selector=self._selector,
                received=self._received,
                closed=self._connections.discard,
            )
            self._connections.add(connection)
            connection.greet()

    def _received(self, connection: FrameConnection, frame_id: int, batch: RowBatch) -> None:
        if self._stopping.is_set():
            connection.refuse_draining(frame_id)
            return
        arrays = tuple(tensor.array(batch.rows) for tensor in batch.tensors)
        sent_ns = _sent_ns(batch, self._clock.monotonic_ns())
        deadline_ns = sent_ns + batch.budget_us * 1000 if batch.budget_us else _NO_DEADLINE

        def reply(answer: BatchAnswer) -> None:
            connection.answer(frame_id, answer)

        self._pending.append(PendingFrame(batch, arrays, sent_ns, deadline_ns, reply))

    def _wake(self) -> None:
        if self._thread.is_alive():
            with contextlib.suppress(OSError):
                self._wake_writer.send(b"\0")

    def _woken(self, _events: int) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wake_reader.recv(4096)

    def _close(self) -> None:
        for connection in list(self._connections):
            connection.close()
        self._listening.close()
        self._selector.close()
        self._wake_reader.close()
        self._wake_writer.close()
        self._ended.set()

    # -- the watchdog ----------------------------------------------------------------------------

    def _watch(self) -> None:
        """Terminates a run that has lasted too long; sleeps otherwise."""
        period_s = min(1.0, self._run_timeout_ns / 4e9)
        while not self._ended.wait(period_s):
            started_ns = self._run_started_ns
            if started_ns is None:
                continue
            if self._clock.monotonic_ns() - started_ns > self._run_timeout_ns:
                # Names the run that is meant: the next one must not be taken for it.
                self._overdue_ns = started_ns
                self._runner.terminate()

    def _rehearse(self, rows: int) -> float:
        """Seconds that one batch of `rows` zeros costs, from forming to encoded answers."""
        digest = self._runner.version.digest
        for start in range(0, rows, _REHEARSED_FRAME_ROWS):
            count = min(_REHEARSED_FRAME_ROWS, rows - start)
            inputs = tuple(_sample(self._runner.version, rows=count))
            batch = RowBatch(digest=digest, rows=count, tensors=())
            self._pending.append(
                PendingFrame(batch, inputs, 0, _NO_DEADLINE, partial(encode_answer, 0))
            )
        cost_ns = self._cost_ns()
        slices = form_batch(self._pending, max_rows=rows)
        outputs, failures = self._run(merge_inputs(slices))
        if failures:
            raise ModelFailed(f"{self._runner.version.key} fails on {rows} sample rows")
        part = BatchPart(rows, 0, rows, 0, 0, 0)
        for frame in split_outputs(slices, outputs, failures, part):
            frame.reply(frame.answer())
        return max(self._cost_ns() - cost_ns, 1) / 1e9


class _Terminated(OutputInvalid):
    """A run that was ended by the watchdog: not bisected, it would hang again."""


def _sent_ns(batch: RowBatch, now_ns: int) -> int:
    """When a frame that was read now was sent; now, where that is not known."""
    waited_us = (now_ns // 1000 - batch.sent_us) & _MAX_US if batch.sent_us else 0
    return now_ns - waited_us * 1000 if waited_us < _MAX_WAIT_US else now_ns


def _bind(path: Path) -> socket.socket:
    """A listening socket that only this user can reach."""
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.bind(str(path))
        path.chmod(0o600)
        listening.listen(128)
    except OSError:
        listening.close()
        raise
    listening.setblocking(False)
    return listening


def _sample(version: ModelVersion, *, rows: int) -> list[Array]:
    """Rows of zeros in the declared form; dimensions that may vary become 16."""
    return [
        np.zeros(
            (rows, *(_VARIABLE_DIMENSION if size < 0 else size for size in tensor.row_shape)),
            tensor.dtype,
        )
        for tensor in version.inputs
    ]

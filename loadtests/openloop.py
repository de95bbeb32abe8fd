"""Open-loop load: requests are due at random moments, whatever became of the ones before.

Moments are those of a Poisson process with a fixed seed, at a rate fixed before the run. A request is
timed from the moment it was due, not from when a connection was free for it, and one that was never
answered is charged as never answered: a server that makes its callers wait cannot hide it.

One event loop, N connections, at most one request on each, bytes rendered beforehand. A request
costs about 25 us of CPU. `late_p99_ms` is how late the generator itself was; a run in which that is
not small beside the figures says something about the generator.
"""

import asyncio
import resource
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast

import numpy as np
import uvloop
from numpy.typing import NDArray

from serving.core.clock import SystemClock

TICK_S: Final = 0.001
GRACE_S: Final = 5.0
OK: Final = 200
UNANSWERED: Final = 0
"""The status of a request that has no answer."""

_clock: Final = SystemClock()


@dataclass(frozen=True, slots=True)
class Step:
    """A rate that is kept for a time."""

    rate_per_s: float
    seconds: float


@dataclass(frozen=True, slots=True)
class OpenLoad:
    """What is sent, and how often: one step after the other, without a pause.

    requests: whole requests, sent in turn. connections: at most as many requests are under way;
    more that are due wait, and their time counts.
    """

    host: str
    port: int
    requests: Sequence[bytes]
    steps: Sequence[Step]
    connections: int
    seed: int = 1


@dataclass(frozen=True, slots=True)
class OpenOutcome:
    """One entry per request, in the order in which they were due. Times are seconds.

    due_s: since the start. took_s: from then until the end of the answer, infinite for none.
    """

    due_s: NDArray[np.float64]
    took_s: NDArray[np.float64]
    status: NDArray[np.int64]
    late_p99_ms: float
    cpu_s: float
    """CPU time of the generator."""

    @property
    def accepted(self) -> "OpenOutcome":
        return self._where(self.status == OK)

    @property
    def refused(self) -> "OpenOutcome":
        """Answered, and not with what was asked for."""
        return self._where((self.status != OK) & (self.status != UNANSWERED))

    @property
    def unanswered(self) -> int:
        return int(np.count_nonzero(self.status == UNANSWERED))

    def between(self, start_s: float, end_s: float) -> "OpenOutcome":
        """Of the requests that were due in this time."""
        return self._where((self.due_s >= start_s) & (self.due_s < end_s))

    def within(self, seconds: float) -> int:
        """How many were answered in that time after they were due."""
        return int(np.count_nonzero((self.status == OK) & (self.took_s <= seconds)))

    def quantile_ms(self, quantile: float) -> float:
        """Of the times, unanswered requests included; no number when there are none."""
        if not len(self.took_s):
            return float("nan")
        return 1000 * float(np.quantile(self.took_s, quantile, method="inverted_cdf"))

    def _where(self, chosen: NDArray[np.bool_]) -> "OpenOutcome":
        return OpenOutcome(
            self.due_s[chosen],
            self.took_s[chosen],
            self.status[chosen],
            self.late_p99_ms,
            self.cpu_s,
        )


def run(load: OpenLoad) -> OpenOutcome:
    """Loads, waits for what is left, and tells. Raises OSError without a server."""
    return uvloop.run(_Generator(load).run())


def due_moments(steps: Sequence[Step], seed: int) -> NDArray[np.float64]:
    """Moments of a Poisson process, in seconds, ascending: the same for the same arguments."""
    random = np.random.default_rng(seed)
    moments = []
    start_s = 0.0
    for step in steps:
        count = random.poisson(step.rate_per_s * step.seconds)
        moments.append(start_s + np.sort(random.uniform(0, step.seconds, count)))
        start_s += step.seconds
    return np.concatenate(moments)


def render(
    path: str, body: bytes, headers: Sequence[tuple[str, str]], *, host: str = "loadtest"
) -> bytes:
    """A whole POST request."""
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


class _Connection(asyncio.Protocol):
    """One connection, at most one request under way on it."""

    _transport: asyncio.Transport

    def __init__(self, generator: "_Generator") -> None:
        self._generator = generator
        self._asked: int | None = None
        self._content = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports fit asyncio.Transport by shape, not by inheritance.
        self._transport = cast("asyncio.Transport", transport)

    def ask(self, index: int, request: bytes) -> None:
        self._asked = index
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        content = self._content = self._content + data if self._content else data
        end = content.find(b"\r\n\r\n") + 4
        if end < 4 or len(content) < end + _content_length(content[:end]):  # noqa: PLR2004
            return
        self._content = b""
        asked, self._asked = self._asked, None
        if asked is not None:
            # The answers that close a connection come as `connection_lost` in a moment.
            closing = b"\r\nConnection: close" in content[:end]
            self._generator.answered(asked, int(content[9:12]), None if closing else self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._generator.lost(self, self._asked)

    def close(self) -> None:
        self._transport.abort()


class _Generator:
    """One run."""

    def __init__(self, load: OpenLoad) -> None:
        self._load = load
        self._due_s = due_moments(load.steps, load.seed)
        self._took_s = np.full(len(self._due_s), np.inf)
        self._status = np.zeros(len(self._due_s), np.int64)
        self._late_s: list[float] = []
        # Used in turn, as if each were somebody else's.
        self._free: deque[_Connection] = deque()
        self._open: set[_Connection] = set()
        self._waiting: deque[int] = deque()
        self._under_way = 0
        self._next = 0
        self._start_ns = 0
        self._opening: set[asyncio.Task[None]] = set()
        self._done = asyncio.Event()

    async def run(self) -> OpenOutcome:
        load = self._load
        for start in range(0, load.connections, 128):  # A backlog is not endless.
            count = min(128, load.connections - start)
            await asyncio.gather(*(self._connect() for _ in range(count)))
        before_s = _cpu_s()
        self._start_ns = _clock.monotonic_ns()
        while self._next < len(self._due_s):
            self._send_due()
            await asyncio.sleep(TICK_S)
        try:
            async with asyncio.timeout(GRACE_S):
                while self._waiting or self._under_way:
                    self._done.clear()
                    await self._done.wait()
        except TimeoutError:
            pass
        cpu_s = _cpu_s() - before_s
        self._next = -1
        # A loop that is closed with a connection half open may wait for it for ever.
        await asyncio.gather(*self._opening, return_exceptions=True)
        for connection in list(self._open):
            connection.close()
        while self._open:  # noqa: ASYNC110 -- told by callback
            await asyncio.sleep(TICK_S)
        late_p99_ms = 1000 * float(np.quantile(self._late_s or [0.0], 0.99))
        return OpenOutcome(self._due_s, self._took_s, self._status, late_p99_ms, cpu_s)

    def answered(self, index: int, status: int, connection: _Connection | None) -> None:
        """connection: free again, None when the server closes it."""
        self._took_s[index] = self._now_s() - self._due_s[index]
        self._status[index] = status
        self._under_way -= 1
        self._done.set()
        if connection is None:
            return
        if self._waiting:
            self._ask(connection, self._waiting.popleft())
        else:
            self._free.append(connection)

    def lost(self, connection: _Connection, asked: int | None) -> None:
        """The connection is closed; a request that was on it stays unanswered."""
        self._open.discard(connection)
        if connection in self._free:
            self._free.remove(connection)
        if asked is not None:
            self._under_way -= 1
            self._done.set()
        if self._next >= 0:
            task = asyncio.ensure_future(self._reopen())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    def _send_due(self) -> None:
        now_s = self._now_s()
        due_s, free, waiting = self._due_s, self._free, self._waiting
        while self._next < len(due_s) and due_s[self._next] <= now_s:
            self._late_s.append(now_s - due_s[self._next])
            if free:
                self._ask(free.popleft(), self._next)
            else:
                waiting.append(self._next)
            self._next += 1

    def _ask(self, connection: _Connection, index: int) -> None:
        requests = self._load.requests
        self._under_way += 1
        connection.ask(index, requests[index % len(requests)])

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: _Connection(self), self._load.host, self._load.port
        )
        self._open.add(connection)
        if self._waiting:
            self._ask(connection, self._waiting.popleft())
        else:
            self._free.append(connection)

    async def _reopen(self) -> None:
        try:
            await self._connect()
        except OSError:
            # A server that is gone: what is due from now on waits, and is charged.
            return

    def _now_s(self) -> float:
        return (_clock.monotonic_ns() - self._start_ns) / 1e9


def _content_length(head: bytes) -> int:
    start = head.find(b"Content-Length: ") + 16
    return int(head[start : head.find(b"\r", start)]) if start >= 16 else 0  # noqa: PLR2004


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime

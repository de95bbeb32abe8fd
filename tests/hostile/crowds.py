"""Many connections at once, and a well-behaved caller beside them who must not notice."""

import contextlib
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Self

from tests.hostile.cases import Case, Conversation

SPARE_DESCRIPTORS: Final = 1000
PACE_S: Final = 0.005
LOOPBACK_ADDRESSES: Final = 4
"""One address has some 28,000 ports; those of closed connections stay taken for a minute."""


def affordable(wanted: int) -> int:
    """How many of `wanted` connections this process and the product may have open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = hard if hard != resource.RLIM_INFINITY else wanted + SPARE_DESCRIPTORS
    if soft < min(most, wanted + SPARE_DESCRIPTORS):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, wanted + SPARE_DESCRIPTORS), hard))
    return max(min(wanted, most - SPARE_DESCRIPTORS), 0)


@contextmanager
def crowd(port: int, count: int, *, per_s: float = 1e9) -> Iterator[list[socket.socket]]:
    """So many raw connections, opened no faster than `per_s` and closed at the end."""
    sockets: list[socket.socket] = []
    started = time.monotonic()
    try:
        for number in range(count):
            while (time.monotonic() - started) * per_s < number:
                threading.Event().wait(1e-4)
            source = (f"127.0.0.{2 + number % LOOPBACK_ADDRESSES}", 0)
            sockets.append(socket.create_connection(("127.0.0.1", port), 10, source))
        yield sockets
    finally:
        for each in sockets:
            each.close()


def read_to_the_end(sockets: list[socket.socket], *, within_s: float) -> list[bytes]:
    """What each got until its end, a reset or not. Raises TimeoutError for one that stays open."""
    until = time.monotonic() + within_s
    return [_read_all(each, until) for each in sockets]


def _read_all(connection: socket.socket, until: float) -> bytes:
    received = b""
    with contextlib.suppress(ConnectionResetError):
        connection.settimeout(max(until - time.monotonic(), 0.1))
        while data := connection.recv(65536):
            received += data
    return received


class SteadyCaller:
    """Asks one row after the other on one connection, at its own pace, and notes how long each took."""

    def __init__(self, case: Case) -> None:
        self.latencies_s: list[float] = []
        self._case = case
        self._connection: Conversation = case.connect()
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        self._connection.close()
        if self._failure is not None:
            raise self._failure

    @property
    def p99_s(self) -> float:
        ordered = sorted(self.latencies_s)
        return ordered[len(ordered) * 99 // 100]

    def _run(self) -> None:
        try:
            while not self._stopping.wait(PACE_S):
                self._ask(float(len(self.latencies_s)))
        except (OSError, AssertionError) as error:
            self._failure = error

    def _ask(self, number: float) -> None:
        started = time.monotonic()
        answer = self._connection.send(self._case.product.inference(-number)).receive()
        self.latencies_s.append(time.monotonic() - started)
        assert answer.status == 200
        assert answer.json()["outputs"][0]["data"][0] == -2 * number

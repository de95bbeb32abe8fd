"""The process that writes one gateway worker's prediction log; started by `remote.RemoteCommits`.

A process and not a thread, because a thread has to win the interpreter lock back from a busy event
loop twice for every commit: with the benchmark's M1 on two cores that cost the loop 0.2 ms a commit.
In thousands of requests a second: 38 without a log, 23 with a thread, 26 with this process. It also
means that a disk that does not answer can hold nothing but this process.

It reads what the worker sent, commits everything that came as one, and says so. It ends when the
worker closes the socket, for whatever reason: what came before is committed, the segment sealed.
"""

import signal
import socket
import sys
from struct import Struct
from typing import Final

import msgspec

from serving.core.clock import SystemClock
from serving.errors import DataDirectoryInUse, LogUnavailable, ServingError
from serving.predictionlog.committer import MAX_COMMIT_BYTES, TEND_NS, Committer, state_of
from serving.predictionlog.files import SystemFiles
from serving.predictionlog.messages import (
    APPEND,
    CLOSE,
    DEFINE,
    ERRORS,
    OPENED,
    SETTLED,
    STATE,
    Opened,
    Order,
    OrderReader,
    encode_reply,
)
from serving.predictionlog.plan import LogPlan
from serving.predictionlog.segment import DefinitionUnknown
from serving.telemetry import logs

_PREDECESSOR_NS: Final = 5_000_000_000
_LOCK_PAUSE_S: Final = 0.05
_RECEIVE_BYTES: Final = 1024 * 1024


class LogService:
    """Serves one worker over `peer` until it closes."""

    def __init__(self, plan: LogPlan, peer: socket.socket) -> None:
        self._definitions: dict[int, bytes] = {}
        self._clock = SystemClock()
        self._committer = Committer(
            plan.directory,
            settings=plan.settings,
            clock=self._clock,
            files=SystemFiles(),
            log_id=plan.log_id,
            tag=plan.tag,
            definitions=self._definitions,
        )
        self._peer = peer
        self._reader = OrderReader()
        self._refusal: ServingError | None = None
        self._told_ns = 0
        self._closing = False

    def run(self) -> None:
        """Opens, serves, seals. An error of the opening is the worker's to raise."""
        try:
            self._open()
        except ERRORS as error:
            self._peer.sendall(encode_reply(OPENED, error=error))
            return
        opened = msgspec.json.encode(Opened(self._committer.sequence))
        self._peer.sendall(encode_reply(OPENED, text=opened))
        # The kernel's own timeout: Python's would be a poll before every call.
        wait = Struct("ll").pack(0, TEND_NS // 1000)
        self._peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, wait)
        while not self._closing:
            self._turn()
        self._committer.close()

    def _open(self) -> None:
        """Opens the log; waits a little for the process of a worker that was killed to finish."""
        end_ns = self._clock.monotonic_ns() + _PREDECESSOR_NS
        while True:
            try:
                self._committer.open()
            except DataDirectoryInUse:
                if self._clock.monotonic_ns() > end_ns:
                    raise
                self._clock.sleep(_LOCK_PAUSE_S)
            else:
                return

    def _turn(self) -> None:
        """One reading, the commits it makes, and what can wait until they were told."""
        appends: list[list[bytes]] = []
        size_bytes = 0
        idle = True
        for order in self._receive():
            idle = False
            self._follow(order, appends)
            size_bytes += sum(map(len, order.records))
            if size_bytes >= MAX_COMMIT_BYTES:
                self._settle(appends)
                appends, size_bytes = [], 0
        self._settle(appends)
        self._committer.tend(idle=idle)
        self._tell()

    def _receive(self) -> list[Order]:
        try:
            data = self._peer.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            self._closing = True
            return []
        return list(self._reader.feed(data))

    def _follow(self, order: Order, appends: list[list[bytes]]) -> None:
        if order.kind == APPEND:
            self._committer.sequence = order.number
            appends.append(order.records)
        elif order.kind == DEFINE:
            self._definitions[order.number] = order.records[0]
        elif order.kind == CLOSE:
            self._closing = True

    def _settle(self, appends: list[list[bytes]]) -> None:
        """Commits `appends` as one and tells what became of them."""
        if not appends:
            return
        try:
            frames = [frame for records in appends for frame in records]
            error = self._committer.commit(frames) if frames else None
        except DefinitionUnknown:
            # Only the guilty one fails.
            if len(appends) > 1:
                for records in appends:
                    self._settle([records])
                return
            error = LogUnavailable("a record refers to no definition. This is a bug")
        self._send(encode_reply(SETTLED, error=error, appends=len(appends)))

    def _tell(self) -> None:
        """Sends the state twice a second, and at once when the refusal changed."""
        refusal = self._committer.refusal
        now_ns = self._clock.monotonic_ns()
        if refusal is self._refusal and now_ns - self._told_ns < TEND_NS:
            return
        self._refusal, self._told_ns = refusal, now_ns
        state = msgspec.json.encode(state_of(self._committer))
        self._send(encode_reply(STATE, text=state))

    def _send(self, reply: bytes) -> None:
        try:
            self._peer.sendall(reply)
        except OSError:
            self._closing = True


def main() -> None:
    """Arguments: the plan as JSON, the descriptor of the socket."""
    plan = msgspec.json.decode(sys.argv[1], type=LogPlan, dec_hook=LogPlan.decode_part)
    # The worker decides when its log ends; a signal to the process group must not come first.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    logs.configure(process=f"log-{plan.directory.name}", level="info")
    with socket.socket(fileno=int(sys.argv[2])) as peer:
        LogService(plan, peer).run()


if __name__ == "__main__":
    main()

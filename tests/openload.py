"""Callers who ask at a rate that nothing changes, and write down what they were told.

The file they write is the client's own ledger: a prediction id a line, written before the next request
is sent, and never anything that the product said about itself. It is what the log is held against.
"""

import asyncio
import contextlib
import re
from collections import deque
from pathlib import Path
from typing import Final, cast
from urllib.parse import urlsplit

import orjson

from tests.edge.wire import request
from tests.load import FIRST_NUMBER, Ledger
from tests.places import PATIENCE_S, a_row, eventually

TICK_S: Final = 0.005
MOST_CONNECTIONS: Final = 64
REST_TICKS: Final = 10
"""From a refused connection to the next try."""

_ID: Final = re.compile(rb"serving-prediction-id: (\S+)")
_LENGTH: Final = re.compile(rb"Content-Length: (\d+)")


class OpenCallers:
    """Use it as a context manager. A request that is due when no connection is free waits for one.

    acknowledgements: the client's ledger.
    """

    def __init__(
        self, url: str, token: str, *, model: str, rate_per_s: float, acknowledgements: Path
    ) -> None:
        place = urlsplit(url)
        self.ledger = Ledger()
        self._place = (place.hostname or "", place.port or 0)
        self._rate_per_s = rate_per_s
        self._path = f"/v2/models/{model}/infer"
        self._authorization = f"Authorization: Bearer {token}"
        self._acknowledgements = acknowledgements
        self._number = FIRST_NUMBER
        self._free: deque[_Line] = deque()
        self._lines: set[_Line] = set()
        self._rest = 0
        self._stopping = False
        self._task: asyncio.Task[None]

    async def __aenter__(self) -> "OpenCallers":
        self._file = self._acknowledgements.open("ab", buffering=0)
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Waits a moment for the last answers."""
        self._stopping = True
        await self._task
        with contextlib.suppress(TimeoutError):
            await eventually(lambda: all(line.asked is None for line in self._lines), within_s=5)
        for line in list(self._lines):
            line.hang_up()
        await asyncio.sleep(0)
        self._file.close()

    async def acknowledged(self, more: int) -> None:
        """Returns once so many more predictions were answered."""
        wanted = len(self.ledger.acknowledged) + more
        await eventually(
            lambda: self._task.done() or len(self.ledger.acknowledged) >= wanted,
            within_s=3 * PATIENCE_S,
        )
        if self._task.done():
            self._task.result()

    # -- lines -----------------------------------------------------------------------------------

    def take(self, line: "_Line", number: float, head: bytes, body: bytes) -> None:
        status = int(head[9:12])
        if status == 200:
            found = _ID.search(head)
            assert found is not None
            prediction_id = found[1].decode()
            doubled = orjson.loads(body)["outputs"][0]["data"][0]
            assert doubled == 2 * number, "a caller got somebody else's answer"
            assert prediction_id not in self.ledger.acknowledged, "two predictions with one id"
            self.ledger.acknowledged[prediction_id] = doubled
            self._file.write(f"{prediction_id}\n".encode())
        else:
            self.ledger.refused[orjson.loads(body)["code"]] += 1
        self._free.append(line)

    def lost(self, line: "_Line") -> None:
        self._lines.discard(line)
        if line.asked is not None:
            self.ledger.cut += 1
        elif line in self._free:
            self._free.remove(line)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        began_s, sent, due = loop.time(), 0, 0
        while not self._stopping:
            due = int((loop.time() - began_s) * self._rate_per_s)
            while sent < due:
                line = self._free.popleft() if self._free else await self._open()
                if line is None:
                    sent = due  # nobody answers, or everybody is asked: these callers have gone
                    break
                self._ask(line)
                sent += 1
            await asyncio.sleep(TICK_S)

    async def _open(self) -> "_Line | None":
        self._rest -= 1
        if self._rest > 0 or len(self._lines) >= MOST_CONNECTIONS:
            return None
        try:
            _, line = await asyncio.get_running_loop().create_connection(
                lambda: _Line(self), *self._place
            )
        except OSError:
            self._rest = REST_TICKS
            return None
        self._lines.add(line)
        return line

    def _ask(self, line: "_Line") -> None:
        self._number += 1
        body = orjson.dumps(a_row(float(self._number)))
        kind = "Content-Type: application/json"
        message = request("POST", self._path, self._authorization, kind, body=body)
        line.ask(float(self._number), message)


class _Line(asyncio.Protocol):
    """A connection with at most one request on it."""

    _transport: asyncio.Transport

    def __init__(self, callers: OpenCallers) -> None:
        self.asked: float | None = None
        self._callers = callers
        self._content = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def ask(self, number: float, message: bytes) -> None:
        self.asked = number
        self._transport.write(message)

    def hang_up(self) -> None:
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._content += data
        head, found, body = self._content.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not found or length is None or len(body) < int(length[1]) or self.asked is None:
            return
        number, self.asked, self._content = self.asked, None, b""
        self._callers.take(self, number, head, body)

    def connection_lost(self, exc: Exception | None) -> None:
        self._callers.lost(self)

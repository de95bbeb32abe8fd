"""A request body of known length: collected, and when it is long received where it stays.

Most bodies come in one segment with their head and never get here. What comes in pieces is appended;
once so much has come that the rest will be much, memory for the whole is taken and the kernel writes
the rest straight into it. So a byte of a long body is not copied on its way to the application, a
promise that is not kept costs no more than what came, and nothing grows by moving.
"""

import asyncio
from typing import Final, Protocol

import numpy as np

LONG_BYTES: Final = 256 * 1024
"""As much as uvloop reads at once. A body is long when so much of it came and so much is missing."""


class SizedBody:
    """Collects a body of known length. Takes memory as bytes come, not as they are promised."""

    def __init__(self, length: int) -> None:
        self._missing = length
        self._came = bytearray()
        self._whole: memoryview | None = None

    @property
    def is_long(self) -> bool:
        return self._missing >= LONG_BYTES <= len(self._came)

    def feed(self, data: bytes) -> bytes | None:
        """Takes the next bytes; what follows the body once it is complete, None until then."""
        self._came += data[: self._missing]
        rest = data[self._missing :] if len(data) >= self._missing else None
        self._missing -= len(data)
        return rest

    def place(self) -> memoryview:
        """Where the missing bytes belong. After the first call nothing may be fed."""
        if self._whole is None:
            came, self._came = self._came, bytearray()
            # Not zeroed: pages that no byte was written to are no memory.
            self._whole = np.empty(len(came) + self._missing, dtype=np.uint8).data
            self._whole[: len(came)] = came
        return self._whole[len(self._whole) - self._missing :]

    def placed(self, count: int) -> bool:
        """Takes `count` bytes that were written to their place; whether they were the last."""
        self._missing -= count
        return self._missing == 0

    def content(self) -> bytearray | memoryview:
        return self._came if self._whole is None else self._whole


class Directed(Protocol):
    """The connection whose body is received."""

    def place_for_body(self) -> memoryview: ...
    def body_placed(self, count: int) -> None: ...
    def eof_received(self) -> bool | None: ...
    def connection_lost(self, exc: Exception | None) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...


class DirectReceiver(asyncio.BufferedProtocol):
    """Stands in for a connection at its transport while a long body comes.

    It does not know the body: uvloop keeps it for as long as the connection is open.
    """

    def __init__(self, connection: Directed) -> None:
        self._connection = connection
        self.eof_received = connection.eof_received  # type: ignore[method-assign]
        self.connection_lost = connection.connection_lost  # type: ignore[method-assign]
        self.pause_writing = connection.pause_writing  # type: ignore[method-assign]
        self.resume_writing = connection.resume_writing  # type: ignore[method-assign]

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._connection.place_for_body()

    def buffer_updated(self, nbytes: int) -> None:
        self._connection.body_placed(nbytes)

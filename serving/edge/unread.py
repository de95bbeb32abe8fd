"""What a client leaves unread, as the kernel counts it: for connections whose transport does not tell.

uvloop's transport for TLS counts what it has not encrypted yet. What it handed on waits below it, where
it says that all is well again: `pause_writing` is taken back however little the client reads. So the
write deadline of such a connection is kept by the kernel's own figures: bytes that cannot be sent, while
none of those before them is acknowledged.
"""

import asyncio
import socket
import struct
from typing import Final

_TCP_INFO: Final[int | None] = getattr(socket, "TCP_INFO", None)
_ACKNOWLEDGED: Final = struct.Struct("=Q")
_ACKNOWLEDGED_AT: Final = 120
"""tcpi_bytes_acked of struct tcp_info, Linux 4.2."""
_UNSENT: Final = struct.Struct("=I")
_UNSENT_AT: Final = 144
"""tcpi_notsent_bytes, Linux 4.6."""
_BYTES: Final = _UNSENT_AT + _UNSENT.size


class UnreadBytes:
    """Of one connection. Where the kernel does not say, nothing is ever left unread."""

    def __init__(self, transport: asyncio.BaseTransport) -> None:
        self._socket = transport.get_extra_info("socket")
        self._acknowledged = -1
        self._since = 0

    def waited_ticks(self, tick: int) -> int:
        """For how long the client has taken nothing although something waits for it."""
        unsent, acknowledged = self._figures()
        if not unsent or acknowledged != self._acknowledged:
            self._acknowledged, self._since = acknowledged, tick
        return tick - self._since

    def _figures(self) -> tuple[int, int]:
        if self._socket is None or _TCP_INFO is None:
            return 0, 0
        try:
            facts = self._socket.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _BYTES)
        except OSError:  # It has gone.
            return 0, 0
        if len(facts) < _BYTES:
            return 0, 0
        (unsent,) = _UNSENT.unpack_from(facts, _UNSENT_AT)
        (acknowledged,) = _ACKNOWLEDGED.unpack_from(facts, _ACKNOWLEDGED_AT)
        return unsent, acknowledged

"""TLS as hostile callers speak it: every byte of it in the caller's hand, so that it can be cut anywhere."""

import contextlib
import socket
import ssl
from typing import Final

_PIECE_BYTES: Final = 1 << 16


class Tunnel:
    """TLS over a connected socket, used like one; `sealed` gives what `sendall` would send."""

    def __init__(self, plain: socket.socket, context: ssl.SSLContext) -> None:
        self._plain = plain
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="127.0.0.1")
        self._received = bytearray()
        self._has_ended = False

    def fileno(self) -> int:
        return self._plain.fileno()

    # -- the handshake -------------------------------------------------------------------------------

    def hello(self) -> bytes:
        """What the handshake begins with."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.do_handshake()
        return self._outgoing.read()

    def shake(self) -> None:
        """The whole of it. Raises OSError when the server does not want it."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                self._feed()
            else:
                self._flush()
                return

    @property
    def protocol(self) -> str | None:
        """What was agreed upon by ALPN."""
        return self._tls.selected_alpn_protocol()

    # -- as a socket ---------------------------------------------------------------------------------

    def sealed(self, raw: bytes) -> bytes:
        """The records of these bytes, which count as sent."""
        self._tls.write(raw)
        return self._outgoing.read()

    def sendall(self, raw: bytes) -> None:
        self._plain.sendall(self.sealed(raw) if raw else b"")

    def send_raw(self, records: bytes) -> None:
        """Records as they are, or what is left of them; nothing when the server has gone."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._plain.sendall(records)

    def pending(self) -> bool:
        """Whether there is something to read that came already."""
        return bool(self._received)

    def recv(self, count: int) -> bytes:
        """Nothing at the end, with close_notify or without. Raises BlockingIOError when what came holds
        nothing to read."""
        if not self._received and not self._has_ended:
            self._feed()
            self._drain()
            self._flush()
            if not self._received and not self._has_ended:
                raise BlockingIOError
        taken = bytes(self._received[:count])
        del self._received[:count]
        return taken

    def goodbye(self) -> bytes:
        """The record that says that nothing more will come, from this side."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.unwrap()
        return self._outgoing.read()

    def shutdown(self, how: int) -> None:
        self._plain.shutdown(how)

    def setsockopt(self, level: int, name: int, value: int | bytes) -> None:
        self._plain.setsockopt(level, name, value)

    def settimeout(self, seconds: float) -> None:
        self._plain.settimeout(seconds)

    def close(self) -> None:
        self._plain.close()

    # -- inside --------------------------------------------------------------------------------------

    def _feed(self) -> None:
        received = self._plain.recv(_PIECE_BYTES)
        if received:
            self._incoming.write(received)
        else:
            self._incoming.write_eof()

    def _drain(self) -> None:
        try:
            while piece := self._tls.read(_PIECE_BYTES):
                self._received += piece
        except ssl.SSLWantReadError:
            return
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            pass
        self._has_ended = True

    def _flush(self) -> None:
        if self._outgoing.pending:
            self.send_raw(self._outgoing.read())

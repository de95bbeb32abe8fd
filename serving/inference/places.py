"""Where a replica listens for frames: a Unix socket of this node, or TCP with mutual TLS.

On one node the socket is a file that only this user can open; nothing else protects it and nothing
else need. Between nodes nobody is believed without a certificate of the channel's own authority, on
either end; what that authority signs for is membership, so names are not looked at. It must be an
authority of its own: whoever it signs for can send rows to replicas, and answer for them.

Files that are replaced are used by the next connection; open ones go on.
"""

import socket
import ssl
from pathlib import Path
from typing import Final, Protocol

from serving.errors import SettingInvalid
from serving.gateway_settings import ChannelSettings

UNIX: Final = "unix:"
TLS: Final = "tls:"
BACKLOG: Final = 128


class Place(Protocol):
    """Something that gateways connect to."""

    shares_clock: bool
    """Whether gateways that come here read the same monotonic clock."""

    @property
    def address(self) -> str:
        """For `ReplicaEndpoint.address`; known once opened."""

    def open(self) -> socket.socket:
        """A listening socket that does not block. Raises OSError."""

    def receive(self, peer: socket.socket) -> socket.socket:
        """What to talk to an accepted connection through. Raises OSError, SettingInvalid."""

    def close(self) -> None:
        """Leaves nothing behind; the socket is closed by whoever has it."""


class UnixPlace:
    """A socket at `path` that only this user can reach."""

    shares_clock = True

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def address(self) -> str:
        return f"{UNIX}{self._path}"

    def open(self) -> socket.socket:
        self._path.unlink(missing_ok=True)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listening.bind(str(self._path))
            self._path.chmod(0o600)
            listening.listen(BACKLOG)
        except OSError:
            listening.close()
            raise
        listening.setblocking(False)
        return listening

    def receive(self, peer: socket.socket) -> socket.socket:
        return peer

    def close(self) -> None:
        self._path.unlink(missing_ok=True)


class TlsPlace:
    """A TCP port that the kernel chooses on `host`."""

    shares_clock = False

    def __init__(self, host: str, certificates: "ChannelCertificates") -> None:
        self._host = host
        self._certificates = certificates
        self._port = 0

    @property
    def address(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{TLS}{host}:{self._port}"

    def open(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        listening = socket.create_server((self._host, 0), family=family, backlog=BACKLOG)
        self._port = listening.getsockname()[1]
        listening.setblocking(False)
        return listening

    def receive(self, peer: socket.socket) -> socket.socket:
        peer.setblocking(False)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._certificates.server().wrap_socket(
            peer, server_side=True, do_handshake_on_connect=False
        )

    def close(self) -> None:
        """The port goes with its socket."""


class ChannelCertificates:
    """What both ends of the channel show, and whom they believe. Not for several threads."""

    def __init__(self, settings: ChannelSettings) -> None:
        """Raises SettingInvalid when a file is not named."""
        files = (settings.certificate, settings.key, settings.client_ca)
        if None in files:
            raise SettingInvalid(
                "channel.listen: tls needs channel.certificate, channel.key and channel.client_ca"
            )
        self._certificate, self._key, self._authority = [file for file in files if file is not None]
        self._contexts: dict[int, tuple[tuple[int, ...], ssl.SSLContext]] = {}

    def server(self) -> ssl.SSLContext:
        """For the replica's end. Raises SettingInvalid when the files cannot be used."""
        return self._context(ssl.PROTOCOL_TLS_SERVER)

    def client(self) -> ssl.SSLContext:
        """For the gateway's end. Raises SettingInvalid when the files cannot be used."""
        return self._context(ssl.PROTOCOL_TLS_CLIENT)

    def _context(self, protocol: int) -> ssl.SSLContext:
        try:
            files = (self._certificate, self._key, self._authority)
            seen = tuple(file.stat().st_mtime_ns for file in files)
            known = self._contexts.get(protocol)
            if known is None or known[0] != seen:
                known = self._contexts[protocol] = (seen, self._make(protocol))
        except (OSError, ValueError) as error:
            raise SettingInvalid(f"the files of the channel cannot be used: {error}") from error
        return known[1]

    def _make(self, protocol: int) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(self._certificate, self._key, password=_no_password)
        context.load_verify_locations(self._authority)
        return context


def channel_certificates(settings: ChannelSettings) -> ChannelCertificates | None:
    """What the channel needs; None where it stays on one node."""
    return ChannelCertificates(settings) if settings.listen == "tls" else None


def _no_password() -> str:
    """Instead of OpenSSL's question on the terminal."""
    return ""

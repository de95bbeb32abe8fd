"""TLS for the edge's own ports: a context whose certificate follows its files.

At least TLS 1.2, the system's OpenSSL defaults for ciphers, no renegotiation, no compression. When
the files change, the next handshakes use the new certificate and open connections go on with the old
one. A pair that cannot be used (half written, another key) changes nothing; it is logged once and
looked at again when the files change again. OpenSSL refuses nothing about the times of our own
certificate: an expired one is used, and clients turn it down; the metric tells its end.

With authorities for clients named, a client that shows a certificate must show one of theirs;
`required` turns away those that show none. Sessions are resumed with the context that they began
with, so nobody gets past an authority that was removed.
"""

import ssl
from datetime import datetime
from pathlib import Path

import structlog

from serving.access.certificates import valid_until
from serving.errors import SettingInvalid
from serving.tls_settings import TlsFiles

logger = structlog.get_logger()

Signature = tuple[tuple[int, int, int], ...]


class ServerTls:
    """The context of one port. Made once; `follow` is called now and then."""

    def __init__(self, files: TlsFiles, *, port: str, protocol: str = "http/1.1") -> None:
        """port: the group of settings, for messages. protocol: what is spoken inside, as ALPN
        names it. Raises SettingInvalid."""
        self._files = files
        self._port = port
        self._protocol = protocol
        self._seen = self._signature()
        self.context = self._make()
        self.not_after = self._not_after()

    def follow(self) -> bool:
        """Whether files that changed are in use from now on."""
        try:
            seen = self._signature()
            if seen == self._seen:
                return False
            self._seen = seen
            context, not_after = self._make(), self._not_after()
        except SettingInvalid as error:
            logger.warning("the new certificate cannot be used", port=self._port, why=error.message)
            return False
        self.context, self.not_after = context, not_after
        logger.info("certificate replaced", port=self._port, until=self.not_after.isoformat())
        return True

    def _make(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
        context.set_alpn_protocols([self._protocol])
        self._load(context)
        if self._files.client_ca is not None:
            required = self._files.client_certificates == "required"
            context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
        return context

    def _load(self, context: ssl.SSLContext) -> None:
        files = self._files
        if files.certificate is None or files.key is None:
            raise SettingInvalid(f"{self._port}.certificate and {self._port}.key go together")
        try:
            context.load_cert_chain(files.certificate, files.key, password=_no_password)
            if files.client_ca is not None:
                context.load_verify_locations(files.client_ca)
        except (OSError, ValueError) as error:
            raise SettingInvalid(
                f"{self._port}: {files.certificate} and {files.key} are no certificate with its"
                f" unencrypted key, or the client authorities cannot be read ({error})"
            ) from error

    def _not_after(self) -> datetime:
        if self._files.certificate is None:
            raise SettingInvalid(f"{self._port}.certificate is missing")
        return valid_until(self._files.certificate)

    def _signature(self) -> Signature:
        files = (self._files.certificate, self._files.key, self._files.client_ca)
        return tuple([self._signature_of(path) for path in files if path is not None])

    def _signature_of(self, path: Path) -> tuple[int, int, int]:
        try:
            found = path.stat()
        except OSError as error:
            raise SettingInvalid(f"{self._port}: cannot read {path}: {error.strerror}") from error
        return found.st_ino, found.st_mtime_ns, found.st_size


def tls_of(files: TlsFiles, *, port: str, protocol: str = "http/1.1") -> ServerTls | None:
    """What a port speaks; None for plain text. Raises SettingInvalid."""
    return None if files.certificate is None else ServerTls(files, port=port, protocol=protocol)


def _no_password() -> str:
    """Instead of OpenSSL's question on the terminal."""
    return ""

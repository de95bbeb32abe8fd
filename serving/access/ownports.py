"""How our own processes reach the ports of this instance: where, and whom they trust there.

A port with a certificate is trusted by that very certificate, not by whoever might sign another for
some name: the file that the server shows is the file that the client reads. So any name will do, and
a self-signed certificate too. Where clients must show one, ours show the server's own pair.
"""

import ssl
from typing import Final

from serving.tls_settings import PortSettings

_ANY_ADDRESS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - translated, not bound


def host_of(port: PortSettings) -> str:
    """The address under which a caller on this machine reaches a server bound to `port.host`."""
    return _ANY_ADDRESS.get(port.host, port.host)


def url_of(port: PortSettings) -> str:
    """Where a caller on this machine reaches a port."""
    host = host_of(port)
    scheme = "http" if port.certificate is None else "https"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port.port}"


def trust_in(port: PortSettings) -> ssl.SSLContext:
    """What a client of ours trusts there, read now; nothing at all where there is no certificate.

    Raises OSError when the files cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if port.certificate is not None:
        # The certificate itself is the anchor, whoever signed it; names add nothing to that.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.check_hostname = False
        context.load_verify_locations(port.certificate)
        if port.requires_clients:
            context.load_cert_chain(port.certificate, port.key, password=lambda: "")
    return context

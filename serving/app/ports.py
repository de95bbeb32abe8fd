"""What the ports with TLS tell Prometheus: when their certificates end, how many never got in."""

from collections.abc import Mapping
from typing import Protocol

from serving.edge.tls import ServerTls
from serving.telemetry.families import CERTIFICATE_EXPIRY, FAILED_HANDSHAKES
from serving.telemetry.metrics import MetricFamilies


class TlsPort(Protocol):
    """A server that may speak TLS."""

    @property
    def tls(self) -> ServerTls | None: ...
    @property
    def failed_handshakes(self) -> int: ...


def read_ports(families: MetricFamilies, ports: Mapping[str, TlsPort]) -> None:
    """ports: by group of settings. Without TLS a port has no series."""
    families.read(
        CERTIFICATE_EXPIRY,
        lambda: {
            (name,): port.tls.not_after.timestamp()
            for name, port in ports.items()
            if port.tls is not None
        },
    )
    families.read(
        FAILED_HANDSHAKES,
        lambda: {
            (name,): port.failed_handshakes for name, port in ports.items() if port.tls is not None
        },
    )

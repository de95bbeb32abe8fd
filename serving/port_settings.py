"""The four ports: what listens where, and the limits of each protocol."""

from typing import Annotated

from pydantic import Field, model_validator

from serving.setting_types import Bytes, Count, Port, Seconds
from serving.tls_settings import PortSettings


class HttpSettings(PortSettings):
    """The inference port and the limits of its protocol (RELIABILITY, default limits)."""

    port: Port = 8000
    """Inference over HTTP."""
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    """Gateway worker processes; each has its own event loop, port share and log."""
    max_connections: Count = 10_000
    """Per worker; one more is refused with 503."""
    backlog: Count = 1024
    """Connections the kernel holds before they are accepted."""
    max_request_line_bytes: Bytes = 8 * 1024
    """A longer request line is answered 414."""
    max_head_bytes: Bytes = 32 * 1024
    """Request line and headers together; above it 431."""
    max_header_count: Count = 100
    """More headers are answered 431."""
    max_header_bytes: Bytes = 8 * 1024
    """One header, name and value; `Authorization` may use the whole head."""
    max_body_bytes: Bytes = 16 * 1024 * 1024
    """A larger body is answered 413, before it is read where it is announced."""
    max_unpacked_bytes: Bytes = 64 * 1024 * 1024
    """A compressed body that unpacks to more is answered 413."""
    max_unpack_ratio: Count = 100
    """A body that unpacks to more than a MiB and to this many times its size is answered 413."""
    max_buffered_bytes: Bytes = 256 * 1024 * 1024
    """Request bodies being received by all connections of a worker; one that would exceed it is
    refused with 503."""
    head_timeout_s: Seconds = 5.0
    """From the first byte of a request to the end of its head; then 408."""
    body_timeout_s: Seconds = 30.0
    """From the end of the head to the end of the body; then 408."""
    min_body_bytes_per_s: Count = 1024
    """A body slower than this over its whole time is given up with 408."""
    idle_timeout_s: Seconds = 60.0
    """A connection without a request is closed after this."""
    write_timeout_s: Seconds = 30.0
    """A client that does not take its answer is cut off after this."""
    refusals_per_s: Annotated[float, Field(gt=0)] = 100.0
    """Refused credentials of one source that are answered at once, per worker; further ones wait."""
    max_refusal_delay_s: Seconds = 2.0
    """No answer to a refused credential waits for longer."""
    head_cache_entries: Count = 4096
    """Distinct request heads whose parse is remembered per worker."""


class GrpcSettings(PortSettings):
    """The inference port over gRPC and the limits of its protocol. All limits are per worker."""

    port: Port = 8001
    """Inference over gRPC."""
    max_message_bytes: Bytes = 16 * 1024 * 1024
    """A larger message, compressed or not, is refused with RESOURCE_EXHAUSTED."""
    max_metadata_bytes: Bytes = 32 * 1024
    """All metadata of a call together; above it RESOURCE_EXHAUSTED."""
    max_calls: Count = 4096
    """Calls of known callers being received or answered; one more is refused with
    RESOURCE_EXHAUSTED. A quarter of it, beside them, for calls without a credential."""
    max_streams_per_connection: Count = 1024
    """Calls in flight on one connection; the client waits with more."""
    max_connections: Count = 10_000
    """Per worker; one more is closed."""
    backlog: Count = 1024
    """Connections the kernel holds before they are accepted, and handshakes at once."""
    max_buffered_bytes: Bytes = 256 * 1024 * 1024
    """Messages being received by all calls of a worker; a call that would exceed it is refused with
    UNAVAILABLE."""
    max_health_watches: Count = 64
    """Open `Watch` calls of the health service, which need no token; one more is refused."""
    keepalive_s: Seconds = 60.0
    """A silent connection is asked for a sign of life after this."""
    keepalive_timeout_s: Seconds = 20.0
    """A connection that gives none for this long is closed."""
    min_ping_interval_s: Seconds = 10.0
    """A client that pings an idle connection more often is cut off."""
    idle_timeout_s: Seconds = 300.0
    """A connection without a call is closed after this."""
    head_timeout_s: Seconds = 5.0
    """For a TLS handshake, the preface of a connection, and each head; then it is closed."""
    body_timeout_s: Seconds = 30.0
    """From the head of a call with one message to the end of that; then DEADLINE_EXCEEDED."""
    min_body_bytes_per_s: Count = 1024
    """A message slower than this over its whole time is given up with DEADLINE_EXCEEDED."""
    write_timeout_s: Seconds = 30.0
    """A client that does not take its answers is cut off after this."""
    refusals_per_s: Annotated[float, Field(gt=0)] = 100.0
    """Refused credentials of one source that are answered at once, per worker; further ones wait."""
    max_refusal_delay_s: Seconds = 2.0
    """No answer to a refused credential waits for longer; a quarter of `max_calls` may wait."""


class MetricsSettings(PortSettings):
    """Prometheus metrics of every process, on one port."""

    port: Port = 8002
    """`GET /metrics` for Prometheus."""


class ControlSettings(PortSettings):
    """The control port and the leases of replicas."""

    port: Port = 8003
    """Status, snapshots and leases."""
    lease_s: Seconds = 10.0
    """A replica that has not renewed for this long is no longer published."""
    renew_s: Seconds = 2.0
    """How often a replica renews its lease; at most half of `lease_s`."""
    reconcile_s: Seconds = 1.0
    """How often the desired state is compared with what Ray Serve reports."""
    drain_s: Seconds = 5.0
    """A version that lost its traffic stays published for so long, for the calls it has."""
    ready_timeout_s: Seconds = 180.0
    """`serving up` gives up when the models are not ready by then."""

    @model_validator(mode="after")
    def _renewed_in_time(self) -> "ControlSettings":
        if self.renew_s * 2 > self.lease_s:
            raise ValueError("control.renew_s must be at most half of control.lease_s")
        return self

"""The gRPC server of a gateway worker: its calls, its port, its limits, and how it drains.

gRPC over our own HTTP/2 (`serving.edge.http2.server`) on the worker's event loop; workers share the
port (SO_REUSEPORT). The library's server on asyncio answered 2,464 calls a second with the worker's
whole path behind it, most of it spent in its own threads, tasks and futures: rejected.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from serving.access.certificates import Credential
from serving.access.tokens import Authenticator
from serving.core.principals import Principal
from serving.edge.grpc.calls import OpenCalls
from serving.edge.grpc.facts import SERVICE, FactCalls
from serving.edge.grpc.gate import Gate, Method
from serving.edge.grpc.health import SERVICE as HEALTH_SERVICE
from serving.edge.grpc.health import Health, Readiness
from serving.edge.grpc.infer import InferCalls, Reception
from serving.edge.grpc.messages import MessageVersions
from serving.edge.grpc.reflection import reflection_methods
from serving.edge.grpc.refusals import RefusedCalls
from serving.edge.grpc.stream import StreamCalls
from serving.edge.guesses import Guesses
from serving.edge.http2.server import Http2Limits, Http2Server
from serving.edge.tls import ServerTls, tls_of
from serving.errors import AddressInUse, ServingError
from serving.gateway.pipeline import Pipeline
from serving.port_settings import GrpcSettings
from serving.telemetry.families import GatewayMetrics

SERVICES: Final = (SERVICE, HEALTH_SERVICE)

WINDOW_BYTES: Final = 256 * 1024
"""Of one call that a client may send before we have looked at it: a round trip of 2 ms at 1 Gbit/s."""

_HELD_PART: Final = 4
"""Refused calls that wait may take one in so many of the places for calls."""


@dataclass(frozen=True, slots=True)
class Calls:
    """All that a server can be called for. held: the refused ones whose answers wait."""

    reception: Reception
    streams: StreamCalls
    facts: FactCalls
    health: Health
    held: RefusedCalls

    def methods(self) -> dict[str, Method]:
        return {
            **InferCalls(self.reception).methods(),
            **self.streams.methods(),
            **self.facts.methods(),
            **self.health.methods(),
            **reflection_methods(SERVICES),
        }

    def drain(self) -> None:
        """What has no end of its own ends."""
        self.health.drain()
        self.streams.drain()
        self.held.drain()


class GrpcServer:
    """Serves inference, facts, health and reflection. Made by `of`, on the loop that it runs on."""

    def __init__(
        self,
        calls: Calls,
        *,
        authenticate: Callable[[Credential], Principal],
        settings: GrpcSettings,
    ) -> None:
        pipeline = calls.reception.pipeline
        self._settings = settings
        self._calls = calls
        self.versions = calls.reception.versions
        self.held = calls.held
        gate = Gate(
            calls.methods(),
            authenticate=authenticate,
            calls=OpenCalls(
                most=settings.max_calls,
                max_message_bytes=settings.max_message_bytes,
                max_buffered_bytes=settings.max_buffered_bytes,
                refused=calls.reception.refused,
                now_ns=pipeline.now_ns,
            ),
            held=calls.held,
        )
        self._http2 = Http2Server(gate, limits=limits_of(settings), refused=calls.reception.refused)

    @classmethod
    def of(
        cls,
        pipeline: Pipeline,
        *,
        authenticator: Authenticator,
        readiness: Readiness,
        metrics: GatewayMetrics,
        now_s: Callable[[], float],
        settings: GrpcSettings,
    ) -> "GrpcServer":
        """The server of one worker. now_s: wall time."""

        def refused(error: ServingError) -> None:
            metrics.refused(error.code)

        reception = Reception(pipeline, MessageVersions(), refused)
        calls = Calls(
            reception,
            StreamCalls(reception),
            FactCalls(pipeline, readiness=readiness, metrics=metrics, now_s=now_s),
            Health(readiness, services=SERVICES, max_watches=settings.max_health_watches),
            RefusedCalls(
                Guesses(per_s=settings.refusals_per_s, longest_s=settings.max_refusal_delay_s),
                most=settings.max_calls // _HELD_PART,
                now_s=lambda: pipeline.now_ns() / 1e9,
            ),
        )
        return cls(
            calls,
            authenticate=lambda credential: authenticator.authenticate(credential, now_s()),
            settings=settings,
        )

    @property
    def connections(self) -> int:
        return self._http2.connections

    @property
    def tls(self) -> ServerTls | None:
        return self._http2.tls

    @property
    def failed_handshakes(self) -> int:
        return self._http2.failed_handshakes

    async def listen(self) -> None:
        """Raises AddressInUse, or SettingInvalid for certificates that are none."""
        settings = self._settings
        tls = tls_of(settings, port="grpc", protocol="h2")
        try:
            await self._http2.listen(
                host=settings.host, port=settings.port, reuse_port=True, tls=tls
            )
        except OSError as error:
            raise AddressInUse(
                f"grpc.port {settings.port} on {settings.host} cannot be used: {error}"
            ) from error

    async def aclose(self, *, drain_s: float) -> None:
        """No new call; those that run are answered, for at most `drain_s`. Harmless when repeated."""
        self._calls.drain()
        await self._http2.aclose(drain_s=drain_s)


def limits_of(settings: GrpcSettings) -> Http2Limits:
    """The transport's part of them."""
    return Http2Limits(
        max_header_list_bytes=settings.max_metadata_bytes,
        max_streams=settings.max_streams_per_connection,
        max_connections=settings.max_connections,
        window_bytes=WINDOW_BYTES,
        head_timeout_s=settings.head_timeout_s,
        body_timeout_s=settings.body_timeout_s,
        min_body_bytes_per_s=settings.min_body_bytes_per_s,
        write_timeout_s=settings.write_timeout_s,
        idle_timeout_s=settings.idle_timeout_s,
        keepalive_s=settings.keepalive_s,
        keepalive_timeout_s=settings.keepalive_timeout_s,
        min_ping_interval_s=settings.min_ping_interval_s,
        backlog=settings.backlog,
    )

"""The gRPC server of a gateway worker: its port, its limits, TLS, reflection, and how it drains.

`grpc.aio` on the worker's own event loop, which must be the only one of the process that uses it
(grpc/grpc#42357: its poller belongs to one loop). Workers share the port (SO_REUSEPORT). Answers are not
compressed; gzip and deflate messages are taken, and count against the limit as they come out.

Measured on one core: 6,000 unary calls a second of this library with nothing behind them. Receiving
the message in the call instead, as a stream of one, would bound how long it may take to arrive, and
leaves 3,600: rejected. What is being received is bounded by `max_calls` times `max_message_bytes`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc  # type: ignore[import-untyped]  # it ships no types
from google.protobuf.descriptor_pool import DescriptorPool  # type: ignore[import-untyped]
from grpc import aio
from grpc_health.v1 import health_pb2  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection, reflection_pb2  # type: ignore[import-untyped]

from serving.access.tokens import Authenticator
from serving.edge import grpc_health, inference_pb2
from serving.edge.grpc_facts import SERVICE, FactCalls
from serving.edge.grpc_gate import Gate, Method, shown, shown_with_certificate
from serving.edge.grpc_health import Health, Readiness
from serving.edge.grpc_infer import InferCalls, Reception
from serving.edge.grpc_messages import MessageVersions
from serving.edge.grpc_refusals import RefusedCalls
from serving.edge.grpc_stream import StreamCalls
from serving.edge.guesses import Guesses
from serving.edge.tls import ServerTls
from serving.errors import AddressInUse, ServingError, SettingInvalid
from serving.gateway.pipeline import Pipeline
from serving.port_settings import GrpcSettings
from serving.telemetry.families import GatewayMetrics

SERVICES: Final = (SERVICE, grpc_health.SERVICE)

_HELD_PART: Final = 4
"""Refused calls that wait may take one in so many of the places for calls."""

_REFLECTIONS: Final = ("grpc.reflection.v1", "grpc.reflection.v1alpha")
"""The two differ in their names only."""


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
            **_reflection(),
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
        calls: "Calls",
        *,
        authenticator: Authenticator,
        now_s: Callable[[], float],
        settings: GrpcSettings,
    ) -> None:
        """now_s: wall time."""
        self._settings = settings
        self._calls = calls
        self._server: Any = None
        self._fresh: Any = None
        self.tls: ServerTls | None = None
        """From `listen` on, of a port with a certificate; who owns this calls `follow`."""
        self.failed_handshakes: int | None = None
        """The library keeps them to itself."""
        self.versions = calls.reception.versions
        self.held = calls.held
        self._gate = Gate(
            calls.methods(),
            authenticate=lambda credential: authenticator.authenticate(credential, now_s()),
            refused=calls.reception.refused,
            hold=calls.held.hold,
            certified=settings.client_ca is not None,
        )

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
        show = shown if settings.client_ca is None else shown_with_certificate

        def refused(error: ServingError) -> None:
            metrics.refused(error.code)

        reception = Reception(pipeline, MessageVersions(), show, refused)
        calls = Calls(
            reception,
            StreamCalls(reception),
            FactCalls(
                pipeline,
                readiness=readiness,
                metrics=metrics,
                now_s=now_s,
                authenticate=lambda context: authenticator.authenticate(show(context), now_s()),
                refused=refused,
            ),
            Health(
                readiness,
                services=SERVICES,
                max_watches=settings.max_health_watches,
                refused=refused,
            ),
            RefusedCalls(
                Guesses(per_s=settings.refusals_per_s, longest_s=settings.max_refusal_delay_s),
                most=settings.max_calls // _HELD_PART,
                now_s=lambda: pipeline.now_ns() / 1e9,
            ),
        )
        return cls(calls, authenticator=authenticator, now_s=now_s, settings=settings)

    async def listen(self) -> None:
        """Raises AddressInUse, or SettingInvalid for certificates that are none."""
        settings = self._settings
        self._server = aio.server(
            options=_options(settings), maximum_concurrent_rpcs=settings.max_calls
        )
        self._server.add_generic_rpc_handlers((self._gate,))
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        try:
            if settings.certificate is None:
                self._server.add_insecure_port(f"{host}:{settings.port}")
            else:
                self._server.add_secure_port(f"{host}:{settings.port}", self._credentials())
        except RuntimeError as error:
            raise AddressInUse(
                f"grpc.port {settings.port} on {settings.host} cannot be used: {error}"
            ) from error
        await self._server.start()

    def follow(self) -> None:
        """Uses a certificate that was replaced from the next handshake on."""
        if self.tls is not None and self.tls.follow():
            self._fresh = _configuration(self._settings)

    async def aclose(self, *, drain_s: float) -> None:
        """No new call; those that run are answered, for at most `drain_s`. Harmless when repeated."""
        self._calls.drain()
        if self._server is not None:
            await self._server.stop(drain_s)

    def _credentials(self) -> Any:
        self.tls = ServerTls(self._settings, port="grpc")
        return grpc.dynamic_ssl_server_credentials(
            _configuration(self._settings),
            self._take_fresh,
            require_client_authentication=self._settings.requires_clients,
        )

    def _take_fresh(self) -> Any:
        """What the library asks before each handshake, on threads of its own; None for no news."""
        fresh, self._fresh = self._fresh, None
        return fresh


def _options(settings: GrpcSettings) -> list[tuple[str, int]]:
    limit = settings.max_metadata_bytes
    return [
        ("grpc.so_reuseport", 1),
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        # An answer is as large as the model makes it.
        ("grpc.max_send_message_length", -1),
        # The soft limit equals the hard one: between them calls would be refused at random.
        ("grpc.max_metadata_size", limit),
        ("grpc.absolute_max_metadata_size", limit),
        ("grpc.max_concurrent_streams", settings.max_streams_per_connection),
        ("grpc.keepalive_time_ms", round(settings.keepalive_s * 1000)),
        ("grpc.keepalive_timeout_ms", round(settings.keepalive_timeout_s * 1000)),
        (
            "grpc.http2.min_ping_interval_without_data_ms",
            round(settings.min_ping_interval_s * 1000),
        ),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.max_connection_idle_ms", round(settings.idle_timeout_s * 1000)),
    ]


def _configuration(settings: GrpcSettings) -> Any:
    chain, key = _read(settings, "certificate"), _read(settings, "key")
    authorities = None if settings.client_ca is None else _read(settings, "client_ca")
    return grpc.ssl_server_certificate_configuration([(key, chain)], root_certificates=authorities)


def _read(settings: GrpcSettings, name: str) -> bytes:
    path: Path = getattr(settings, name)
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingInvalid(f"grpc.{name} = {path}: {error.strerror}") from error


def _reflection() -> dict[str, Method]:
    pool = DescriptorPool()
    for module in (inference_pb2, health_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    servicer = reflection.aio.ReflectionServicer(SERVICES, pool)
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    return {
        f"/{package}.ServerReflection/ServerReflectionInfo": Method(handler, asks=False)
        for package in _REFLECTIONS
    }

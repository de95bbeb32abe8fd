"""`grpc.health.v1`: whether the server, or its inference service, can answer now.

Open to all, as probes have no token. A watcher is told of a change within `POLL_S`, and let go when
the server drains, so that it does not hold up the end.
"""

import asyncio
import contextlib
from typing import Any, Final, Protocol

from grpc_health.v1 import health_pb2  # type: ignore[import-untyped]  # ships no types

from serving.core.batches import Buffer
from serving.edge.grpc.context import Context
from serving.edge.grpc.gate import Method, step, streaming
from serving.edge.grpc.messages import parse
from serving.errors import ConnectionsFull, MessageInvalid, NotFound

SERVICE: Final = "grpc.health.v1.Health"
POLL_S: Final = 0.25

_STATUS: Final = health_pb2.HealthCheckResponse.ServingStatus


class Readiness(Protocol):
    """What the health service asks."""

    def not_ready(self) -> str | None:
        """Why predictions cannot be served right now, or None."""


class Health:
    """Answers `Check` and `Watch` for the whole server, the empty name, and each of `services`."""

    def __init__(
        self, readiness: Readiness, *, services: tuple[str, ...], max_watches: int
    ) -> None:
        self._readiness = readiness
        self._services = frozenset({"", *services})
        self._max_watches = max_watches
        self._watches = 0
        self._draining = asyncio.Event()

    def methods(self) -> dict[str, Method]:
        return {
            f"/{SERVICE}/Check": step(self._check, open=True),
            f"/{SERVICE}/Watch": streaming(self._watch, open=True),
        }

    def drain(self) -> None:
        """From here on nothing is served."""
        self._draining.set()

    def _check(self, message: Buffer, _principal: object) -> bytes:
        service = _service_of(message)
        if service not in self._services:
            raise NotFound("there is no such service here")
        return _answer(self._status(service))

    async def _watch(self, context: Context) -> None:
        if self._watches >= self._max_watches:
            raise ConnectionsFull("too many are watching already")
        self._watches += 1
        try:
            await self._tell(_service_of(await context.read()), context)
        finally:
            self._watches -= 1

    async def _tell(self, service: str, context: Context) -> None:
        told = None
        while True:
            draining = self._draining.is_set()
            status = self._status(service)
            if status != told:
                await context.write(_answer(status))
                told = status
            if draining:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self._draining.wait()

    def _status(self, service: str) -> Any:
        if service not in self._services:
            return _STATUS.SERVICE_UNKNOWN
        serving = not self._draining.is_set() and self._readiness.not_ready() is None
        return _STATUS.SERVING if serving else _STATUS.NOT_SERVING


def _answer(status: Any) -> bytes:
    encoded: bytes = health_pb2.HealthCheckResponse(status=status).SerializeToString()
    return encoded


def _service_of(message: Buffer | None) -> str:
    """The service asked about. Raises MessageInvalid."""
    if message is None:
        raise MessageInvalid("a message must follow")
    service: str = parse(message, health_pb2.HealthCheckRequest).service
    return service

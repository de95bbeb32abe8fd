"""Routes of the control port, and of the introspection socket that every process has.

Replicas and gateways show the secret that our own processes share; people show an operator's token.
Nothing here is served without one of the two. The introspection socket asks for nothing: only this
user can open it.
"""

from collections.abc import Callable
from typing import Any, Final, Protocol, TypeVar

import msgspec

from serving.access.authorization import authorize_operation
from serving.access.keys import carries_secret
from serving.core.clock import Clock
from serving.core.principals import Principal
from serving.core.traffic import Snapshot
from serving.edge.routes import Reply, Request, Route
from serving.errors import ParameterInvalid, RequestInvalid, Unauthenticated
from serving.inference.registration import PhaseReport, Renewal

MAX_WAIT_S: Final = 30.0

Message = TypeVar("Message")


class ControlPlane(Protocol):
    """What the control port talks to: `control.plane.Plane`."""

    async def snapshot(self, after: int, *, wait_s: float) -> Snapshot | None: ...
    def renew(self, renewal: Renewal) -> float: ...
    def leave(self, replica: str) -> None: ...
    def report_phase(self, report: PhaseReport) -> None: ...
    def status(self) -> Any: ...


class Authentication(Protocol):
    """Verifies an operator's token: `access.tokens.Authenticator`."""

    def authenticate(self, authorization: bytes | None, now_s: float) -> Principal: ...


class ControlRoutes:
    """The control port: `routes()` is its whole table."""

    def __init__(
        self, plane: ControlPlane, *, authentication: Authentication, secret: str, clock: Clock
    ) -> None:
        self._plane = plane
        self._authentication = authentication
        self._secret = secret
        self._clock = clock

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/internal/snapshot", self._snapshot),
            Route("PUT", "/internal/endpoints/{replica}", self._renew),
            Route("DELETE", "/internal/endpoints/{replica}", self._leave),
            Route("PUT", "/internal/phases/{replica}", self._report_phase),
            Route("GET", "/v1/status", self._status),
        ]

    async def _snapshot(self, request: Request) -> Reply:
        self._require_secret(request)
        after = _number(request, "after", default=0)
        wait_s = min(_number(request, "wait_s", default=0), MAX_WAIT_S)
        snapshot = await self._plane.snapshot(int(after), wait_s=wait_s)
        return Reply(204) if snapshot is None else _json(snapshot)

    def _renew(self, request: Request) -> Reply:
        self._require_secret(request)
        renewal = _decode(request, Renewal)
        if renewal.endpoint.replica != request.arguments["replica"]:
            raise ParameterInvalid("the path and the body name different replicas")
        return _json({"lease_s": self._plane.renew(renewal)})

    def _leave(self, request: Request) -> Reply:
        self._require_secret(request)
        self._plane.leave(request.arguments["replica"])
        return _json({})

    def _report_phase(self, request: Request) -> Reply:
        self._require_secret(request)
        self._plane.report_phase(_decode(request, PhaseReport))
        return _json({})

    def _status(self, request: Request) -> Reply:
        authorization = request.headers.get(b"authorization")
        if not carries_secret(authorization, self._secret):
            now_s = self._clock.wall_ns() / 1e9
            authorize_operation(self._authentication.authenticate(authorization, now_s))
        return _json(self._plane.status())

    def _require_secret(self, request: Request) -> None:
        if not carries_secret(request.headers.get(b"authorization"), self._secret):
            raise Unauthenticated("this path is for the product's own processes")


def introspection_routes(
    *, status: Callable[[], Any], metrics: Callable[[bytes], tuple[bytes, str]]
) -> list[Route]:
    """status: encoded as JSON. metrics: the exposition and its type for an `Accept` header."""

    def show_metrics(request: Request) -> Reply:
        body, content_type = metrics(request.headers.get(b"accept", b""))
        return Reply(200, body, content_type)

    return [
        Route("GET", "/status", lambda _request: _json(status())),
        Route("GET", "/metrics", show_metrics),
    ]


def _json(value: object) -> Reply:
    return Reply(200, msgspec.json.encode(value))


def _decode(request: Request, kind: type[Message]) -> Message:
    try:
        return msgspec.json.decode(request.body, type=kind)
    except msgspec.DecodeError as error:
        raise RequestInvalid(f"the body is not a {kind.__name__}: {error}") from error


def _number(request: Request, name: str, *, default: float) -> float:
    text = request.query.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError as error:
        raise ParameterInvalid(f"{name} must be a number") from error
    if not 0 <= value < float(2**63):
        raise ParameterInvalid(f"{name} must be a number from 0")
    return value

"""Routes of the control port, and of the introspection socket that every process has.

Replicas and gateways show the secret that our own processes share; people show a token or a key.
Nothing here is served without one of the two; which route needs what is in
`serving.access.permissions`. The introspection socket asks for nothing: only this user can open it.
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import msgspec

from serving.access.authorization import OURSELVES
from serving.access.certificates import Credential, authorization_of
from serving.access.keys import carries_secret
from serving.core.clock import Clock
from serving.core.principals import Principal
from serving.core.traffic import Snapshot
from serving.edge.admin.queries import MAX_WAIT_S, number
from serving.edge.credentials import credential_of
from serving.edge.routes import Headers, Reply, Request, Route
from serving.errors import ParameterInvalid, RequestInvalid
from serving.inference.registration import PhaseReport, Renewal

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

    def authenticate(self, credential: Credential, now_s: float) -> Principal: ...


class ControlRoutes:
    """The control port: `routes()` is its whole table, `identify` the one door to it."""

    def __init__(
        self, plane: ControlPlane, *, authentication: Authentication, secret: str, clock: Clock
    ) -> None:
        self._plane = plane
        self._authentication = authentication
        self._secret = secret
        self._clock = clock

    def identify(self, headers: Headers) -> Principal:
        """Who asks: one of our own processes, or a person with a token. Raises Unauthenticated."""
        credential = credential_of(headers)
        if carries_secret(authorization_of(credential), self._secret):
            return OURSELVES
        return self._authentication.authenticate(credential, self._clock.wall_ns() / 1e9)

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/internal/snapshot", self._snapshot),
            Route("PUT", "/internal/endpoints/{replica}", self._renew),
            Route("DELETE", "/internal/endpoints/{replica}", self._leave),
            Route("PUT", "/internal/phases/{replica}", self._report_phase),
            Route("GET", "/v1/status", self._status),
        ]

    async def _snapshot(self, request: Request) -> Reply:
        after = number(request, "after", default=0)
        wait_s = min(number(request, "wait_s", default=0), MAX_WAIT_S)
        snapshot = await self._plane.snapshot(int(after), wait_s=wait_s)
        return Reply(204) if snapshot is None else _json(snapshot)

    def _renew(self, request: Request) -> Reply:
        renewal = _decode(request, Renewal)
        if renewal.endpoint.replica != request.arguments["replica"]:
            raise ParameterInvalid("the path and the body name different replicas")
        return _json({"lease_s": self._plane.renew(renewal)})

    def _leave(self, request: Request) -> Reply:
        self._plane.leave(request.arguments["replica"])
        return _json({})

    def _report_phase(self, request: Request) -> Reply:
        self._plane.report_phase(_decode(request, PhaseReport))
        return _json({})

    def _status(self, _request: Request) -> Reply:
        return _json(self._plane.status())


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

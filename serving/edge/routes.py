"""Routes for everything that is not inference: small pure steps from a request to a reply.

A route's function returns a `Reply`, or an awaitable of one (a long poll), or raises a
`ServingError`. The inference routes do not come through here: see `serving.edge.rest`.

A router with an `identify` is closed by default: whoever it does not know is told 401, on every path
and for every method, there or not, except where a route says that it is open. Only then does it
matter whether the path exists (404) and takes the method (405), and whether its caller has the
permission that the product's one table of permissions asks for (403).
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final
from urllib.parse import parse_qsl, unquote

import structlog

from serving.access.permissions import Door, Permission, RouteName, check
from serving.core.principals import Principal
from serving.edge.credentials import refuse_credentials_in
from serving.edge.http1.connection import Responder
from serving.edge.http1.heads import Head
from serving.edge.problems import problem, response
from serving.errors import InternalError, MethodNotAllowed, NotFound, ServingError, Unauthenticated

logger = structlog.get_logger()

Headers = Mapping[bytes, bytes]

NOBODY: Final = Principal(subject="", roles=frozenset())
"""Who asks where nobody was asked who they are; may do nothing."""

_GONE: Final = InternalError("the request was given up")


@dataclass(frozen=True, slots=True)
class Request:
    """One request. headers: lower-case names. arguments: the `{name}` parts of the route. source: the
    client's address, empty on a Unix socket."""

    method: str
    path: str
    query: dict[str, str]
    headers: Headers
    body: bytes
    arguments: dict[str, str] = field(default_factory=dict)
    principal: Principal = NOBODY
    source: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer of a route; `headers` come beside the content's type and length."""

    status: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


RouteFunction = Callable[[Request], Reply | Awaitable[Reply]]


@dataclass(frozen=True, slots=True)
class Route:
    """One row of the table: `path` may hold `{name}` for a whole segment, which is not empty.

    is_open: anybody may ask, even where a router knows its callers.
    """

    method: str
    path: str
    function: RouteFunction
    is_open: bool = False

    def match(self, segments: Sequence[str]) -> dict[str, str] | None:
        """The arguments when `segments` fit this path, else None."""
        pattern = self.path.split("/")[1:]
        if len(pattern) != len(segments):
            return None
        arguments = {}
        for wanted, segment in zip(pattern, segments, strict=True):
            if wanted.startswith("{") and segment:
                arguments[wanted[1:-1]] = segment
            elif wanted != segment:
                return None
        return arguments


class Router:
    """An `Application` over a table of routes; the first that fits is taken."""

    def __init__(
        self,
        routes: Sequence[Route],
        *,
        identify: Callable[[Headers], Principal] | None = None,
        permissions: Mapping[RouteName, Permission] | None = None,
        refused: Callable[[ServingError], None] = lambda _error: None,
    ) -> None:
        """identify: raises Unauthenticated; None lets everybody in. permissions: what each route
        needs, one of `serving.access.permissions`; there is no `identify` without. refused: told of
        each refusal."""
        if identify is not None and permissions is None:
            raise ValueError("who knows its callers asks what they may do. This is a bug")
        self.routes = tuple(routes)
        self._permissions = _checked(self.routes, permissions)
        self._identify = identify
        self._refused = refused
        self._running: set[asyncio.Future[Reply]] = set()

    def __call__(self, head: Head, body: bytes | memoryview, responder: Responder) -> None:
        try:
            reply = self._ask(head, bytes(body), responder.peer())
        except ServingError as error:
            self._refuse(error, responder)
        except Exception as error:  # noqa: BLE001 - outermost: the server must survive a route
            self._refuse(_unexpected(error), responder)
        else:
            self._answer(reply, responder)

    def _ask(self, head: Head, body: bytes, source: str) -> Reply | Awaitable[Reply]:
        # Segments are decoded after splitting: an encoded slash never makes another route.
        segments = [unquote(segment) for segment in head.path.split("/")[1:]]
        matches = [
            (route, arguments)
            for route in self.routes
            if (arguments := route.match(segments)) is not None
        ]
        principal = NOBODY
        is_closed = self._identify is not None and not any(route.is_open for route, _ in matches)
        if self._identify is not None and is_closed:
            refuse_credentials_in(head.query)
            principal = self._identify(head.headers)
        route, arguments = _choose(matches, head.method)
        if is_closed and self._permissions is not None:
            permission = self._permissions[route.method, route.path]
            check(permission, principal, arguments.get("model"))
        request = Request(
            method=head.method,
            path=head.path,
            query=dict(parse_qsl(head.query, keep_blank_values=True)),
            headers=head.headers,
            body=body,
            arguments=arguments,
            principal=principal,
            source=source,
        )
        return route.function(request)

    def _answer(self, reply: Reply | Awaitable[Reply], responder: Responder) -> None:
        if isinstance(reply, Reply):
            responder.send(_encode(reply))
            return
        running = asyncio.ensure_future(reply)
        self._running.add(running)
        running.add_done_callback(partial(self._finish, responder))
        responder.watch(running.cancel)

    def _finish(self, responder: Responder, running: asyncio.Future[Reply]) -> None:
        self._running.discard(running)
        if running.cancelled():
            # What happens when the client has gone; then nobody hears this answer.
            responder.send(problem(_GONE))
            return
        error = running.exception()
        if error is None:
            responder.send(_encode(running.result()))
        elif isinstance(error, ServingError):
            self._refuse(error, responder)
        else:
            self._refuse(_unexpected(error), responder)

    def _refuse(self, error: ServingError, responder: Responder) -> None:
        self._refused(error)
        if isinstance(error, Unauthenticated):
            responder.send_refusal(problem(error))
        else:
            responder.send(problem(error))


def _checked(
    routes: Sequence[Route], permissions: Mapping[RouteName, Permission] | None
) -> Mapping[RouteName, Permission] | None:
    """The permissions, once every route is found in them, and open exactly where they say so."""
    for route in routes if permissions is not None else ():
        permission = permissions.get((route.method, route.path)) if permissions else None
        if permission is None or route.is_open != (permission is Door.OPEN):
            raise ValueError(f"no permission fits {route.method} {route.path}. This is a bug")
    return permissions


def _choose(
    matches: Sequence[tuple[Route, dict[str, str]]], method: str
) -> tuple[Route, dict[str, str]]:
    """The route for the method. Raises NotFound or MethodNotAllowed."""
    if not matches:
        raise NotFound("there is nothing at this path")
    for route, arguments in matches:
        if route.method == method:
            return route, arguments
    methods = ", ".join(sorted({route.method for route, _ in matches}))
    raise MethodNotAllowed(f"use {methods} here", allowed=methods)


def _encode(reply: Reply) -> bytes:
    return response(
        reply.status, reply.body, content_type=reply.content_type, headers=reply.headers
    )


def _unexpected(error: BaseException) -> ServingError:
    logger.error("route failed", error=repr(error), exc_info=error)
    return InternalError("something went wrong here; quote the request id to the operator")

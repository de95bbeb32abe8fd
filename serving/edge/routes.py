"""Routes for everything that is not inference: small pure steps from a request to a reply.

A route's function returns a `Reply`, or an awaitable of one (a long poll), or raises a
`ServingError`. The inference routes do not come through here: see `serving.edge.rest`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final
from urllib.parse import parse_qsl, unquote

import structlog

from serving.edge.connection import Responder
from serving.edge.heads import Head
from serving.edge.problems import problem, response
from serving.errors import InternalError, MethodNotAllowed, NotFound, ServingError

logger = structlog.get_logger()

_GONE: Final = InternalError("the request was given up")


@dataclass(frozen=True, slots=True)
class Request:
    """One request. headers: lower-case names. arguments: the `{name}` parts of the route."""

    method: str
    path: str
    query: dict[str, str]
    headers: Mapping[bytes, bytes]
    body: bytes
    arguments: dict[str, str] = field(default_factory=dict)


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
    """One row of the table: `path` may hold `{name}` for a whole segment, which is not empty."""

    method: str
    path: str
    function: RouteFunction

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
    """An `Application` over a table of routes; anything not in the table is 404 or 405."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self.routes = tuple(routes)
        self._running: set[asyncio.Future[Reply]] = set()

    def __call__(self, head: Head, body: bytes | memoryview, responder: Responder) -> None:
        try:
            route, arguments = self._find(head)
            request = Request(
                method=head.method,
                path=head.path,
                query=dict(parse_qsl(head.query, keep_blank_values=True)),
                headers=head.headers,
                body=bytes(body),
                arguments=arguments,
            )
            reply = route.function(request)
        except ServingError as error:
            responder.send(problem(error))
        except Exception as error:  # noqa: BLE001 - outermost: the server must survive a route
            responder.send(problem(_unexpected(error)))
        else:
            self._answer(reply, responder)

    def _find(self, head: Head) -> tuple[Route, dict[str, str]]:
        # Segments are decoded after splitting: an encoded slash never makes another route.
        segments = [unquote(segment) for segment in head.path.split("/")[1:]]
        allowed = []
        for route in self.routes:
            arguments = route.match(segments)
            if arguments is not None and route.method == head.method:
                return route, arguments
            if arguments is not None:
                allowed.append(route.method)
        if allowed:
            methods = ", ".join(sorted(set(allowed)))
            raise MethodNotAllowed(f"use {methods} here", allowed=methods)
        raise NotFound("there is nothing at this path")

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
        # Cancelled is what happens when the client has gone; then nobody hears this answer.
        error = _GONE if running.cancelled() else running.exception()
        if error is None:
            responder.send(_encode(running.result()))
        elif isinstance(error, ServingError):
            responder.send(problem(error))
        else:
            responder.send(problem(_unexpected(error)))


def _encode(reply: Reply) -> bytes:
    return response(
        reply.status, reply.body, content_type=reply.content_type, headers=reply.headers
    )


def _unexpected(error: BaseException) -> ServingError:
    logger.error("route failed", error=repr(error), exc_info=error)
    return InternalError("something went wrong here; quote the request id to the operator")

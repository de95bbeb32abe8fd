"""Routes of the control port for those who answer for data subjects.

A subject travels in the body, never in a path: paths end up in logs. Everything here reads or writes
files, so it runs in a thread, one act at a time.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import msgspec

from serving.core.actors import Actor
from serving.edge.admin.actors import actor_of
from serving.edge.routes import Reply, Request, Route
from serving.errors import FieldUnknown, RequestInvalid

Result = TypeVar("Result")
Order = TypeVar("Order")


class ErasureOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Make everything that was recorded of `subject` unreadable."""

    subject: str
    reason: str = ""


class HoldOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Keep, or no longer keep, the records of a model or of a subject."""

    reason: str
    model: str = ""
    subject: str = ""


class Protection(Protocol):
    """The acts: `control.privacy.SubjectProtection`. Blocks."""

    def erase(self, subject: str, *, reason: str, actor: Actor) -> Any: ...
    def place_hold(self, *, model: str, subject: str, reason: str, actor: Actor) -> Any: ...
    def release(self, *, model: str, subject: str, reason: str, actor: Actor) -> Any: ...
    def holds(self) -> Sequence[Any]: ...


class PrivacyRoutes:
    """`routes()` is the part of the control port's table that is about data subjects."""

    def __init__(self, protection: Protection) -> None:
        self._protection = protection
        self._one = asyncio.Lock()

    def routes(self) -> list[Route]:
        return [
            Route("POST", "/v1/privacy/erasures", self._erase),
            Route("GET", "/v1/privacy/holds", self._list_holds),
            Route("POST", "/v1/privacy/holds", self._place_hold),
            Route("POST", "/v1/privacy/holds/release", self._release),
        ]

    async def _erase(self, request: Request) -> Reply:
        order = _order(request, ErasureOrder)
        actor = actor_of(request)
        return await self._run(
            lambda: self._protection.erase(order.subject, reason=order.reason, actor=actor)
        )

    async def _list_holds(self, _request: Request) -> Reply:
        return await self._run(lambda: {"holds": self._protection.holds()})

    async def _place_hold(self, request: Request) -> Reply:
        order, actor = _order(request, HoldOrder), actor_of(request)
        return await self._run(
            lambda: self._protection.place_hold(
                model=order.model, subject=order.subject, reason=order.reason, actor=actor
            )
        )

    async def _release(self, request: Request) -> Reply:
        order, actor = _order(request, HoldOrder), actor_of(request)
        return await self._run(
            lambda: {
                "released": self._protection.release(
                    model=order.model, subject=order.subject, reason=order.reason, actor=actor
                )
            }
        )

    async def _run(self, act: Callable[[], Result]) -> Reply:
        async with self._one:
            result = await asyncio.to_thread(act)
        return Reply(200, msgspec.json.encode(result), headers=(("Cache-Control", "no-store"),))


def _order(request: Request, kind: type[Order]) -> Order:
    """The body as an order. Raises FieldUnknown or RequestInvalid."""
    try:
        return msgspec.json.decode(request.body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        text = str(error)
        if "unknown field" in text:
            raise FieldUnknown(f"the body holds a field that it must not: {text[:128]}") from error
        raise RequestInvalid(f"the body is not what this route takes: {text[:128]}") from error

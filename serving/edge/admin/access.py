"""Routes of the control port for those who administer access, and for those who may look at it.

Bodies hold exactly what their sender decides: a field that we set, or that there is none of, is
refused by name. Which route needs which permission is in `serving.access.permissions`; the router
has asked before anything here runs.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

import msgspec

from serving.access.orders import (
    Explanation,
    KeyOrder,
    KeyView,
    MadeKey,
    Question,
    RevocationOrder,
    RotationOrder,
    RuleOrder,
)
from serving.access.state import AccessState, Revocation, RevocationKind, Rule
from serving.access.tallies import Denial
from serving.core.actors import Origin
from serving.core.principals import Principal
from serving.edge.admin.actors import origin_of
from serving.edge.admin.queries import MAX_WAIT_S, number
from serving.edge.routes import Reply, Request, Route
from serving.errors import FieldUnknown, NotFound, ParameterInvalid, RequestInvalid

Order = TypeVar("Order")


class AccessAdministration(Protocol):
    """The state and its rules: `control.access.AccessRegister`."""

    async def after(self, epoch: int, *, wait_s: float) -> AccessState | None: ...
    def rules(self) -> Sequence[Rule]: ...
    def add_rule(self, order: RuleOrder, maker: Principal, *, origin: Origin) -> Rule: ...
    def remove_rule(self, name: str, maker: Principal, *, origin: Origin) -> None: ...
    def revocations(self) -> Sequence[Revocation]: ...
    def revoke(self, order: RevocationOrder, maker: Principal, *, origin: Origin) -> Revocation: ...
    def unrevoke(
        self, kind: RevocationKind, value: str, maker: Principal, *, origin: Origin
    ) -> None: ...
    def note_denials(self, denials: Sequence[Denial]) -> None: ...
    def explain(self, question: Question) -> Explanation: ...


class KeyAdministration(Protocol):
    """The API keys: `control.access_keys.KeyRegister`."""

    def listed(self) -> Sequence[KeyView]: ...
    def make_key(self, order: KeyOrder, maker: Principal, *, origin: Origin) -> MadeKey: ...
    def rotate_key(
        self, name: str, order: RotationOrder, maker: Principal, *, origin: Origin
    ) -> MadeKey: ...
    def revoke_key(self, name: str, maker: Principal, *, origin: Origin) -> None: ...
    def note_uses(self, uses: Mapping[str, int]) -> None: ...


class AccessRoutes:
    """`routes()` is the part of the control port's table that is about access."""

    def __init__(self, access: AccessAdministration, keys: KeyAdministration) -> None:
        self._access = access
        self._keys = keys

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/internal/access", self._state),
            Route("POST", "/internal/access/uses", self._note_uses),
            Route("POST", "/internal/access/denials", self._note_denials),
            Route("GET", "/v1/access/explain", self._explain),
            Route("GET", "/v1/access/keys", self._list_keys),
            Route("POST", "/v1/access/keys", self._make_key),
            Route("POST", "/v1/access/keys/{key}/rotate", self._rotate_key),
            Route("DELETE", "/v1/access/keys/{key}", self._revoke_key),
            Route("GET", "/v1/access/rules", self._list_rules),
            Route("POST", "/v1/access/rules", self._add_rule),
            Route("DELETE", "/v1/access/rules/{rule}", self._remove_rule),
            Route("GET", "/v1/access/revocations", self._list_revocations),
            Route("POST", "/v1/access/revocations", self._revoke),
            Route("DELETE", "/v1/access/revocations/{kind}/{value}", self._unrevoke),
        ]

    # -- for our own processes -------------------------------------------------------------------

    async def _state(self, request: Request) -> Reply:
        after = number(request, "after", default=0)
        wait_s = min(number(request, "wait_s", default=0), MAX_WAIT_S)
        state = await self._access.after(int(after), wait_s=wait_s)
        return Reply(204) if state is None else _json(state)

    def _note_uses(self, request: Request) -> Reply:
        self._keys.note_uses(_order(request, dict[str, int]))
        return _json({})

    def _note_denials(self, request: Request) -> Reply:
        self._access.note_denials(_order(request, tuple[Denial, ...]))
        return _json({})

    # -- keys ------------------------------------------------------------------------------------

    def _list_keys(self, _request: Request) -> Reply:
        return _json({"keys": self._keys.listed()})

    def _make_key(self, request: Request) -> Reply:
        order, origin = _order(request, KeyOrder), origin_of(request)
        made = self._keys.make_key(order, request.principal, origin=origin)
        return _secret(made)

    def _rotate_key(self, request: Request) -> Reply:
        order = _order(request, RotationOrder) if request.body else RotationOrder()
        made = self._keys.rotate_key(
            request.arguments["key"], order, request.principal, origin=origin_of(request)
        )
        return _secret(made)

    def _revoke_key(self, request: Request) -> Reply:
        self._keys.revoke_key(
            request.arguments["key"], request.principal, origin=origin_of(request)
        )
        return _json({})

    # -- rules and revocations -------------------------------------------------------------------

    def _list_rules(self, _request: Request) -> Reply:
        return _json({"rules": self._access.rules()})

    def _add_rule(self, request: Request) -> Reply:
        order, origin = _order(request, RuleOrder), origin_of(request)
        return _json(self._access.add_rule(order, request.principal, origin=origin))

    def _remove_rule(self, request: Request) -> Reply:
        rule, origin = request.arguments["rule"], origin_of(request)
        self._access.remove_rule(rule, request.principal, origin=origin)
        return _json({})

    def _list_revocations(self, _request: Request) -> Reply:
        return _json({"revocations": self._access.revocations()})

    def _revoke(self, request: Request) -> Reply:
        order, origin = _order(request, RevocationOrder), origin_of(request)
        return _json(self._access.revoke(order, request.principal, origin=origin))

    def _unrevoke(self, request: Request) -> Reply:
        kind = request.arguments["kind"]
        if kind not in list(RevocationKind):
            raise NotFound("there is no such revocation")
        self._access.unrevoke(
            RevocationKind(kind),
            request.arguments["value"],
            request.principal,
            origin=origin_of(request),
        )
        return _json({})

    def _explain(self, request: Request) -> Reply:
        """`roles` holds names separated by commas."""
        values: dict[str, Any] = dict(request.query)
        unknown = sorted(set(values) - set(Question.__struct_fields__))
        if unknown:
            raise ParameterInvalid(f"there is no {unknown[0]!r:.64}; known: subject, action, …")
        values["roles"] = [role for role in values.get("roles", "").split(",") if role]
        if "key" in values:
            values.setdefault("subject", "")
        try:
            question = msgspec.convert(values, type=Question)
        except msgspec.ValidationError as error:
            raise ParameterInvalid(f"the question is not one: {error}") from error
        return _json(self._access.explain(question))


def _order(request: Request, kind: type[Order]) -> Order:
    """The body as an order. Raises FieldUnknown or RequestInvalid."""
    try:
        return msgspec.json.decode(request.body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        text = str(error)
        if "unknown field" in text:
            raise FieldUnknown(f"the body holds a field that it must not: {text[:128]}") from error
        raise RequestInvalid(f"the body is not what this route takes: {text[:128]}") from error


def _json(value: object) -> Reply:
    return Reply(200, msgspec.json.encode(value))


def _secret(made: MadeKey) -> Reply:
    # Nobody on the way may keep it.
    return Reply(200, msgspec.json.encode(made), headers=(("Cache-Control", "no-store"),))

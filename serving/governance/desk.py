"""Governance as the control port offers it: questions and orders by name, from bytes to bytes.

A question is one read; an order is one transaction, carried out once per idempotency key. A decision
that is refused changes nothing but the trail: who tried what is written down in a transaction of its
own, and webhooks are told.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import msgspec
from sqlalchemy import Connection

from serving.audit.events import Event, EventName
from serving.core.calls import Answer, Call
from serving.errors import Forbidden, ParameterInvalid, ServingError, StateConflict
from serving.governance import rows, webhooks
from serving.governance.comparisons import ComparisonList
from serving.governance.entities import (
    ApprovalRequest,
    Comment,
    CommentOrder,
    DecisionOrder,
    Evidence,
    EvidenceOrder,
    OverrideOrder,
    ReasonOrder,
    RequestFilter,
    RequestOrder,
    RequestView,
    Standing,
)
from serving.governance.service import Governance
from serving.governance.verdictbook import IssuedVerdict, VerdictOrder
from serving.registry.desk import Done, decoded
from serving.storage.database import Database
from serving.storage.operations import Operations, operation

WATCHED: Final = frozenset({"decide", "take_back", "override"})
"""Orders whose refusal is evidence."""


class RequestList(msgspec.Struct, frozen=True):
    requests: tuple[ApprovalRequest, ...]


class EvidenceList(msgspec.Struct, frozen=True):
    evidence: tuple[Evidence, ...]


class VerdictList(msgspec.Struct, frozen=True):
    """Newest first."""

    verdicts: tuple[IssuedVerdict, ...]


class WebhookList(msgspec.Struct, frozen=True):
    webhooks: tuple[webhooks.Webhook, ...]


class Queued(msgspec.Struct, frozen=True):
    """A delivery that waits to be sent."""

    delivery: str


TYPES: Final[Mapping[str, Any]] = {
    "RequestOrder": RequestOrder,
    "DecisionOrder": DecisionOrder,
    "OverrideOrder": OverrideOrder,
    "ReasonOrder": ReasonOrder,
    "CommentOrder": CommentOrder,
    "EvidenceOrder": EvidenceOrder,
    "WebhookOrder": webhooks.WebhookOrder,
    "ApprovalRequest": ApprovalRequest,
    "RequestView": RequestView,
    "RequestList": RequestList,
    "Comment": Comment,
    "Evidence": Evidence,
    "EvidenceList": EvidenceList,
    "ComparisonList": ComparisonList,
    "VerdictOrder": VerdictOrder,
    "IssuedVerdict": IssuedVerdict,
    "VerdictList": VerdictList,
    "Standing": Standing,
    "MadeWebhook": webhooks.MadeWebhook,
    "WebhookList": WebhookList,
    "Queued": Queued,
}
"""What goes in and out, by the names that the description of the control port uses."""


class GovernanceDesk:
    """Answers calls. Blocks: it is used from a thread of its own."""

    def __init__(self, governance: Governance, database: Database, operations: Operations) -> None:
        self._governance = governance
        self._database = database
        self._operations = operations
        self._questions: Mapping[str, Callable[[Connection, Call], Any]] = {
            "requests": self._requests,
            "request": self._request,
            "standing": self._standing,
            "evidence": self._evidence,
            "comparisons": self._comparisons,
            "verdicts": self._verdicts,
            "verdict": self._verdict,
            "webhooks": self._webhooks,
        }
        self._orders: Mapping[str, Callable[[Connection, Call], Any]] = {
            "open": self._open,
            "decide": self._decide,
            "take_back": self._take_back,
            "withdraw": self._withdraw,
            "comment": self._comment,
            "override": self._override,
            "record": self._record,
            "issue": self._issue,
            "add_webhook": self._add_webhook,
            "remove_webhook": self._remove_webhook,
            "test_webhook": self._test_webhook,
        }

    def ask(self, name: str, call: Call) -> Answer:
        """Raises ServingError of many kinds."""
        found = self._database.read(lambda connection: self._questions[name](connection, call))
        return Answer(msgspec.json.encode(found))

    def carry_out(self, name: str, call: Call) -> Answer:
        """Raises ServingError of many kinds; then nothing was changed, but see RegistryUnavailable."""
        path = msgspec.json.encode([name, *sorted(call.arguments.items())])
        scope = f"{call.actor.tenant}/{call.actor.subject}"
        # An answer that holds a secret is not kept for a second time.
        key = "" if name == "add_webhook" else call.key
        try:
            outcome = self._operations.perform(
                operation(scope, key, path, call.body),
                lambda connection: msgspec.json.encode(self._orders[name](connection, call)),
            )
        except (Forbidden, StateConflict) as error:
            if name in WATCHED:
                self._database.run(partial(self._refused, name=name, call=call, refusal=error))
            raise
        return Answer(outcome.answer, repeated=outcome.repeated)

    # -- questions -------------------------------------------------------------------------------

    def _requests(self, connection: Connection, call: Call) -> RequestList:
        try:
            wanted = msgspec.convert(dict(call.query), RequestFilter, strict=False)
        except msgspec.ValidationError as error:
            raise ParameterInvalid(f"the query is not one: {str(error)[:128]}") from error
        return RequestList(self._governance.requests.listed(connection, wanted, actor=call.actor))

    def _request(self, connection: Connection, call: Call) -> RequestView:
        return self._governance.requests.view(
            connection, call.arguments["request"], actor=call.actor
        )

    def _standing(self, connection: Connection, call: Call) -> Standing:
        key = call.arguments["model"], call.arguments["version"]
        model, version = self._governance.requests.subject(connection, *key, actor=call.actor)
        return self._governance.guard.standing(connection, model, version)

    def _evidence(self, connection: Connection, call: Call) -> EvidenceList:
        key = call.arguments["model"], call.arguments["version"]
        return EvidenceList(self._governance.evidence.listed(connection, *key, actor=call.actor))

    def _comparisons(self, connection: Connection, call: Call) -> ComparisonList:
        model = call.arguments["model"]
        return ComparisonList(
            self._governance.verdicts.compared(connection, model, actor=call.actor)
        )

    def _verdicts(self, connection: Connection, call: Call) -> VerdictList:
        version = dict(call.query).get("version", "")
        model = call.arguments["model"]
        return VerdictList(
            self._governance.verdicts.listed(connection, model, actor=call.actor, version=version)
        )

    def _verdict(self, connection: Connection, call: Call) -> IssuedVerdict:
        where = call.arguments["model"], call.arguments["verdict"]
        return self._governance.verdicts.find(connection, *where, actor=call.actor)

    def _webhooks(self, connection: Connection, _call: Call) -> WebhookList:
        return WebhookList(self._governance.webhooks.listed(connection))

    # -- orders ----------------------------------------------------------------------------------

    def _open(self, connection: Connection, call: Call) -> ApprovalRequest:
        order = decoded(call, RequestOrder)
        return self._governance.requests.open(connection, order, actor=call.actor)

    def _decide(self, connection: Connection, call: Call) -> ApprovalRequest:
        return self._governance.decisions.decide(
            connection,
            call.arguments["request"],
            decoded(call, DecisionOrder),
            actor=call.actor,
        )

    def _take_back(self, connection: Connection, call: Call) -> ApprovalRequest:
        order = decoded(call, ReasonOrder)
        return self._governance.decisions.take_back(
            connection, call.arguments["request"], reason=order.reason, actor=call.actor
        )

    def _withdraw(self, connection: Connection, call: Call) -> ApprovalRequest:
        order = decoded(call, ReasonOrder)
        return self._governance.requests.withdraw(
            connection, call.arguments["request"], reason=order.reason, actor=call.actor
        )

    def _comment(self, connection: Connection, call: Call) -> Comment:
        order = decoded(call, CommentOrder)
        return self._governance.requests.comment(
            connection, call.arguments["request"], text=order.text, actor=call.actor
        )

    def _override(self, connection: Connection, call: Call) -> ApprovalRequest:
        order = decoded(call, OverrideOrder)
        return self._governance.waivers.override(connection, order, actor=call.actor)

    def _record(self, connection: Connection, call: Call) -> Evidence:
        order = decoded(call, EvidenceOrder)
        return self._governance.evidence.record(connection, order, actor=call.actor)

    def _issue(self, connection: Connection, call: Call) -> IssuedVerdict:
        order = decoded(call, VerdictOrder)
        model = call.arguments["model"]
        return self._governance.verdicts.issue(connection, model, order, actor=call.actor)

    def _add_webhook(self, connection: Connection, call: Call) -> webhooks.MadeWebhook:
        order = decoded(call, webhooks.WebhookOrder)
        return self._governance.webhooks.add(connection, order, actor=call.actor)

    def _remove_webhook(self, connection: Connection, call: Call) -> Done:
        self._governance.webhooks.remove(connection, call.arguments["webhook"], actor=call.actor)
        return Done()

    def _test_webhook(self, connection: Connection, call: Call) -> Queued:
        webhook = call.arguments["webhook"]
        return Queued(self._governance.webhooks.test(connection, webhook, actor=call.actor))

    # -- inside ----------------------------------------------------------------------------------

    def _refused(
        self, connection: Connection, *, name: str, call: Call, refusal: ServingError
    ) -> None:
        about = self._about(connection, call)
        event = Event.by(
            call.actor,
            EventName.APPROVAL_REFUSED,
            about,
            after={"order": name, "code": refusal.code, **dict(call.arguments)},
            reason=refusal.message,
        )
        self._governance.journal.record(connection, event, facts={"code": refusal.code})

    def _about(self, connection: Connection, call: Call) -> str:
        """What it was about, as far as that can be known."""
        found = rows.find_request(connection, call.arguments.get("request", ""))
        if found is not None:
            return f"version:{found.model}@{found.version}"
        try:
            order = msgspec.json.decode(call.body, type=OverrideOrder)
        except msgspec.DecodeError:
            return "version:unknown"
        return f"version:{order.model}@{order.version}"

"""People's word on a request: given, and taken back.

Each word is signed by the installation when its maker has been identified and found entitled, and is
bound to the digest that they say they looked at. When it is enough, the registry takes the step that
was waited for; when it is enough no longer, it takes it back: both in the same transaction.
"""

from typing import Final

import structlog
from sqlalchemy import Connection

from serving.audit.events import EventName
from serving.core.actors import Actor
from serving.core.principals import Action
from serving.errors import (
    DigestChanged,
    Forbidden,
    NotFound,
    RequestClosed,
    TransitionRefused,
)
from serving.governance import rows
from serving.governance.counting import APPROVED, REJECTED, WITHDRAWAL
from serving.governance.entities import (
    ApprovalRequest,
    DecisionOrder,
    RequestState,
)
from serving.governance.guard import EvidenceGuard, authors_of
from serving.governance.journal import Journal
from serving.governance.requests import Requests
from serving.governance.separation import Say, check_say
from serving.governance.statements import SERVING_KINDS, Statements
from serving.registry.entities import RegisteredModel, RegisteredVersion
from serving.registry.lifecycle import State, Step

logger = structlog.get_logger()

REVOCABLE: Final = frozenset(
    {State.APPROVED, State.SHADOW, State.CANARY, State.STABLE, State.DEPRECATED}
)


class Decisions:
    """Decides requests; each method works in the caller's transaction."""

    def __init__(
        self,
        guard: EvidenceGuard,
        requests: Requests,
        statements: Statements,
        *,
        journal: Journal,
    ) -> None:
        self._guard = guard
        self._requests = requests
        self._statements = statements
        self._journal = journal

    def decide(
        self, connection: Connection, request: str, order: DecisionOrder, *, actor: Actor
    ) -> ApprovalRequest:
        """Raises NotFound, Forbidden, SeparationBroken, RequestClosed, DigestChanged,
        TransitionRefused (evidence is missing that an approver would have to see)."""
        found = rows.find_request(connection, request)
        if found is None:
            raise NotFound("there is no such approval request")
        model, version = self._statements.subject(connection, found)
        self._check_say(connection, found, model, version, actor=actor)
        self._requests.check_open(found)
        _check_digest(found, version, order)
        if found.tier != model.facts.risk_tier.value:
            raise RequestClosed("the model's risk tier has changed; open a new request")
        if order.decision == "reject":
            self._statements.say(connection, found, actor, decision=REJECTED, reason=order.reason)
            return self._requests.close(
                connection,
                found,
                RequestState.REJECTED,
                name=EventName.REQUEST_REJECTED,
                actor=actor,
                reason=order.reason,
            )
        missing = self._guard.missing_evidence(connection, model, version, found.kind)
        if missing:
            raise TransitionRefused(f"not to be approved yet: missing: {'; '.join(missing)}")
        self._statements.say(connection, found, actor, decision=APPROVED, reason=order.reason)
        self._journal.tell(
            connection, actor, found, name=EventName.APPROVAL_GIVEN, reason=order.reason
        )
        return self._settle(connection, found, actor)

    def take_back(
        self, connection: Connection, request: str, *, reason: str, actor: Actor
    ) -> ApprovalRequest:
        """Withdraws the actor's own approval. Raises NotFound, Forbidden, RequestClosed."""
        found = rows.find_request(connection, request)
        if found is None:
            raise NotFound("there is no such approval request")
        if found.state not in (RequestState.OPEN, RequestState.APPROVED):
            raise RequestClosed(f"the request is {found.state} already")
        own = [
            each
            for each in self._statements.said(connection, found)
            if each.identities & actor.identities and each.decision == APPROVED
        ]
        if not own:
            raise Forbidden("only who approved takes it back")
        self._statements.say(
            connection, found, actor, decision=REJECTED, reason=reason, of=own[0], kind=WITHDRAWAL
        )
        self._journal.tell(
            connection, actor, found, name=EventName.APPROVAL_WITHDRAWN, reason=reason
        )
        return self._unsettle(connection, found, actor, reason)

    # -- inside ----------------------------------------------------------------------------------

    def _check_say(
        self,
        connection: Connection,
        request: ApprovalRequest,
        model: RegisteredModel,
        version: RegisteredVersion,
        *,
        actor: Actor,
    ) -> None:
        say = Say(
            decider=actor.identities,
            may=actor.may(Action.APPROVE, model.name, model.tenant),
            author=authors_of(version),
            requester=frozenset({request.requester, request.requester_owner} - {""}),
            earlier=[each.identities for each in self._statements.said(connection, request)],
        )
        check_say(say, self._guard.policies)

    def _settle(
        self, connection: Connection, request: ApprovalRequest, actor: Actor
    ) -> ApprovalRequest:
        """Closes the request when it is enough, and takes the step that waited for it."""
        model, version = self._statements.subject(connection, request)
        standing = self._guard.standing(connection, model, version, kind=request.kind)
        if not standing.satisfied:
            return request
        closed = self._requests.close(
            connection,
            request,
            RequestState.APPROVED,
            name=EventName.REQUEST_APPROVED,
            actor=actor,
            reason=request.reason,
        )
        self._statements.approve_version(connection, closed, actor)
        return closed

    def _unsettle(
        self, connection: Connection, request: ApprovalRequest, actor: Actor, reason: str
    ) -> ApprovalRequest:
        if request.state is RequestState.OPEN:
            return request
        model, version = self._statements.subject(connection, request)
        if self._guard.standing(connection, model, version, kind=request.kind).satisfied:
            return request
        closed = self._requests.close(
            connection,
            request,
            RequestState.WITHDRAWN,
            name=EventName.REQUEST_WITHDRAWN,
            actor=actor,
            reason=reason,
        )
        if request.kind in SERVING_KINDS and version.state in REVOCABLE:
            self._statements.change(connection, version, Step.REVOKE, actor=actor, reason=reason)
        return closed


def _check_digest(
    request: ApprovalRequest, version: RegisteredVersion, order: DecisionOrder
) -> None:
    """Raises DigestChanged unless all three are one."""
    if not request.digest == version.digest == order.digest:
        raise DigestChanged(
            f"the request is about {request.digest[:12]}…, {version.key} has "
            f"{version.digest[:12]}…, and {order.digest[:12]}… was looked at: open a new request"
        )

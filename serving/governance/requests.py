"""Approval requests: opened, shown, discussed, withdrawn by whoever asked, expired by time."""

from typing import Final

from sqlalchemy import Connection

from serving.audit.events import EventName
from serving.core.actors import Actor, product
from serving.core.principals import Action
from serving.errors import (
    AlreadyThere,
    DigestChanged,
    Forbidden,
    NotFound,
    RequestClosed,
    SignatureInvalid,
    TransitionRefused,
)
from serving.governance import rows
from serving.governance.entities import (
    ApprovalRequest,
    Comment,
    DecisionView,
    RequestFilter,
    RequestOrder,
    RequestState,
    RequestView,
)
from serving.governance.guard import EvidenceGuard, read_statement
from serving.governance.journal import Journal, new_id
from serving.registry.entities import RegisteredModel, RegisteredVersion
from serving.registry.lifecycle import State
from serving.registry.service import Registry
from serving.trust.signatures import Envelope

SEE: Final = Action.DESCRIBE_CANDIDATES
MAY_ASK: Final = (Action.REGISTER, Action.OPERATE)
"""Whoever may do one of these with the model may ask for its approval or retirement."""

ENDED: Final = frozenset({State.RETIRED, State.REJECTED})


class Requests:
    """The requests of one installation; each method works in the caller's transaction."""

    def __init__(
        self, registry: Registry, guard: EvidenceGuard, journal: Journal, *, ttl_ns: int
    ) -> None:
        """ttl_ns: how long a request stays open."""
        self._registry = registry
        self._guard = guard
        self._journal = journal
        self._ttl_ns = ttl_ns

    def open(self, connection: Connection, order: RequestOrder, *, actor: Actor) -> ApprovalRequest:
        """Raises ModelNotFound, NotFound, Forbidden, DigestChanged, AlreadyThere,
        TransitionRefused."""
        model, version = self.subject(connection, order.model, order.version, actor=actor)
        if not any(actor.may(action, model.name, model.tenant) for action in MAY_ASK):
            raise Forbidden("this credential may not ask for this; it needs role developer")
        if order.digest not in (None, version.digest):
            raise DigestChanged(f"{version.key} has another digest than the one that was named")
        if version.state in ENDED:
            raise TransitionRefused(
                f"{version.key} is {version.state}: nothing is decided about it"
            )
        wanted = RequestFilter(model=model.name, version=version.version, state=RequestState.OPEN)
        if any(each.kind == order.kind for each in rows.find_requests(connection, wanted)):
            raise AlreadyThere(f"a request to let {version.key} {order.kind} is open already")
        request = self.made(model, version, kind=order.kind, reason=order.reason, actor=actor)
        rows.add_request(connection, request)
        self._journal.tell(
            connection, actor, request, name=EventName.REQUEST_OPENED, reason=order.reason
        )
        return request

    def made(
        self,
        model: RegisteredModel,
        version: RegisteredVersion,
        *,
        kind: str,
        reason: str,
        actor: Actor,
    ) -> ApprovalRequest:
        """A request that is not written down yet."""
        now_ns = self._journal.now_ns()
        return ApprovalRequest(
            id=new_id(),
            kind=kind,
            model=model.name,
            version=version.version,
            digest=version.digest,
            tier=model.facts.risk_tier.value,
            author=version.author,
            requester=actor.subject,
            requester_owner=actor.owner,
            reason=reason,
            state=RequestState.OPEN,
            created_ns=now_ns,
            expires_ns=now_ns + self._ttl_ns,
        )

    def find(self, connection: Connection, request: str, *, actor: Actor) -> ApprovalRequest:
        """Raises NotFound, also for what the actor may not see."""
        found = rows.find_request(connection, request)
        if found is not None and self._is_seen(connection, found, actor):
            return found
        raise NotFound("there is no such approval request")

    def listed(
        self, connection: Connection, wanted: RequestFilter, *, actor: Actor
    ) -> tuple[ApprovalRequest, ...]:
        """Those that the actor may see, newest first."""
        found = rows.find_requests(connection, wanted)
        return tuple(each for each in found if self._is_seen(connection, each, actor))

    def view(self, connection: Connection, request: str, *, actor: Actor) -> RequestView:
        """A request with every word on it, each with whether its signature holds. Raises NotFound."""
        found = self.find(connection, request, actor=actor)
        model, version = self.subject(connection, found.model, found.version, actor=actor)
        return RequestView(
            request=found,
            decisions=self._decisions(connection, found),
            comments=rows.comments_of(connection, found.id),
            standing=self._guard.standing(connection, model, version, kind=found.kind),
        )

    def comment(self, connection: Connection, request: str, *, text: str, actor: Actor) -> Comment:
        """By anybody who may see the request. Raises NotFound."""
        found = self.find(connection, request, actor=actor)
        comment = Comment(author=actor.subject, text=text, at_ns=self._journal.now_ns())
        rows.add_comment(connection, new_id(), found.id, comment)
        self._journal.tell(connection, actor, found, name=EventName.REQUEST_COMMENTED, reason=text)
        return comment

    def withdraw(
        self, connection: Connection, request: str, *, reason: str, actor: Actor
    ) -> ApprovalRequest:
        """By whoever opened it, while it is open. Raises NotFound, Forbidden, RequestClosed."""
        found = self.find(connection, request, actor=actor)
        if not actor.identities & {found.requester, found.requester_owner} - {""}:
            raise Forbidden("only who opened a request withdraws it")
        self.check_open(found)
        return self.close(
            connection,
            found,
            RequestState.WITHDRAWN,
            name=EventName.REQUEST_WITHDRAWN,
            actor=actor,
            reason=reason,
        )

    def open_and_overdue(self, connection: Connection) -> tuple[int, int]:
        """How many wait for people, and how many of those have waited too long."""
        overdue = rows.overdue_requests(connection, self._journal.now_ns())
        return rows.count_open(connection), len(overdue)

    def ending(self, connection: Connection, *, within_ns: int) -> tuple[str, ...]:
        """Versions with traffic whose approvals end so soon, or have ended."""
        return self._guard.ending(connection, before_ns=self._journal.now_ns() + within_ns)

    def expire(self, connection: Connection) -> int:
        """Closes open requests whose time is over; how many."""
        overdue = rows.overdue_requests(connection, self._journal.now_ns())
        for each in overdue:
            self.close(
                connection,
                each,
                RequestState.EXPIRED,
                name=EventName.REQUEST_EXPIRED,
                actor=product("governance"),
                reason="its time is over",
            )
        return len(overdue)

    def check_open(self, request: ApprovalRequest) -> None:
        """Raises RequestClosed."""
        if request.state is not RequestState.OPEN:
            raise RequestClosed(f"the request is {request.state} already; open a new one")
        if request.expires_ns <= self._journal.now_ns():
            raise RequestClosed("the request is expired; open a new one")

    def close(
        self,
        connection: Connection,
        request: ApprovalRequest,
        state: RequestState,
        *,
        name: EventName,
        actor: Actor,
        reason: str,
    ) -> ApprovalRequest:
        closed = rows.close_request(connection, request, state, now_ns=self._journal.now_ns())
        self._journal.tell(connection, actor, closed, name=name, reason=reason)
        return closed

    def subject(
        self, connection: Connection, model: str, version: str, *, actor: Actor
    ) -> tuple[RegisteredModel, RegisteredVersion]:
        """The model and version that something is about. Raises ModelNotFound, NotFound."""
        found = self._registry.version(connection, model, version, actor=actor)
        return self._registry.model(connection, model, actor=actor), found

    def versions(
        self, connection: Connection, model: str, *, actor: Actor
    ) -> tuple[RegisteredVersion, ...]:
        """All of a model. Raises ModelNotFound."""
        return self._registry.versions(connection, model, actor=actor)

    # -- inside ----------------------------------------------------------------------------------

    def _is_seen(self, connection: Connection, request: ApprovalRequest, actor: Actor) -> bool:
        owner = product("governance")
        model = self._registry.model(connection, request.model, actor=owner)
        return actor.may(SEE, model.name, model.tenant)

    def _decisions(
        self, connection: Connection, request: ApprovalRequest
    ) -> tuple[DecisionView, ...]:
        texts = rows.envelopes_of_request(connection, request.id)
        return tuple(self._decision(text) for text in texts)

    def _decision(self, text: str) -> DecisionView:
        try:
            said = read_statement(Envelope.decode(text.encode()), self._guard.trusted())
        except SignatureInvalid as error:
            return DecisionView(
                approver="",
                kind="",
                decision="",
                roles=(),
                reason="",
                at_ns=0,
                expires_ns=0,
                valid=False,
                why=error.message,
            )
        return DecisionView(
            approver=said.approver,
            kind=said.kind,
            decision=said.decision,
            roles=said.roles,
            reason=said.reason,
            at_ns=said.issued_ns,
            expires_ns=said.expires_ns,
            valid=True,
        )

"""The two ways to serve without the approvals of a tier: an emergency, and the local policy of demos.

Neither is silent. An override is a signed statement of somebody with an override role, for hours, with
a reason, an event of its own and a warning in the log; it never counts as an approval. The local
policy agrees to versions of tiers that say so in the policies, under the name `local-policy`.
"""

import dataclasses
from typing import Final

import msgspec
import structlog
from sqlalchemy import Connection

from serving.artifacts.statements import OVERRIDE, SERVE
from serving.audit.events import EventName
from serving.core.actors import Actor, product
from serving.core.principals import Action, Role
from serving.errors import DigestChanged, Forbidden, SeparationBroken, TransitionRefused
from serving.governance import rows
from serving.governance.counting import APPROVED
from serving.governance.decisions import Decisions
from serving.governance.entities import (
    ApprovalRequest,
    DecisionOrder,
    OverrideOrder,
    RequestState,
    Standing,
)
from serving.governance.guard import EvidenceGuard, authors_of
from serving.governance.journal import Journal
from serving.governance.policies import HOUR_NS
from serving.governance.requests import ENDED, Requests
from serving.governance.statements import Statements
from serving.registry.entities import RegisteredModel, RegisteredVersion

logger = structlog.get_logger()

LOCAL_APPROVER: Final = "local-policy"


class Waivers:
    """Each method works in the caller's transaction."""

    def __init__(
        self,
        guard: EvidenceGuard,
        requests: Requests,
        statements: Statements,
        *,
        decisions: Decisions,
        journal: Journal,
    ) -> None:
        self._guard = guard
        self._requests = requests
        self._statements = statements
        self._decisions = decisions
        self._journal = journal

    def override(
        self, connection: Connection, order: OverrideOrder, *, actor: Actor
    ) -> ApprovalRequest:
        """Lets a version serve for some hours although approvals are missing.

        Raises ModelNotFound, NotFound, Forbidden, SeparationBroken, DigestChanged,
        TransitionRefused.
        """
        model, version = self._requests.subject(connection, order.model, order.version, actor=actor)
        held = self._roles_for_it(model, actor)
        self._check(version, order, actor=actor)
        request = self._overridden(model, version, reason=order.reason, actor=actor)
        rows.add_request(connection, request)
        self._statements.say(
            connection,
            request,
            dataclasses.replace(actor, roles=held),
            decision=APPROVED,
            reason=order.reason,
        )
        self._journal.tell(
            connection, actor, request, name=EventName.OVERRIDE_GIVEN, reason=order.reason
        )
        logger.warning(
            "APPROVAL OVERRIDDEN",
            by=actor.subject,
            version=version.key,
            reason=order.reason,
            hours=self._guard.policies.override.hours,
        )
        self._statements.approve_version(connection, request, actor)
        return request

    def _roles_for_it(self, model: RegisteredModel, actor: Actor) -> frozenset[Role]:
        """Those of the actor's roles that let it override. Raises Forbidden without one."""
        roles = self._guard.policies.override.roles
        held = frozenset(role for role in actor.roles if role.value in roles)
        if not held or not actor.may(Action.DESCRIBE_CANDIDATES, model.name, model.tenant):
            named = " or ".join(roles) or "nobody's"
            raise Forbidden(f"an emergency override takes role {named}")
        return held

    def _check(self, version: RegisteredVersion, order: OverrideOrder, *, actor: Actor) -> None:
        """Raises SeparationBroken, DigestChanged, TransitionRefused."""
        if actor.identities & self._guard.policies.excluded(authors_of(version)):
            raise SeparationBroken("nobody overrides the approval of their own work")
        if order.digest != version.digest:
            raise DigestChanged(f"{version.key} has another digest than the one that was named")
        if version.state in ENDED:
            raise TransitionRefused(
                f"{version.key} is {version.state}: nothing is decided about it"
            )

    def _overridden(
        self, model: RegisteredModel, version: RegisteredVersion, *, reason: str, actor: Actor
    ) -> ApprovalRequest:
        """A request that is approved from the start, for as long as an override lasts."""
        now_ns = self._journal.now_ns()
        return msgspec.structs.replace(
            self._requests.made(model, version, kind=OVERRIDE, reason=reason, actor=actor),
            state=RequestState.APPROVED,
            expires_ns=now_ns + self._guard.policies.override.hours * HOUR_NS,
            closed_ns=now_ns,
        )

    def agree_locally(
        self, connection: Connection, model: RegisteredModel, version: RegisteredVersion
    ) -> Standing:
        """The local policy's approval, for tiers that have one; harmless when repeated.

        Raises Forbidden for another tier, TransitionRefused when evidence is missing.
        """
        if not self._guard.policies.tier(model.facts.risk_tier.value).local:
            raise Forbidden(f"tier {model.facts.risk_tier} is not agreed to locally")
        standing = self._guard.standing(connection, model, version)
        if standing.satisfied:
            return standing
        policy = Actor(LOCAL_APPROVER, roles=frozenset({Role.APPROVER}), source="policy")
        reason = f"tier {model.facts.risk_tier} is agreed to by the local policy"
        request = self._requests.made(
            model, version, kind=SERVE, reason=reason, actor=product("policy")
        )
        rows.add_request(connection, request)
        order = DecisionOrder(decision="approve", digest=version.digest, reason=reason)
        self._decisions.decide(connection, request.id, order, actor=policy)
        return self._guard.standing(connection, model, version)

"""Signed words: written down, read back, and turned into the step of the registry that they allow."""

import dataclasses
from typing import Final

from sqlalchemy import Connection

from serving.artifacts.statements import OVERRIDE, SERVE, Approval
from serving.core.actors import Actor, everywhere, product
from serving.core.principals import Role
from serving.governance import rows
from serving.governance.counting import APPROVED
from serving.governance.entities import ApprovalRequest
from serving.governance.guard import EvidenceGuard, read_statements
from serving.governance.journal import Journal, new_id
from serving.governance.policies import DAY_NS
from serving.governance.requests import Requests
from serving.registry.entities import RegisteredModel, RegisteredVersion
from serving.registry.lifecycle import State, Step
from serving.registry.orders import StateOrder
from serving.registry.service import Registry
from serving.trust.signatures import SigningKey

SERVING_KINDS: Final = (SERVE, OVERRIDE)


class Statements:
    """What people said of versions; each method works in the caller's transaction."""

    def __init__(
        self,
        registry: Registry,
        guard: EvidenceGuard,
        requests: Requests,
        *,
        journal: Journal,
        key: SigningKey,
    ) -> None:
        self._registry = registry
        self._guard = guard
        self._requests = requests
        self._journal = journal
        self._key = key

    def say(
        self,
        connection: Connection,
        request: ApprovalRequest,
        actor: Actor,
        *,
        decision: str,
        reason: str,
        kind: str = "",
        of: Approval | None = None,
    ) -> None:
        """Signs and keeps one person's word. of: the one that it takes back."""
        roles = {role.value for role in actor.roles}
        if request.kind != OVERRIDE:
            roles.add(Role.APPROVER.value)  # By a role or by a grant: that was asked before.
        now_ns = self._journal.now_ns()
        consent = self._guard.policies.consent(request.tier, request.kind)
        ends_ns = now_ns + consent.expires_days * DAY_NS
        approval = Approval(
            kind=kind or request.kind,
            model=request.model,
            version=request.version,
            digest=request.digest,
            approver=actor.subject if of is None else of.approver,
            approver_owner=actor.owner if of is None else of.approver_owner,
            roles=tuple(sorted(roles)),
            author=request.author,
            decision="approved" if decision == APPROVED else "rejected",
            reason=reason,
            issued_ns=now_ns,
            expires_ns=request.expires_ns if request.kind == OVERRIDE else ends_ns,
            request=request.id,
        )
        envelope = approval.sign(self._key)
        if approval.decision != APPROVED:
            self._guard.refusals.keep(approval, envelope.encode().decode())
        rows.add_decision(connection, new_id(), approval, envelope)

    def said(self, connection: Connection, request: ApprovalRequest) -> list[Approval]:
        texts = rows.envelopes_of_request(connection, request.id)
        return [approval for approval, _ in read_statements(texts, self._guard.trusted())]

    def approve_version(
        self, connection: Connection, request: ApprovalRequest, actor: Actor
    ) -> None:
        _, version = self.subject(connection, request)
        if request.kind in SERVING_KINDS and version.state is State.VALIDATED:
            self.change(connection, version, Step.APPROVE, actor=actor, reason=request.reason)

    def subject(
        self, connection: Connection, request: ApprovalRequest
    ) -> tuple[RegisteredModel, RegisteredVersion]:
        """Whatever the actor may see: what they may do is asked next."""
        ours = product("governance")
        return self._requests.subject(connection, request.model, request.version, actor=ours)

    def change(
        self,
        connection: Connection,
        version: RegisteredVersion,
        step: Step,
        *,
        actor: Actor,
        reason: str,
    ) -> None:
        # What entitles the actor to the step is what was decided above, not a role of theirs.
        entitled = dataclasses.replace(actor, reach=everywhere)
        self._registry.change_state(
            connection,
            (version.model, version.version),
            order=StateOrder(step=step, reason=reason),
            actor=entitled,
        )

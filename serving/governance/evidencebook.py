"""Evidence as people and the product record it: signed at once, never changed, never removed."""

from sqlalchemy import Connection

from serving.audit.events import Event, EventName
from serving.core.actors import Actor
from serving.core.principals import Action
from serving.errors import BodyTooLarge, DigestChanged, Forbidden
from serving.governance import rows
from serving.governance.entities import Evidence, EvidenceOrder
from serving.governance.evidence import MAX_CONTENT_BYTES, all_evidence, sign_evidence
from serving.governance.guard import EvidenceGuard
from serving.governance.journal import Journal, new_id
from serving.governance.policies import EvidenceKind
from serving.governance.requests import Requests
from serving.trust.signatures import SigningKey

MAY_RECORD = (Action.REGISTER, Action.APPROVE, Action.OPERATE)


class EvidenceBook:
    """Each method works in the caller's transaction."""

    def __init__(
        self, guard: EvidenceGuard, requests: Requests, journal: Journal, *, key: SigningKey
    ) -> None:
        self._guard = guard
        self._requests = requests
        self._journal = journal
        self._key = key

    def record(self, connection: Connection, order: EvidenceOrder, *, actor: Actor) -> Evidence:
        """Raises ModelNotFound, NotFound, Forbidden, DigestChanged, BodyTooLarge."""
        model, version = self._requests.subject(connection, order.model, order.version, actor=actor)
        if not any(actor.may(action, model.name, model.tenant) for action in MAY_RECORD):
            raise Forbidden("this credential may not record evidence; it needs role developer")
        if order.digest != version.digest:
            raise DigestChanged(f"{version.key} has another digest than the evidence")
        evidence = Evidence(
            id=new_id(),
            kind=EvidenceKind(order.kind),
            model=model.name,
            version=version.version,
            digest=order.digest,
            outcome=order.outcome,
            summary=order.summary,
            content=order.content,
            recorder=actor.subject,
            at_ns=self._journal.now_ns(),
        )
        envelope = sign_evidence(evidence, self._key)
        if len(envelope.payload) > MAX_CONTENT_BYTES:
            raise BodyTooLarge(
                f"evidence has at most {MAX_CONTENT_BYTES} bytes; name a digest of it"
            )
        rows.add_evidence(
            connection,
            evidence.id,
            model=model.name,
            version=version.version,
            kind=order.kind,
            at_ns=evidence.at_ns,
            envelope=envelope,
        )
        told = {"id": evidence.id, "kind": order.kind, "outcome": order.outcome}
        event = Event.by(
            actor,
            EventName.EVIDENCE_RECORDED,
            f"version:{version.key}",
            after=told | {"digest": order.digest},
            reason=order.summary,
        )
        self._journal.record(connection, event)
        return evidence

    def listed(
        self, connection: Connection, model: str, version: str, *, actor: Actor
    ) -> tuple[Evidence, ...]:
        """Everything whose signature holds, oldest first. Raises ModelNotFound, NotFound."""
        _, found = self._requests.subject(connection, model, version, actor=actor)
        texts = rows.evidence_of(connection, found.model, found.version)
        return all_evidence(texts, self._guard.trusted(), found)

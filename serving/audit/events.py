"""What the audit trail can hold: the name of each event, and an event as its maker hands it over.

A name is `source:subject:action`. Names are never reused for another meaning; one that is written no
longer stays here as a comment, because old trails hold it. A test walks this list: each is written by
some module of the product, and README says what it means.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from serving.core.actors import Actor


class EventName(StrEnum):
    """Every event there is."""

    # -- the trail itself, and the product ---------------------------------------------------------
    AUDIT_OPENED = "audit:log:opened"
    AUDIT_EXPORTED = "audit:log:exported"
    INSTANCE_STARTED = "product:instance:started"
    INSTANCE_STOPPED = "product:instance:stopped"
    CONFIGURATION_APPLIED = "product:configuration:applied"
    REPLICA_REFUSED = "product:replica:refused"
    RELEASE_REFUSED = "product:release:refused"
    ARTIFACT_DESTROYED = "product:artifact:destroyed"

    # -- access ------------------------------------------------------------------------------------
    KEY_MADE = "access:key:made"
    KEY_ROTATED = "access:key:rotated"
    KEY_REVOKED = "access:key:revoked"
    RULE_MADE = "access:rule:made"
    RULE_REMOVED = "access:rule:removed"
    REVOCATION_MADE = "access:revocation:made"
    REVOCATION_WITHDRAWN = "access:revocation:withdrawn"
    ACTION_DENIED = "access:action:denied"
    CREDENTIAL_REFUSED = "access:credential:refused"

    # -- trusted keys and artifacts ----------------------------------------------------------------
    TRUST_ADDED = "trust:key:added"
    TRUST_REVOKED = "trust:key:revoked"
    TRUST_ROTATED = "trust:key:rotated"
    ARTIFACT_KEY_ROTATED = "artifacts:key:rotated"
    ARTIFACT_EXPORTED = "artifacts:artifact:exported"

    # -- payloads of recorded predictions ----------------------------------------------------------
    PAYLOADS_READ = "log:payloads:read"
    PAYLOADS_EXPORTED = "log:payloads:exported"
    RECORDS_DELETED = "log:records:deleted"
    EXPERIMENT_READ = "log:experiment:read"

    # -- data subjects -----------------------------------------------------------------------------
    SUBJECT_ERASURE_ORDERED = "privacy:erasure:ordered"
    SUBJECT_ERASURE_REFUSED = "privacy:erasure:refused"
    SUBJECT_ERASED = "privacy:subject:erased"
    SUBJECT_EXPORTED = "privacy:subject:exported"
    ERASURES_REAPPLIED = "privacy:erasure:reapplied"
    HOLD_PLACED = "privacy:hold:placed"
    HOLD_RELEASED = "privacy:hold:released"
    PRIVACY_ACT_FAILED = "privacy:act:failed"

    # -- the registry ------------------------------------------------------------------------------
    MODEL_REGISTERED = "registry:model:registered"
    MODEL_CHANGED = "registry:model:changed"
    VERSION_REGISTERED = "registry:version:registered"
    VERSION_INSPECTED = "registry:version:inspected"
    VERSION_VALIDATED = "registry:version:validated"
    VERSION_APPROVED = "registry:version:approved"
    VERSION_SHADOWED = "registry:version:shadowed"
    VERSION_CANARIED = "registry:version:canaried"
    VERSION_PROMOTED = "registry:version:promoted"
    VERSION_RESTORED = "registry:version:restored"
    VERSION_STOOD_DOWN = "registry:version:stood_down"
    VERSION_DEPRECATED = "registry:version:deprecated"
    VERSION_REINSTATED = "registry:version:reinstated"
    VERSION_RETIRED = "registry:version:retired"
    VERSION_REJECTED = "registry:version:rejected"
    VERSION_REVOKED = "registry:version:revoked"
    ALIAS_SET = "registry:alias:set"
    ALIAS_REMOVED = "registry:alias:removed"
    TRAFFIC_SET = "registry:traffic:set"
    EXPERIMENT_STARTED = "registry:experiment:started"
    EXPERIMENT_ENDED = "registry:experiment:ended"

    # -- governance --------------------------------------------------------------------------------
    REQUEST_OPENED = "governance:request:opened"
    REQUEST_COMMENTED = "governance:request:commented"
    REQUEST_APPROVED = "governance:request:approved"
    REQUEST_REJECTED = "governance:request:rejected"
    REQUEST_WITHDRAWN = "governance:request:withdrawn"
    REQUEST_EXPIRED = "governance:request:expired"
    APPROVAL_GIVEN = "governance:approval:given"
    APPROVAL_WITHDRAWN = "governance:approval:withdrawn"
    APPROVAL_REFUSED = "governance:approval:refused"
    OVERRIDE_GIVEN = "governance:override:given"
    EVIDENCE_RECORDED = "governance:evidence:recorded"
    VERDICT_ISSUED = "governance:verdict:issued"
    WEBHOOK_ADDED = "governance:webhook:added"
    WEBHOOK_REMOVED = "governance:webhook:removed"

    # -- rollouts ----------------------------------------------------------------------------------
    ROLLOUT_STARTED = "rollout:canary:started"
    ROLLOUT_READY = "rollout:canary:ready"
    ROLLOUT_ADVANCED = "rollout:canary:advanced"
    ROLLOUT_HELD = "rollout:canary:held"
    ROLLOUT_PAUSED = "rollout:canary:paused"
    ROLLOUT_RESUMED = "rollout:canary:resumed"
    ROLLOUT_PROMOTED = "rollout:canary:promoted"
    ROLLOUT_COMPLETED = "rollout:canary:completed"
    ROLLOUT_ROLLED_BACK = "rollout:canary:rolled_back"
    ROLLOUT_ABORTED = "rollout:canary:aborted"
    ROLLOUT_TARGET_REFUSED = "rollout:target:refused"


@dataclass(frozen=True, slots=True)
class Event:
    """One event. object: what it happened to, `kind:name` as in `version:fraud@3`.

    before, after: JSON-like values or msgspec structs, None where there is none; never a secret and
    never a payload. reason: in the actor's words.
    """

    name: EventName
    actor: str
    object: str
    before: Any = None
    after: Any = None
    reason: str = ""
    source: str = ""
    request_id: str = ""
    tenant: str = ""

    @classmethod
    def by(
        cls,
        actor: Actor,
        name: EventName,
        object_: str,
        *,
        before: Any = None,
        after: Any = None,
        reason: str = "",
    ) -> "Event":
        """An event with all that is known of the actor."""
        return cls(
            name=name,
            actor=actor.subject,
            object=object_,
            before=before,
            after=after,
            reason=reason,
            source=actor.source,
            request_id=actor.request_id,
            tenant=actor.tenant,
        )

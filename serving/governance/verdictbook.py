"""Verdicts as they are asked for: checked, signed, kept as evidence, never changed.

A verdict on a live comparison states what the monitor process found. One on a window of the ledger, a
replay or an offline set states what somebody found with the same program, and says so: nobody issues
it about their own work.
"""

from typing import Final, Protocol

import msgspec
from sqlalchemy import Connection

from serving.audit.events import Event, EventName
from serving.core.actors import Actor
from serving.core.principals import Action
from serving.errors import (
    BodyTooLarge,
    DigestChanged,
    Forbidden,
    NotFound,
    ParameterInvalid,
    SeparationBroken,
    StateConflict,
)
from serving.governance import rows
from serving.governance.comparisons import ComparisonReport, specification_of
from serving.governance.entities import Evidence, Name, Order, Text
from serving.governance.evidence import MAX_CONTENT_BYTES, all_evidence, sign_evidence
from serving.governance.guard import EvidenceGuard, authors_of
from serving.governance.journal import Journal, new_id
from serving.governance.policies import DAY_NS, EvidenceKind
from serving.governance.requests import Requests
from serving.governance.verdicts import (
    ENVELOPE,
    Verdict,
    contradictions,
    sign_verdict,
    verdicts_in,
)
from serving.registry.entities import RegisteredModel, RegisteredVersion
from serving.trust.signatures import Envelope, SigningKey

MAX_VERDICT_BYTES: Final = 10 * MAX_CONTENT_BYTES

MAY_ISSUE: Final = (Action.APPROVE, Action.OPERATE)


class LiveComparisons(Protocol):
    """What the monitor found last: `control.comparisons.Comparisons`. Asked from this thread."""

    def latest(self, model: str, candidate: str) -> ComparisonReport | None: ...
    def of(self, model: str) -> tuple[ComparisonReport, ...]: ...


class NothingCompared:
    """Where there is no monitor."""

    def latest(self, model: str, candidate: str) -> ComparisonReport | None:
        del model, candidate
        return None

    def of(self, model: str) -> tuple[ComparisonReport, ...]:
        del model
        return ()


class VerdictOrder(Order, frozen=True, kw_only=True):
    """A verdict to be given. comparison: one that was made elsewhere; None: the live one."""

    candidate: Name
    comparison: ComparisonReport | None = None
    reason: Text = ""


class IssuedVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """A verdict and the envelope that signs it."""

    verdict: Verdict
    envelope: Envelope


class VerdictBook:
    """Each method works in the caller's transaction."""

    def __init__(
        self,
        guard: EvidenceGuard,
        requests: Requests,
        journal: Journal,
        *,
        key: SigningKey,
        live: LiveComparisons,
    ) -> None:
        self._guard = guard
        self._requests = requests
        self._journal = journal
        self._key = key
        self._live = live

    def issue(
        self, connection: Connection, model: str, order: VerdictOrder, *, actor: Actor
    ) -> IssuedVerdict:
        """Raises ModelNotFound, NotFound, Forbidden, SeparationBroken, DigestChanged, StateConflict,
        ParameterInvalid, BodyTooLarge."""
        found, version = self._requests.subject(connection, model, order.candidate, actor=actor)
        if not any(actor.may(action, found.name, found.tenant) for action in MAY_ISSUE):
            raise Forbidden("this credential may not give verdicts; it needs role approver")
        comparison = self._comparison(found, version, order)
        if (
            comparison.source != "live"
            and not self._guard.policies.tier(found.facts.risk_tier).local
        ):
            self._check_separation(version, actor)
        _, primary = self._requests.subject(connection, model, comparison.primary, actor=actor)
        _check_digests(comparison, primary, version)
        verdict = self._verdict(found, comparison, actor=actor, reason=order.reason)
        envelope = sign_verdict(verdict, self._key)
        self._keep(connection, verdict, envelope, actor=actor)
        return IssuedVerdict(verdict=verdict, envelope=envelope)

    def compared(
        self, connection: Connection, model: str, *, actor: Actor
    ) -> tuple[ComparisonReport, ...]:
        """The newest live comparison of each candidate. Raises ModelNotFound."""
        self._requests.versions(connection, model, actor=actor)
        return self._live.of(model)

    def listed(
        self, connection: Connection, model: str, *, actor: Actor, version: str = ""
    ) -> tuple[IssuedVerdict, ...]:
        """Those whose signatures hold, newest first. version: of the candidate, empty for all.

        Raises ModelNotFound, NotFound.
        """
        versions = self._requests.versions(connection, model, actor=actor)
        wanted = [each for each in versions if version in ("", each.version)]
        if version and not wanted:
            raise NotFound(f"{model} has no version {version[:64]!r}")
        found = [
            IssuedVerdict(verdict=verdict, envelope=envelope)
            for each in wanted
            for verdict, envelope in self._of(connection, each)
        ]
        return tuple(sorted(found, key=lambda each: -each.verdict.issued_ns))

    def find(
        self, connection: Connection, model: str, verdict: str, *, actor: Actor
    ) -> IssuedVerdict:
        """Raises ModelNotFound, NotFound."""
        for each in self.listed(connection, model, actor=actor):
            if each.verdict.id == verdict:
                return each
        raise NotFound(f"{model} has no verdict {verdict[:64]!r}")

    # -- inside ----------------------------------------------------------------------------------

    def _of(
        self, connection: Connection, version: RegisteredVersion
    ) -> list[tuple[Verdict, Envelope]]:
        trusted = self._guard.trusted()
        texts = rows.evidence_of(connection, version.model, version.version)
        return verdicts_in(all_evidence(texts, trusted, version), trusted)

    def _comparison(
        self, model: RegisteredModel, version: RegisteredVersion, order: VerdictOrder
    ) -> ComparisonReport:
        found = order.comparison or self._live.latest(model.name, version.version)
        if found is None:
            raise StateConflict(
                f"{version.key} is not being compared: give it a share of the traffic's copies, or "
                "hand in a comparison of a window, a replay or a data set"
            )
        if order.comparison is not None and found.source == "live":
            raise ParameterInvalid("a live comparison is the monitor's, and is not handed in")
        if (found.model, found.candidate) != (model.name, version.version):
            raise ParameterInvalid(f"the comparison is not about {version.key}")
        policy = specification_of(model.facts.comparison).digest()
        if found.specification_digest != policy:
            raise StateConflict(
                f"the comparison was made under specification {found.specification_digest[:12]}, and "
                f"the model's own is {policy[:12]}: compare by that one"
            )
        return found

    def _check_separation(self, version: RegisteredVersion, actor: Actor) -> None:
        if actor.identities & self._guard.policies.excluded(authors_of(version)):
            raise SeparationBroken(
                "nobody gives the verdict on their own work: have it compared live, or ask another"
            )

    def _verdict(
        self, model: RegisteredModel, comparison: ComparisonReport, *, actor: Actor, reason: str
    ) -> Verdict:
        now_ns = self._journal.now_ns()
        days = self._guard.policies.tier(model.facts.risk_tier.value).verdict_days
        verdict = Verdict(
            id=new_id(),
            outcome=comparison.decision.outcome,
            reasons=comparison.decision.reasons,
            model=comparison.model,
            primary=comparison.primary,
            primary_digest=comparison.primary_digest,
            candidate=comparison.candidate,
            candidate_digest=comparison.candidate_digest,
            policy_digest=comparison.specification_digest,
            alpha=specification_of(comparison.specification).alpha,
            comparison=comparison,
            issuer=actor.subject,
            reason=reason,
            issued_ns=now_ns,
            expires_ns=now_ns + days * DAY_NS,
        )
        broken = contradictions(verdict)
        if broken:
            raise ParameterInvalid(f"the comparison contradicts itself: {'; '.join(broken)}")
        return verdict

    def _keep(
        self, connection: Connection, verdict: Verdict, envelope: Envelope, *, actor: Actor
    ) -> None:
        evidence = Evidence(
            id=verdict.id,
            kind=EvidenceKind.VERDICT,
            model=verdict.model,
            version=verdict.candidate,
            digest=verdict.candidate_digest,
            outcome="pass" if verdict.outcome == "promote" else "fail",
            summary=f"{verdict.outcome} against {verdict.primary}",
            content={ENVELOPE: msgspec.to_builtins(envelope)},
            recorder=actor.subject,
            at_ns=verdict.issued_ns,
        )
        signed = sign_evidence(evidence, self._key)
        if len(signed.payload) > MAX_VERDICT_BYTES:
            raise BodyTooLarge(
                f"a verdict has at most {MAX_VERDICT_BYTES} bytes as evidence; compare fewer slices"
            )
        rows.add_evidence(
            connection,
            evidence.id,
            model=evidence.model,
            version=evidence.version,
            kind=evidence.kind,
            at_ns=evidence.at_ns,
            envelope=signed,
        )
        told = {
            "id": verdict.id,
            "outcome": verdict.outcome,
            "primary": verdict.primary,
            "primary_digest": verdict.primary_digest,
            "digest": verdict.candidate_digest,
            "source": verdict.comparison.source,
            "pairs": verdict.comparison.counts.pairs,
            "policy_digest": verdict.policy_digest,
        }
        event = Event.by(
            actor,
            EventName.VERDICT_ISSUED,
            f"version:{verdict.model}@{verdict.candidate}",
            after=told,
            reason=verdict.reason or "; ".join(verdict.reasons)[:1000],
        )
        self._journal.record(connection, event, facts=told)


def _check_digests(
    comparison: ComparisonReport, primary: RegisteredVersion, candidate: RegisteredVersion
) -> None:
    for version, digest in (
        (primary, comparison.primary_digest),
        (candidate, comparison.candidate_digest),
    ):
        if version.digest != digest:
            raise DigestChanged(f"{version.key} has another digest than what was compared")

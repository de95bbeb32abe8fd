"""Answers whether a version has what its tier of risk demands; asked by the registry at every step.

Nothing is remembered: each time the statements are read, their signatures verified, and the rules of
`artifacts.statements` applied, which a replica applies again before it loads.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from sqlalchemy import Connection

from serving.artifacts.manifest import Requirement
from serving.artifacts.statements import APPROVAL_TYPE, OVERRIDE, SERVE, Approval
from serving.core.clock import Clock
from serving.errors import ReleaseRefused, SignatureInvalid, TransitionRefused
from serving.governance import rows
from serving.governance.comparisons import specification_of
from serving.governance.counting import RETIRE, Count, count_approvals
from serving.governance.entities import Standing
from serving.governance.evidence import all_evidence, missing_evidence, read_evidence
from serving.governance.policies import EvidenceKind, Policies
from serving.governance.refusals import Refusals
from serving.governance.verdicts import Verdict, refusal, verdicts_in
from serving.registry import rows as registry_rows
from serving.registry.entities import ModelFacts, RegisteredModel, RegisteredVersion
from serving.registry.journal import Claim
from serving.registry.lifecycle import Demand
from serving.trust.signatures import Envelope, TrustedKeys


@dataclass(frozen=True, slots=True)
class ReleaseTerms:
    """What a release is made with. approvals: the envelopes that count; standing: what they come to."""

    requirement: Requirement
    approvals: tuple[Envelope, ...]
    standing: Standing


class EvidenceGuard:
    """The registry's guard. trusted: the trusted keys as they are now. refusals: what takes consent
    back and is in no database."""

    def __init__(
        self,
        policies: Policies,
        *,
        trusted: Callable[[], TrustedKeys],
        refusals: Refusals,
        clock: Clock,
    ) -> None:
        self.policies = policies
        self.trusted = trusted
        self.refusals = refusals
        self._clock = clock

    def check(self, connection: Connection, claim: Claim) -> None:
        """Passes when nothing is missing. Raises TransitionRefused, naming all of it."""
        demands = claim.transition.demands
        missing: list[str] = []
        if Demand.APPROVALS in demands:
            standing = self.standing(connection, claim.model, claim.version)
            missing += standing.missing
        elif Demand.VALIDATION in demands:
            missing += self._evidence(
                connection, claim.model, claim.version, [EvidenceKind.VALIDATION]
            )
        if Demand.VERDICT in demands:
            wanted = self.policies.tier(claim.model.facts.risk_tier).promote
            missing += self._evidence(connection, claim.model, claim.version, wanted)
        if Demand.RETIREMENT in demands and not claim.override:
            standing = self.standing(connection, claim.model, claim.version, kind=RETIRE)
            missing += standing.missing
        if missing:
            words = "; ".join(dict.fromkeys(missing))
            raise TransitionRefused(
                f"{claim.version.key} cannot be asked to {claim.transition.step}: missing: {words}"
            )

    def check_facts(self, facts: ModelFacts) -> None:
        """Raises ParameterInvalid for rules of comparison that are none."""
        specification_of(facts.comparison)

    def standing(
        self,
        connection: Connection,
        model: RegisteredModel,
        version: RegisteredVersion,
        *,
        kind: str = SERVE,
    ) -> Standing:
        """What counts for the version now, and what is missing."""
        tier = model.facts.risk_tier.value
        consent = self.policies.consent(tier, kind)
        count = self._count(connection, model, version, kind=kind)
        missing = list(count.missing)
        counting = count.counting if count.override is None else (count.override,)
        if count.override is None:
            missing += self._evidence(connection, model, version, consent.evidence)
        return Standing(
            tier=tier,
            satisfied=not missing,
            missing=tuple(missing),
            approvers=tuple(each.approver for each in counting),
            expires_ns=count.expires_ns,
            override=count.override is not None,
        )

    def ending(self, connection: Connection, *, before_ns: int) -> tuple[str, ...]:
        """Versions with traffic whose approvals are not enough, or will not be at that time."""
        found = []
        for traffic in registry_rows.all_traffic(connection):
            model = registry_rows.find_model(connection, traffic.model)
            for name in traffic.versions:
                version = registry_rows.find_version(connection, traffic.model, name)
                if model is None or version is None:
                    continue
                standing = self.standing(connection, model, version)
                if not standing.satisfied or 0 < standing.expires_ns < before_ns:
                    found.append(version.key)
        return tuple(found)

    def release_terms(
        self, connection: Connection, model: RegisteredModel, version: RegisteredVersion
    ) -> ReleaseTerms:
        """What a release of the version demands and rests on, as replicas will judge it."""
        count = self._count(connection, model, version, kind=SERVE)
        requirement = self.policies.requirement(model.facts.risk_tier.value)
        counting = count.counting
        if count.override is not None:
            counting = (count.override,)
            requirement = Requirement(tier=OVERRIDE, approvals=1, roles=count.override.roles)
        envelopes = tuple(
            envelope
            for approval, envelope in self.approvals(connection, version)
            if approval in counting
        )
        return ReleaseTerms(requirement, envelopes, self.standing(connection, model, version))

    def approvals(
        self, connection: Connection, version: RegisteredVersion
    ) -> list[tuple[Approval, Envelope]]:
        """The same with the envelopes, for the release of the version."""
        texts = rows.envelopes_of_version(connection, version.model, version.version)
        # Those whose row is gone count still.
        texts += self.refusals.about(version.model, version.version)
        return read_statements(dict.fromkeys(texts), self.trusted())

    def missing_evidence(
        self, connection: Connection, model: RegisteredModel, version: RegisteredVersion, kind: str
    ) -> list[str]:
        """What an approver would have to see and cannot."""
        consent = self.policies.consent(model.facts.risk_tier.value, kind)
        return self._evidence(connection, model, version, consent.evidence)

    def _count(
        self,
        connection: Connection,
        model: RegisteredModel,
        version: RegisteredVersion,
        *,
        kind: str,
    ) -> Count:
        return count_approvals(
            self.policies.rule(model.facts.risk_tier.value, authors_of(version), kind=kind),
            [approval for approval, _ in self.approvals(connection, version)],
            about=(version.model, version.version, version.digest),
            now_ns=self._clock.wall_ns(),
        )

    def _evidence(
        self,
        connection: Connection,
        model: RegisteredModel,
        version: RegisteredVersion,
        wanted: Collection[EvidenceKind],
    ) -> list[str]:
        texts = rows.evidence_of(connection, version.model, version.version)
        trusted = self.trusted()
        others = [kind for kind in wanted if kind is not EvidenceKind.VERDICT]
        missing = missing_evidence(others, read_evidence(texts, trusted, version), model.facts)
        if EvidenceKind.VERDICT in wanted:
            known = verdicts_in(all_evidence(texts, trusted, version), trusted)
            missing += self._verdict(connection, model, version, [each for each, _ in known])
        return missing

    def _verdict(
        self,
        connection: Connection,
        model: RegisteredModel,
        version: RegisteredVersion,
        verdicts: list[Verdict],
    ) -> list[str]:
        """What a verdict would have to say and none does.

        The first version of a model has nothing to be compared with. One that was promoted before may
        come back without a new verdict, unless the newest one speaks against it: a roll-back must not
        wait for a comparison.
        """
        promoted = rows.promoted_versions(connection, model.name)
        now = registry_rows.traffic_of(connection, model.name).stable
        before = now or next((name for name in promoted if name != version.version), "")
        primary = registry_rows.find_version(connection, model.name, before)
        if primary is None or primary.version == version.version:
            return []
        about = [each for each in verdicts if each.primary_digest == primary.digest]
        if not about and version.version in promoted:
            return []
        why = refusal(about, primary, model.facts, now_ns=self._clock.wall_ns())
        return [f"verdict: {why}"] if why else []


def read_statement(envelope: Envelope, trusted: TrustedKeys) -> Approval:
    """What was signed, by a key that counted when it was. Raises SignatureInvalid."""
    try:
        claimed = Approval.decode(envelope.payload)
    except ReleaseRefused as error:
        raise SignatureInvalid(error.message) from error
    trusted.verify(envelope, payload_type=APPROVAL_TYPE, role="approval", at_ns=claimed.issued_ns)
    return claimed


def read_statements(texts: Iterable[str], trusted: TrustedKeys) -> list[tuple[Approval, Envelope]]:
    """Those whose signatures hold; who asks for the request sees why the others do not."""
    found = []
    for text in texts:
        try:
            envelope = Envelope.decode(text.encode())
            found.append((read_statement(envelope, trusted), envelope))
        except SignatureInvalid:
            continue
    return found


def authors_of(version: RegisteredVersion) -> frozenset[str]:
    """Everybody whose work the version is."""
    return frozenset({version.author, version.author_owner} - {""})

"""Verdicts: whether a candidate may take the place of a version, said once, signed, with the evidence.

A verdict is a comparison as it stood (both digests, the specification, windows of the ledger, counts,
figures with their intervals, slices) with the decision drawn from it. It is a DSSE envelope of its own,
so that a file holds everything that an auditor needs but the key: `read_verdict` believes nothing that
is not signed by a key trusted for the role `verdict`.

A verdict is about two artifacts. It counts for a promotion while it has not run out, the version that
the candidate would replace is the one it was compared with, and the model's specification is the one it
was compared by; of several the newest decides.
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from serving.errors import SignatureInvalid
from serving.governance.comparisons import ComparisonReport, specification_of
from serving.governance.entities import Evidence
from serving.governance.policies import EvidenceKind
from serving.ledger.pairs import windows_agree
from serving.monitoring.figures import Outcome
from serving.registry.entities import ModelFacts, RegisteredVersion
from serving.trust.signatures import Envelope, SigningKey, TrustedKeys

VERDICT_TYPE: Final = "application/vnd.serving.verdict+json"
ENVELOPE: Final = "envelope"
"""Where the evidence holds it."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What is signed. issuer: who asked for it. reasons: one for each limit that speaks.

    policy_digest: of the comparison's specification, and `comparison` holds it whole.
    """

    id: str
    outcome: Outcome
    reasons: tuple[str, ...]
    model: str
    primary: str
    primary_digest: str
    candidate: str
    candidate_digest: str
    policy_digest: str
    alpha: float
    comparison: ComparisonReport
    issuer: str
    reason: str
    issued_ns: int
    expires_ns: int


def sign_verdict(verdict: Verdict, key: SigningKey) -> Envelope:
    return key.sign(VERDICT_TYPE, msgspec.json.encode(verdict))


def read_verdict(envelope: Envelope, trusted: TrustedKeys) -> Verdict:
    """What was signed, once it holds together. Raises SignatureInvalid."""
    try:
        claimed = msgspec.json.decode(envelope.payload, type=Verdict)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SignatureInvalid(f"this is no verdict: {error}") from error
    trusted.verify(envelope, payload_type=VERDICT_TYPE, role="verdict", at_ns=claimed.issued_ns)
    broken = contradictions(claimed)
    if broken:
        raise SignatureInvalid(f"the verdict contradicts itself: {'; '.join(broken)}")
    return claimed


def contradictions(verdict: Verdict) -> list[str]:
    """Where a verdict says two things: nobody should sign such a one, and none is believed."""
    compared = verdict.comparison
    pairs = (
        ("outcome", verdict.outcome, compared.decision.outcome),
        ("reasons", verdict.reasons, compared.decision.reasons),
        ("model", verdict.model, compared.model),
        ("primary", verdict.primary, compared.primary),
        ("primary_digest", verdict.primary_digest, compared.primary_digest),
        ("candidate", verdict.candidate, compared.candidate),
        ("candidate_digest", verdict.candidate_digest, compared.candidate_digest),
        ("policy_digest", verdict.policy_digest, compared.specification_digest),
    )
    found = [name for name, said, meant in pairs if said != meant]
    specification = specification_of(compared.specification)
    if specification.digest() != verdict.policy_digest:
        found.append("specification")
    if specification.alpha != verdict.alpha:
        found.append("alpha")
    if not windows_agree(compared.windows, compared.counts.pairs, source=compared.source):
        found.append("windows")
    return found


def verdicts_in(
    evidence: Iterable[Evidence], trusted: TrustedKeys
) -> list[tuple[Verdict, Envelope]]:
    """Those whose own signature holds and that are about the version of their evidence."""
    found = []
    for each in evidence:
        if each.kind is not EvidenceKind.VERDICT:
            continue
        try:
            envelope = msgspec.convert(each.content.get(ENVELOPE), Envelope)
            verdict = read_verdict(envelope, trusted)
        except (SignatureInvalid, msgspec.ValidationError):
            continue
        about = (verdict.model, verdict.candidate, verdict.candidate_digest)
        if about == (each.model, each.version, each.digest):
            found.append((verdict, envelope))
    return found


def refusal(
    verdicts: Iterable[Verdict], primary: RegisteredVersion, facts: ModelFacts, *, now_ns: int
) -> str:
    """Why the newest verdict on replacing `primary` lets nothing through; empty when it does."""
    against = [each for each in verdicts if each.primary_digest == primary.digest]
    if not against:
        return f"there is none that compares it with {primary.key} ({primary.digest[:12]})"
    newest = max(against, key=lambda each: each.issued_ns)
    if newest.outcome != "promote":
        why = "; ".join(newest.reasons[:3])
        return f"{newest.id} says {newest.outcome}" + (f": {why}" if why else "")
    if newest.expires_ns <= now_ns:
        return f"{newest.id} has run out: compare anew"
    if newest.policy_digest != specification_of(facts.comparison).digest():
        return f"{newest.id} was made under another specification than the model has now"
    return ""

"""Evidence for a version: recorded once, signed, bound to the digest; and the card that facts make.

The newest piece of a kind decides: a bias report that fails takes back an earlier one that passed. A
row that was edited, or copied from another version, is not evidence of anything.
"""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from serving.errors import SignatureInvalid
from serving.governance.entities import Evidence
from serving.governance.policies import EvidenceKind
from serving.registry.entities import ModelFacts, RegisteredVersion
from serving.trust.signatures import Envelope, SigningKey, TrustedKeys

EVIDENCE_TYPE: Final = "application/vnd.serving.evidence+json"
MAX_CONTENT_BYTES: Final = 200_000

CARD_FIELDS: Final = (
    "owner",
    "team",
    "purpose",
    "description",
    "contacts",
    "data_sets",
    "intended_uses",
    "prohibited_uses",
    "limitations",
    "ethical_considerations",
)
"""What a model card must say before it counts as complete."""


def sign_evidence(evidence: Evidence, key: SigningKey) -> Envelope:
    return key.sign(EVIDENCE_TYPE, msgspec.json.encode(evidence))


def read_evidence(
    texts: Iterable[str], trusted: TrustedKeys, version: RegisteredVersion
) -> dict[EvidenceKind, Evidence]:
    """The newest of each kind that was signed for this very version."""
    found: dict[EvidenceKind, Evidence] = {}
    for evidence in all_evidence(texts, trusted, version):
        known = found.get(evidence.kind)
        if known is None or evidence.at_ns >= known.at_ns:
            found[evidence.kind] = evidence
    return found


def all_evidence(
    texts: Iterable[str], trusted: TrustedKeys, version: RegisteredVersion
) -> tuple[Evidence, ...]:
    """Every piece that was signed for this very version."""
    about = (version.model, version.version, version.digest)
    read = [evidence for text in texts if (evidence := _read(text, trusted)) is not None]
    return tuple(each for each in read if (each.model, each.version, each.digest) == about)


def missing_evidence(
    wanted: Iterable[EvidenceKind], found: Mapping[EvidenceKind, Evidence], facts: ModelFacts
) -> list[str]:
    """What is not there, or not good, in words."""
    missing = []
    for kind in dict.fromkeys(wanted):
        if kind is EvidenceKind.MODEL_CARD:
            gaps = [field for field in CARD_FIELDS if not getattr(facts, field)]
            if gaps:
                missing.append(f"evidence model_card: the model says nothing of {', '.join(gaps)}")
        elif kind not in found:
            missing.append(f"evidence {kind}: there is none")
        elif found[kind].outcome != "pass":
            why = found[kind].summary
            missing.append(
                f"evidence {kind}: the newest did not pass" + (f": {why}" if why else "")
            )
    return missing


def _read(text: str, trusted: TrustedKeys) -> Evidence | None:
    try:
        envelope = Envelope.decode(text.encode())
        claimed = msgspec.json.decode(envelope.payload, type=Evidence)
        trusted.verify(envelope, payload_type=EVIDENCE_TYPE, role="verdict", at_ns=claimed.at_ns)
    except (SignatureInvalid, msgspec.DecodeError, UnicodeDecodeError):
        return None
    return claimed

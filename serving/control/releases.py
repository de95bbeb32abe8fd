"""Releases: why a version may run, signed, and written where replicas find it.

The manifest of a version is signed once, when the version is validated (`ManifestGuard`): from then
on the requirement of its tier of risk is part of what was signed, and no row that is edited later
lowers it. A release is that manifest with the statements that count now; it is written as a whole
whenever it differs, withdrawn approvals left out, and then verified exactly as replicas do
(`artifacts.release`). An emergency override takes the place of the tier's requirement for its hours.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import Connection

from serving.artifacts.bundles import ENTRY
from serving.artifacts.manifest import MANIFEST_TYPE, Manifest, Requirement
from serving.artifacts.release import (
    Release,
    Subject,
    release_file,
    verify_release,
    write_release,
)
from serving.control.register import CheckedRelease
from serving.core.clock import Clock
from serving.errors import ReleaseRefused, SignatureInvalid
from serving.governance import rows as statements
from serving.governance.guard import EvidenceGuard
from serving.governance.waivers import LOCAL_APPROVER
from serving.registry import rows
from serving.registry.ensembles import ENTRY as STAGES
from serving.registry.entities import ModelFacts, RegisteredModel, RegisteredVersion
from serving.registry.journal import Claim
from serving.registry.lifecycle import Step
from serving.trust.signatures import Envelope, SigningKey, TrustedKeys

MANIFEST: Final = "manifest"
"""The kind of row that holds a signed manifest, among what is signed about a version."""


@dataclass(frozen=True, slots=True)
class ManifestGuard:
    """Fits `registry.journal.Guard`: the evidence first, then the manifest of what was validated."""

    evidence: EvidenceGuard
    key: SigningKey
    clock: Clock

    def check(self, connection: Connection, claim: Claim) -> None:
        """Raises TransitionRefused."""
        self.evidence.check(connection, claim)
        if claim.transition.step is Step.VALIDATE:
            requirement = self.evidence.release_terms(
                connection, claim.model, claim.version
            ).requirement
            envelope = self._sign(claim.version, requirement)
            statements.add_evidence(
                connection,
                f"{MANIFEST}-{claim.version.digest[:8]}-{self.clock.wall_ns():x}"[:32],
                model=claim.version.model,
                version=claim.version.version,
                kind=MANIFEST,
                at_ns=self.clock.wall_ns(),
                envelope=envelope,
            )

    def check_facts(self, facts: ModelFacts) -> None:
        """Raises ParameterInvalid."""
        self.evidence.check_facts(facts)

    def _sign(self, version: RegisteredVersion, requirement: Requirement) -> Envelope:
        return manifest_of(version, requirement, now_ns=self.clock.wall_ns()).sign(self.key)


@dataclass(frozen=True, slots=True)
class ReleaseFiles:
    """Fits `control.register.Releases`. folder: of the releases. trusted: the keys as they are now."""

    folder: Path
    evidence: EvidenceGuard
    key: SigningKey
    trusted: Callable[[], TrustedKeys]
    clock: Clock

    def check(self, connection: Connection, version: RegisteredVersion) -> CheckedRelease:
        """The release, written and verified. Raises ReleaseRefused."""
        model = rows.find_model(connection, version.model)
        if model is None:
            raise ReleaseRefused(f"there is no model {version.model}")
        release = self._release(connection, model, version)
        path = release_file(self.folder, version.model, version.version)
        try:
            # What is on disk is what replicas believe: it follows even when it does not hold.
            if not path.exists() or path.read_bytes() != release.encode():
                write_release(path, release)
        except OSError as error:
            raise ReleaseRefused(f"its release cannot be written: {error.strerror}") from error
        try:
            trusted = self.trusted()
        except SignatureInvalid as error:
            raise ReleaseRefused(error.message) from error
        subject = Subject(version.model, version.version, version.digest)
        found = verify_release(release, trusted, subject=subject, now_ns=self.clock.wall_ns())
        if version.definition.digest != version.digest:
            raise ReleaseRefused("its definition names another digest than its row")
        is_local = {each.approver for each in found.approvals} == {LOCAL_APPROVER}
        return CheckedRelease(str(path), is_local)

    def _release(
        self, connection: Connection, model: RegisteredModel, version: RegisteredVersion
    ) -> Release:
        terms = self.evidence.release_terms(connection, model, version)
        if terms.standing.override:
            signed = manifest_of(version, terms.requirement, now_ns=version.created_ns)
            return Release(signed.sign(self.key), terms.approvals)
        manifest = _signed_manifest(connection, version)
        if manifest is None:
            raise ReleaseRefused("no manifest was signed for it: it was never validated here")
        return Release(manifest, terms.approvals)


def manifest_of(version: RegisteredVersion, requirement: Requirement, *, now_ns: int) -> Manifest:
    """The manifest of the files that were inspected, or of the one file there is."""
    entry = STAGES if version.definition.stages else ENTRY
    files = (version.inspection or {}).get("files") or {entry: version.digest}
    entries = [path for path in files if path.endswith(".onnx")]
    return Manifest.of(
        version.model,
        version.version,
        author=version.author,
        author_owner=version.author_owner,
        requirement=requirement,
        digests=files,
        entry=entries[0] if entries else entry,
        created_ns=now_ns,
    )


def _signed_manifest(connection: Connection, version: RegisteredVersion) -> Envelope | None:
    """The first one: what is added later takes nothing back."""
    for text in statements.evidence_of(connection, version.model, version.version):
        try:
            envelope = Envelope.decode(text.encode())
        except SignatureInvalid:
            continue
        if envelope.payload_type == MANIFEST_TYPE:
            return envelope
    return None

"""A release: the signed manifest of one version with the signed approvals it serves by.

`verify_release` decides offline, from the release and the trusted keys alone:

    manifest    signed by a key trusted for `artifact`, and about this model, version and digest
    approvals   signed by keys trusted for `approval`, each about the same model, version, digest and
                author, approved, of the kind `serve`, issued and not expired
    people      as many different approvers as the manifest requires, none of them the author, with
                the required roles

An approval that does not count is passed over; its reason is told when too few are left. Nothing says
"verified" but a `VerifiedRelease`, and nothing else makes one. What is withdrawn is taken out of
the release by control, which writes the file as a whole.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import msgspec

from serving.artifacts.manifest import MANIFEST_TYPE, Manifest, Requirement
from serving.artifacts.statements import APPROVAL_TYPE, OVERRIDE, SERVE, Approval
from serving.errors import ReleaseRefused, SignatureInvalid
from serving.trust.privatefiles import replace_private
from serving.trust.signatures import Envelope, TrustedKeys

CLOCK_SKEW_NS: Final = 300_000_000_000
"""How far the clock of whoever signed may be ahead of ours."""

MAX_RELEASE_BYTES: Final = 4 * 1024 * 1024
MAX_APPROVALS: Final = 64


class Release(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What control writes and replicas verify."""

    manifest: Envelope
    approvals: tuple[Envelope, ...] = ()

    def encode(self) -> bytes:
        return msgspec.json.encode(self)

    @classmethod
    def decode(cls, content: bytes) -> Self:
        """Raises ReleaseRefused for what is no release."""
        try:
            return msgspec.json.decode(content, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ReleaseRefused(f"the release cannot be read: {error}") from error


@dataclass(frozen=True, slots=True)
class Subject:
    """Which version is meant. digest: of its whole artifact."""

    model: str
    version: str
    digest: str


@dataclass(frozen=True, slots=True)
class VerifiedRelease:
    """A release that holds. approvals: those that count; expires_ns: when it no longer will, or 0."""

    manifest: Manifest
    approvals: tuple[Approval, ...]
    signers: tuple[str, ...]
    expires_ns: int


def verify_release(
    release: Release, trusted: TrustedKeys, *, subject: Subject, now_ns: int
) -> VerifiedRelease:
    """The release as a value that proves itself. Raises ReleaseRefused with the reason."""
    if len(release.approvals) > MAX_APPROVALS:
        raise ReleaseRefused(f"more than {MAX_APPROVALS} approvals")
    try:
        signed = trusted.verify(
            release.manifest, payload_type=MANIFEST_TYPE, role="artifact", at_ns=now_ns
        )
    except SignatureInvalid as error:
        raise ReleaseRefused(f"the manifest is refused: {error.message}") from error
    manifest = Manifest.decode(signed.payload)
    found = Subject(manifest.model, manifest.version, manifest.digest)
    if found != subject:
        raise ReleaseRefused(f"the manifest is about {_named(found)}, not about {_named(subject)}")
    counted: dict[str, Approval] = {}
    reasons: list[str] = []
    for envelope in release.approvals:
        try:
            approval = _approval(envelope, manifest, trusted, now_ns)
        except (ReleaseRefused, SignatureInvalid) as error:
            reasons.append(error.message)
        else:
            counted.setdefault(approval.approver, approval)
    approvals = tuple(counted.values())
    _check_people(manifest.requirement, approvals, reasons)
    ends = [each.expires_ns for each in approvals if each.expires_ns]
    return VerifiedRelease(manifest, approvals, signed.key_ids, min(ends, default=0))


def release_file(folder: Path, model: str, version: str) -> Path:
    """Where the release of a version lies."""
    return folder / f"{model}@{version}.json"


def write_release(path: Path, release: Release) -> None:
    """Replaces the file as a whole. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace_private(path, release.encode())


def read_release(path: Path) -> Release:
    """Raises ReleaseRefused when there is none, or it cannot be one; OSError when it cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError as error:
        raise ReleaseRefused(f"there is no release {path.name}") from error
    with os.fdopen(descriptor, "rb") as file:
        content = file.read(MAX_RELEASE_BYTES + 1)
    if len(content) > MAX_RELEASE_BYTES:
        raise ReleaseRefused(f"a release has at most {MAX_RELEASE_BYTES} bytes")
    return Release.decode(content)


def _approval(
    envelope: Envelope, manifest: Manifest, trusted: TrustedKeys, now_ns: int
) -> Approval:
    """An approval that counts. Raises SignatureInvalid, ReleaseRefused."""
    signed = trusted.verify(envelope, payload_type=APPROVAL_TYPE, role="approval", at_ns=now_ns)
    approval = Approval.decode(signed.payload)
    about = (approval.model, approval.version, approval.digest, approval.author)
    named = f"the approval of {approval.approver}"
    if about != (manifest.model, manifest.version, manifest.digest, manifest.author):
        raise ReleaseRefused(f"{named} is about another version, digest or author")
    wanted = OVERRIDE if manifest.requirement.tier == OVERRIDE else SERVE
    if approval.kind != wanted or approval.decision != "approved":
        raise ReleaseRefused(
            f"{named} does not let it serve ({approval.kind}, {approval.decision})"
        )
    if approval.issued_ns > now_ns + CLOCK_SKEW_NS:
        raise ReleaseRefused(f"{named} is from the future")
    if approval.expires_ns and approval.expires_ns <= now_ns:
        raise ReleaseRefused(f"{named} is expired")
    if approval.identities & {manifest.author, manifest.author_owner} - {""}:
        raise ReleaseRefused(f"{named} is the author's own")
    if not set(approval.roles) & set(manifest.requirement.roles):
        raise ReleaseRefused(
            f"{named} is of none of the roles {_listed(manifest.requirement.roles)}"
        )
    return approval


def _check_people(
    requirement: Requirement, approvals: Sequence[Approval], reasons: Sequence[str]
) -> None:
    why = f" ({'; '.join(reasons)})" if reasons else ""
    if len(approvals) < requirement.approvals:
        raise ReleaseRefused(
            f"tier {requirement.tier} needs {requirement.approvals} approvals, "
            f"{len(approvals)} count{why}"
        )
    held = {role for approval in approvals for role in approval.roles}
    missing = [role for role in requirement.roles if role not in held]
    if missing and requirement.approvals:
        raise ReleaseRefused(f"nobody with the role {_listed(missing)} approved{why}")


def _named(subject: Subject) -> str:
    return f"{subject.model}@{subject.version} with the digest {subject.digest[:16]}…"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"

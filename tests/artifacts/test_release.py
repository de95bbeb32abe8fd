"""Whether a version may serve, decided from its release and the trusted keys alone."""

import contextlib
from typing import Any

import msgspec
import pytest

from serving.artifacts.manifest import MANIFEST_TYPE, Manifest, Requirement
from serving.artifacts.release import (
    CLOCK_SKEW_NS,
    Release,
    Subject,
    VerifiedRelease,
    verify_release,
)
from serving.artifacts.statements import APPROVAL_TYPE, Approval
from serving.errors import ReleaseRefused
from serving.trust.signatures import ROLES, Envelope, Role, SigningKey, TrustedKey, TrustedKeys
from tests.plans import a_version
from tests.releases import approval_of, manifest_of

VERSION = a_version()
SUBJECT = Subject(VERSION.model, VERSION.version, VERSION.digest)
NOW_NS = 1_800_000_000_000_000_000
HOUR_NS = 3_600_000_000_000
AUTHORS, APPROVERS, STRANGER = SigningKey.create(), SigningKey.create(), SigningKey.create()
MANIFEST = manifest_of(VERSION, created_ns=NOW_NS - HOUR_NS)
TWO = Requirement("high", 2, ("approver", "reviewer"))


def trusted_key(key: SigningKey, *roles: Role, **fields: Any) -> TrustedKey:
    return TrustedKey(key.key_id, key.public.text, "of a test", roles, **fields)


TRUSTED = TrustedKeys([trusted_key(AUTHORS, "artifact"), trusted_key(APPROVERS, "approval")])


def release_of(
    manifest: Manifest = MANIFEST, *approvals: Approval, by: SigningKey = APPROVERS
) -> Release:
    """One approval that counts, unless others are given."""
    given = approvals or (approval_of(manifest),)
    return Release(manifest.sign(AUTHORS), tuple(each.sign(by) for each in given))


def verify(
    release: Release,
    *,
    trusted: TrustedKeys = TRUSTED,
    subject: Subject = SUBJECT,
    now_ns: int = NOW_NS,
) -> VerifiedRelease:
    return verify_release(release, trusted, subject=subject, now_ns=now_ns)


def refusal(release: Release, **options: Any) -> str:
    with pytest.raises(ReleaseRefused) as refused:
        verify(release, **options)
    return refused.value.message


def test_release_that_holds_is_a_value() -> None:
    """With the manifest, the approvals that count, who signed it and until when it holds."""
    approval = approval_of(MANIFEST, expires_ns=NOW_NS + HOUR_NS)
    found = verify(Release.decode(release_of(MANIFEST, approval).encode()))

    assert found == VerifiedRelease(MANIFEST, (approval,), (AUTHORS.key_id,), NOW_NS + HOUR_NS)


def test_ar_17_every_changed_byte_of_a_release_is_refused_or_changes_nothing() -> None:
    """Manifest, approval, signatures, key ids: no byte can be changed into another release."""
    whole = bytearray(release_of().encode())
    right = verify(Release.decode(bytes(whole)))
    for at in range(len(whole)):
        whole[at] ^= 1
        with contextlib.suppress(ReleaseRefused):
            # A base64 text has spare bits in its last digit; the bytes they mean are the same.
            assert verify(Release.decode(bytes(whole))) == right
        whole[at] ^= 1


@pytest.mark.parametrize(
    "subject",
    [
        Subject("other", VERSION.version, VERSION.digest),
        Subject(VERSION.model, "2", VERSION.digest),
        Subject(VERSION.model, VERSION.version, "cd" * 32),
    ],
    ids=["model", "version", "files"],
)
def test_ar_18_signature_about_something_else_is_refused(subject: Subject) -> None:
    """All of it verified, but about another model, version or file set."""
    assert "is about" in refusal(release_of(), subject=subject)


@pytest.mark.parametrize("field", ["model", "version", "digest", "author"])
def test_ar_18_approval_of_something_else_does_not_count(field: str) -> None:
    """It is bound to model, version, digest and author; none of them can be exchanged."""
    moved = msgspec.structs.replace(approval_of(MANIFEST), **{field: "ef" * 32})

    assert "about another version" in refusal(release_of(MANIFEST, moved))


def test_ar_18_envelope_of_another_kind_does_not_pass() -> None:
    """An approval in the manifest's place, a manifest in the approval's."""
    manifest, approval = MANIFEST.sign(AUTHORS), approval_of(MANIFEST).sign(APPROVERS)

    assert "signed as" in refusal(Release(approval, (approval,)))
    assert "signed as" in refusal(Release(manifest, (manifest,)))
    assert "cannot be read" in refusal(Release(AUTHORS.sign(MANIFEST_TYPE, b"{}"), (approval,)))
    assert "cannot be read" in refusal(Release(manifest, (APPROVERS.sign(APPROVAL_TYPE, b"[]"),)))


KEYS: dict[str, tuple[list[TrustedKey], str]] = {
    "unknown": ([trusted_key(APPROVERS, "approval")], "unknown"),
    "revoked": (
        [trusted_key(AUTHORS, *ROLES, revoked_at_ns=1), trusted_key(APPROVERS, "approval")],
        "revoked",
    ),
    "expired": (
        [trusted_key(AUTHORS, *ROLES, not_after_ns=NOW_NS), trusted_key(APPROVERS, "approval")],
        "expired",
    ),
    "wrong role": (
        [trusted_key(AUTHORS, "log", "audit"), trusted_key(APPROVERS, "approval")],
        "may not sign for artifact",
    ),
    "approver revoked": (
        [trusted_key(AUTHORS, "artifact"), trusted_key(APPROVERS, *ROLES, revoked_at_ns=1)],
        "0 count (key",
    ),
    "approver in a wrong role": (
        [trusted_key(AUTHORS, "artifact"), trusted_key(APPROVERS, "artifact")],
        "may not sign for approval",
    ),
}


@pytest.mark.parametrize(("keys", "reason"), KEYS.values(), ids=list(KEYS))
def test_ar_21_key_that_does_not_count_is_refused(keys: list[TrustedKey], reason: str) -> None:
    """Of the author or of whoever signs approvals, each with its reason."""
    assert reason in refusal(release_of(), trusted=TrustedKeys(keys))


def test_ar_21_stripped_signatures_are_refused() -> None:
    """Of the manifest, and of an approval."""
    release = release_of()
    bare = Envelope(release.manifest.payload, MANIFEST_TYPE, ())
    unsigned = msgspec.structs.replace(release.approvals[0], signatures=())

    assert "not signed" in refusal(Release(bare, release.approvals))
    assert "not signed" in refusal(Release(release.manifest, (unsigned,)))


def test_ar_21_swapped_signer_is_refused() -> None:
    """Signed anew by a key that nobody trusts."""
    assert "unknown" in refusal(release_of(by=STRANGER))
    assert "unknown" in refusal(Release(MANIFEST.sign(STRANGER), release_of().approvals))


def test_ar_22_there_is_no_answer_but_a_value() -> None:
    """A verifier that fails raises; nothing falsy can be taken for verified."""

    class Broken(TrustedKeys):
        """Keys whose verifier is at an end."""

        def verify(self, *_: object, **__: object) -> Any:
            raise RuntimeError("no verifier")

    class Falsy(TrustedKeys):
        """Keys whose verifier says nothing."""

        def verify(self, *_: object, **__: object) -> Any:
            return None

    failures: list[tuple[TrustedKeys, type[Exception]]] = [
        (Broken(), RuntimeError),
        (Falsy(), AttributeError),
    ]
    for keys, kind in failures:
        with pytest.raises(kind):
            verify(release_of(), trusted=keys)
    assert isinstance(verify(release_of()), VerifiedRelease)


UNCOUNTED: dict[str, tuple[dict[str, Any], str]] = {
    "rejected": ({"decision": "rejected"}, "does not let it serve"),
    "another kind": ({"kind": "retire"}, "does not let it serve"),
    "expired": ({"expires_ns": NOW_NS}, "is expired"),
    "future": ({"issued_ns": NOW_NS + CLOCK_SKEW_NS + 1}, "from the future"),
    "own": ({"approver": MANIFEST.author}, "author's own"),
    "own key": ({"approver": "ci", "approver_owner": MANIFEST.author}, "author's own"),
    "no role": ({"roles": ("caller",)}, "none of the roles approver"),
}


@pytest.mark.parametrize(("changes", "reason"), UNCOUNTED.values(), ids=list(UNCOUNTED))
def test_approval_that_does_not_count_is_refused(changes: dict[str, Any], reason: str) -> None:
    """With the reason, because it is one too few."""
    assert reason in refusal(release_of(MANIFEST, approval_of(MANIFEST, **changes)))


def test_author_by_an_api_key_cannot_approve_in_person() -> None:
    """Whoever answers for the key that registered the version is its author, too."""
    manifest = manifest_of(VERSION, author="ci", author_owner="ann")

    assert "author's own" in refusal(release_of(manifest, approval_of(manifest, approver="ann")))


def test_as_many_people_as_the_tier_demands() -> None:
    """Two statements of one person are one; every role is held by somebody who counts."""
    manifest = manifest_of(VERSION, requirement=TWO)
    ann = approval_of(manifest, approver="ann")
    bob = approval_of(manifest, approver="bob", roles=("reviewer",))
    eve = approval_of(manifest, approver="eve")

    assert verify(release_of(manifest, ann, bob)).approvals == (ann, bob)
    assert "needs 2 approvals, 1 count" in refusal(release_of(manifest, ann, ann))
    assert "nobody with the role reviewer" in refusal(release_of(manifest, ann, eve))


def test_requirement_cannot_be_lowered_beside_the_manifest() -> None:
    """It is part of what the author's key signed."""
    demanding = manifest_of(VERSION, requirement=TWO)
    lowered = msgspec.structs.replace(demanding, requirement=Requirement("demo", 0, ()))
    signed = demanding.sign(AUTHORS)
    edited = msgspec.structs.replace(signed, payload=msgspec.json.encode(lowered))

    assert "does not fit" in refusal(Release(edited, release_of(demanding).approvals))


def test_tier_without_approvals_needs_none() -> None:
    """The signature alone, then."""
    manifest = manifest_of(VERSION, requirement=Requirement("none", 0, ()))

    assert verify(Release(manifest.sign(AUTHORS))).approvals == ()


def test_too_many_approvals_are_refused_unread() -> None:
    """A release is bounded."""
    assert "more than 64" in refusal(Release(MANIFEST.sign(AUTHORS), release_of().approvals * 65))

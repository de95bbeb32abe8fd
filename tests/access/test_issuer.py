"""What the local issuer signs is accepted by a verifier of the same folder, and nothing else is."""

import json
from base64 import urlsafe_b64decode
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from serving.access.issuer import LocalIssuer
from serving.access.tokens import Authenticator
from serving.core.clock import ManualClock
from serving.core.principals import Principal, Role
from serving.errors import SettingInvalid, StartFailed, Unauthenticated
from serving.settings import AccessSettings


def test_an_issued_token_is_accepted_as_what_it_says(
    issuer: LocalIssuer, settings: AccessSettings, now_s: int
) -> None:
    """Subject, roles and models of the request come back as the principal."""
    token = issuer.issue(subject="alice", roles=[Role.CALLER], models=["m1", "m2"])
    authenticator = Authenticator([issuer.trusted], settings)

    principal = authenticator.authenticate(b"Bearer " + token.encode(), now_s)

    expected = Principal(
        "alice", frozenset({Role.CALLER}), frozenset({"m1", "m2"}), issuer="serving-local"
    )
    assert expected == principal


@pytest.mark.parametrize("tenant", ["", "acme"])
def test_a_token_names_a_tenant_or_none(
    issuer: LocalIssuer, settings: AccessSettings, now_s: int, tenant: str
) -> None:
    """The principal is a member of the tenant that was asked for, and of none otherwise."""
    token = issuer.issue(subject="alice", roles=[Role.CALLER], tenant=tenant)
    principal = Authenticator([issuer.trusted], settings).authenticate(
        b"Bearer " + token.encode(), now_s
    )

    assert principal.tenant == tenant


def test_a_token_says_all_that_the_profile_demands(issuer: LocalIssuer, now_s: int) -> None:
    """RFC 9068: typ at+jwt, a key id, and iss, aud, sub, iat, exp, jti; jti is never repeated."""
    tokens = [issuer.issue(subject="a", roles=[], ttl_s=60) for _ in range(2)]
    header, payload = (
        json.loads(urlsafe_b64decode(part + "==")) for part in tokens[0].split(".")[:2]
    )

    assert header == {"alg": "EdDSA", "typ": "at+jwt", "kid": header["kid"]}
    assert payload["exp"] == payload["iat"] + 60 == now_s + 60
    ours = {"roles", "models", "tenant"}
    assert payload.keys() == {"iss", "aud", "sub", "iat", "exp", "jti"} | ours
    assert len({jwt.decode(t, options={"verify_signature": False})["jti"] for t in tokens}) == 2


def test_the_key_survives_a_restart(
    tmp_path: Path, settings: AccessSettings, clock: ManualClock
) -> None:
    """Opening the same folder again gives the same key, another folder another one."""
    first, again, other = (
        LocalIssuer.open(tmp_path / name, settings, clock) for name in ("a", "a", "b")
    )

    assert first.trusted.keys.identities() == again.trusted.keys.identities()
    assert first.trusted.keys.identities() != other.trusted.keys.identities()


def test_jw_19_a_token_of_another_data_directory_is_refused(
    tmp_path: Path, issuer: LocalIssuer, settings: AccessSettings, clock: ManualClock
) -> None:
    """Two installations do not accept each other's tokens, equal settings or not."""
    other = LocalIssuer.open(tmp_path / "other", settings, clock)
    token = other.issue(subject="alice", roles=[Role.CALLER])

    with pytest.raises(Unauthenticated):
        Authenticator([issuer.trusted], settings).authenticate(
            b"Bearer " + token.encode(), clock.wall_ns() / 1e9
        )


@pytest.mark.parametrize("ttl_s", [0.0, -5.0, 86_401.0])
def test_a_lifetime_that_no_verifier_accepts_is_refused(issuer: LocalIssuer, ttl_s: float) -> None:
    """A token lives at least a second and at most `access.max_token_lifetime_s`."""
    with pytest.raises(SettingInvalid, match="permitted: 1 to 86400 seconds"):
        issuer.issue(subject="alice", roles=[Role.CALLER], ttl_s=ttl_s)


@pytest.mark.parametrize("subject", ["", "a" * 256, "a\nb", "a\x00", "\u2028"])
def test_a_subject_that_no_verifier_accepts_is_refused(issuer: LocalIssuer, subject: str) -> None:
    """Empty, overlong and unprintable subjects are refused when the token is asked for."""
    with pytest.raises(SettingInvalid, match="subject"):
        issuer.issue(subject=subject, roles=[Role.CALLER])


def test_a_tenant_that_no_verifier_accepts_is_refused(issuer: LocalIssuer) -> None:
    """Overlong and unprintable tenants are refused when the token is asked for."""
    for tenant in ("a" * 256, "a\nb"):
        with pytest.raises(SettingInvalid, match="tenant"):
            issuer.issue(subject="alice", roles=[Role.CALLER], tenant=tenant)


def test_a_token_over_the_limit_is_not_issued(issuer: LocalIssuer) -> None:
    """A list of models that makes the token too long to be accepted is refused at once."""
    with pytest.raises(SettingInvalid, match="name fewer models"):
        issuer.issue(subject="a", roles=[], models=[f"model-{n:04}" for n in range(1000)])


def test_a_damaged_or_foreign_key_stops_the_start(
    tmp_path: Path, settings: AccessSettings, clock: ManualClock
) -> None:
    """A key file that is no PEM, or of another kind of key, is named and never replaced."""
    elliptic = generate_private_key(SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    for name, content, words in (("a", b"junk", "PEM"), ("b", elliptic, "must be Ed25519")):
        (tmp_path / name).mkdir(mode=0o700)
        (tmp_path / name / "issuer.pem").write_bytes(content)
        (tmp_path / name / "issuer.pem").chmod(0o600)
        with pytest.raises(StartFailed, match=words):
            LocalIssuer.open(tmp_path / name, settings, clock)
        assert (tmp_path / name / "issuer.pem").read_bytes() == content

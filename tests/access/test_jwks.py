"""What an issuer publishes: which keys are used, and which are left out without harm to the rest."""

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP521R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from serving.access.issuers import Issuers
from serving.access.jwks import MAX_DOCUMENT_BYTES, read_key_set, read_secret
from serving.access.verification import KeyUnfit, thumbprint
from serving.core.clock import ManualClock
from serving.errors import StartFailed
from serving.settings import AccessSettings
from tests.access.conftest import REMOVED, base64url
from tests.access.signers import (
    PUBLIC_ALGORITHMS,
    Signer,
    accepted,
    issuer_settings,
    key_set,
    private_key,
    trusting,
)

GOOD = Signer("ES256", "good")


def weak_rsa(bits: int) -> dict[str, Any]:
    key = private_key(f"RSA{bits}")
    assert isinstance(key, RSAPrivateKey)
    numbers = key.public_key().public_numbers()
    n, e = (each.to_bytes((each.bit_length() + 7) // 8, "big") for each in (numbers.n, numbers.e))
    return {"kty": "RSA", "n": base64url(n).decode(), "e": base64url(e).decode()}


def large_exponent() -> dict[str, Any]:
    return Signer("RS256").jwk(e=base64url(b"\x01" + bytes(7) + b"\x01").decode())


RSA, EC, OKP = Signer("RS256", "one"), Signer("ES256", "one"), Signer("EdDSA", "one")
UNFIT: dict[str, tuple[Signer, Any]] = {
    "for encryption": (RSA, RSA.jwk(use="enc")),
    "use of another type": (RSA, RSA.jwk(use=1)),
    "signs only": (RSA, RSA.jwk(use=REMOVED, key_ops=["sign"])),
    "operations as text": (RSA, RSA.jwk(key_ops="verify")),
    "no operations": (RSA, RSA.jwk(key_ops=[])),
    "RSA of 1024 bits": (RSA, weak_rsa(1024) | {"kid": "one", "alg": "RS256"}),
    "RSA with a large exponent": (RSA, large_exponent()),
    "RSA with an even exponent": (RSA, RSA.jwk(e="Ag")),
    "RSA without a modulus": (RSA, RSA.jwk(n=REMOVED)),
    "RSA with an empty modulus": (RSA, RSA.jwk(n="")),
    "padded numbers": (RSA, RSA.jwk(e="AQAB==")),
    "numbers with a line end": (RSA, RSA.jwk(e="AQAB\n")),
    "numbers of another alphabet": (RSA, RSA.jwk(e="A+/B")),
    "numbers as numbers": (RSA, RSA.jwk(e=65537)),
    "another curve": (EC, EC.jwk(crv="P-192")),
    "a curve without use here": (EC, EC.jwk(crv="secp256k1")),
    "a curve of another type": (EC, EC.jwk(crv=["P-256"])),
    "a point off the curve": (EC, EC.jwk(y=EC.jwk()["x"])),
    "the point at infinity": (EC, EC.jwk(x="A" * 43, y="A" * 43)),
    "a short coordinate": (EC, EC.jwk(x="AQAB")),
    "an OKP key of another curve": (OKP, OKP.jwk(crv="X25519")),
    "an OKP key of another length": (OKP, OKP.jwk(x=base64url(b"x" * 31).decode())),
    "another algorithm": (RSA, RSA.jwk(alg="RSA-OAEP")),
    "an algorithm of another type": (RSA, RSA.jwk(alg=256)),
    "an algorithm of another kind": (RSA, RSA.jwk(alg="ES256")),
    "none": (RSA, RSA.jwk(alg="none")),
    "a name of another type": (RSA, RSA.jwk(kid=1)),
    "a name without end": (RSA, RSA.jwk(kid="k" * 256)),
    "a private key": (RSA, RSA.jwk(d="AQAB")),
    "a secret": (RSA, {"kty": "oct", "k": "A" * 43, "kid": "one", "alg": "HS256"}),
    "an unknown kind": (RSA, {"kty": "PQC", "kid": "one"}),
    "no kind": (RSA, RSA.jwk(kty=REMOVED)),
    "text": (RSA, "key"),
    "null": (RSA, None),
    "a list": (RSA, []),
}


@pytest.mark.parametrize("case", UNFIT)
def test_jw_05_an_unfit_key_is_left_out_and_the_others_work(case: str) -> None:
    """A token of the unfit key is refused; the good key beside it verifies as before."""
    signer, member = UNFIT[case]
    issuer = trusting(member, GOOD)

    assert accepted(issuer, signer.token()) is None
    assert accepted(issuer, GOOD.token()) is not None


@pytest.mark.parametrize("case", UNFIT)
def test_jw_24_a_set_without_a_usable_key_is_refused(case: str) -> None:
    """It would lock everybody out; so the keys before it stay."""
    with pytest.raises(KeyUnfit, match="no key that can be used"):
        read_key_set(key_set(UNFIT[case][1]), PUBLIC_ALGORITHMS)


def test_an_rsa_key_without_an_algorithm_needs_one_choice() -> None:
    """It is for the one RSA algorithm of the issuer; where there are several it is left out."""
    signer = Signer("RS256")
    published = signer.jwk(alg=REMOVED)

    assert accepted(trusting(published, algorithms=["RS256", "ES256"]), signer.token()) is not None
    with pytest.raises(KeyUnfit):
        trusting(published, algorithms=["RS256", "PS256"])


@pytest.mark.parametrize(
    "kid",
    [REMOVED, None, {}, 7, [], "", "three", "../../dev/null", "' OR 1=1 --", "a\nb"],
    ids=repr,
)
def test_jw_07_a_token_names_its_key(kid: object) -> None:
    """With several keys a missing, unknown or odd `kid` is refused, and never looked up anywhere."""
    signers = Signer("RS256", "one"), Signer("RS256", "two", number=1)

    assert accepted(trusting(*signers), signers[0].token(kid=kid)) is None


def test_jw_07_a_single_key_without_a_name_needs_none() -> None:
    """The only key of an issuer verifies whatever the token calls it; a second one ends that."""
    only, second = Signer("ES256", None), Signer("ES256", None, number=1)

    for issuer in (trusting(only), trusting(document=only.pem())):
        assert accepted(issuer, only.token()) is not None
        assert accepted(issuer, only.token(kid="any")) is not None
        assert accepted(issuer, only.token(kid=7)) is None
        assert accepted(issuer, second.token()) is None
    both = trusting(only, second, GOOD)
    assert accepted(both, only.token()) is None
    assert accepted(both, GOOD.token()) is not None


def test_jw_08_two_keys_of_one_name_are_ambiguous() -> None:
    """Neither is used, in either order; a third key is."""
    signers = Signer("RS256", "one"), Signer("ES256", "one")

    for published in (signers, signers[::-1]):
        issuer = trusting(*published, GOOD)
        assert [accepted(issuer, each.token()) for each in (*signers, GOOD)][:2] == [None, None]
        assert accepted(issuer, GOOD.token()) is not None


@pytest.mark.parametrize(
    "document",
    [
        *(b"", b"[]", b"null", b"{}", b'{"keys": {}}', b'{"keys": null}', b"<html>", b"\xff\xfe"),
        b'{"keys": [], "keys": []}',
        b'{"keys": []}',
        b'{"keys": ' + b"[" * 5000,
        json.dumps({"keys": [{}] * 101}).encode(),
        b" " * MAX_DOCUMENT_BYTES + b"{}",
        b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
    ],
    ids=lambda document: document[:20],
)
def test_jw_24_what_is_no_key_set_is_refused(document: bytes) -> None:
    """Other JSON, other text, an empty or an endless list: no keys come of it."""
    with pytest.raises(KeyUnfit):
        read_key_set(document, PUBLIC_ALGORITHMS)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["kty", "crv", "x", "n", "e", "kid"]), inner)
        ),
    )
)
def test_any_json_in_a_set_harms_nothing(member: Any) -> None:
    """Whatever stands beside a good key, the good key is used."""
    assert accepted(trusting(member, GOOD), GOOD.token()) is not None


@pytest.mark.parametrize("algorithm", PUBLIC_ALGORITHMS)
def test_a_pem_file_holds_one_key(algorithm: str) -> None:
    """A public key in PEM is for the one configured algorithm that fits it."""
    signer = Signer(algorithm)

    issuer = trusting(document=signer.pem(), algorithms=[algorithm])
    assert accepted(issuer, signer.token()) is not None


def test_a_pem_of_an_unused_curve_is_refused() -> None:
    """P-521 is not configured for anything."""
    pem = generate_private_key(SECP521R1()).public_key()
    with pytest.raises(KeyUnfit):
        read_key_set(
            pem.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), PUBLIC_ALGORITHMS
        )


@pytest.mark.parametrize(
    ("algorithm", "secret"),
    [
        *(("HS256", secret) for secret in (b"", b"\n", b"secret", b"x" * 31, b"x" * 31 + b"\n")),
        *(("HS384", b"x" * 47), ("HS512", b"x" * 63)),
        ("HS256", Signer("RS256").pem()),
        ("HS256", json.dumps(Signer("RS256").jwk()).encode()),
        ("HS256", b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE"),
    ],
    ids=lambda value: value if isinstance(value, str) else str(value[:8] + b"%d" % len(value)),
)
def test_jw_06_a_weak_secret_stops_the_start(tmp_path: Path, algorithm: str, secret: bytes) -> None:
    """Empty, shorter than the hash, or a public key: the start is refused and names the file."""
    path = tmp_path / "secret"
    path.write_bytes(secret)
    path.chmod(0o600)
    issuer = issuer_settings(secret_file=path, algorithms=[algorithm])

    with pytest.raises(StartFailed, match=str(path)):
        Issuers.open(tmp_path / "keys", AccessSettings(issuers=(issuer,)), ManualClock())


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o644, 0o660])
def test_jw_06_a_secret_that_others_can_read_stops_the_start(tmp_path: Path, mode: int) -> None:
    """Like every secret, it is its owner's only; a public key file may be read by all."""
    path = tmp_path / "keys"
    for content, algorithm, source in (
        (b"x" * 32, "HS256", "secret_file"),
        (GOOD.pem(), "ES256", "keys_file"),
    ):
        path.write_bytes(content)
        path.chmod(mode)
        settings = AccessSettings(
            issuers=(issuer_settings(algorithms=[algorithm], **{source: path}),)
        )
        if source == "keys_file":
            assert Issuers.open(tmp_path, settings, ManualClock()).trusted
        else:
            with pytest.raises(StartFailed, match="others can read it"):
                Issuers.open(tmp_path, settings, ManualClock())


def test_a_secret_may_end_its_line() -> None:
    """One line end at the end of the file is not part of the secret."""
    signer = Signer("HS256", secret=b"s" * 32)

    for end in (b"", b"\n", b"\r\n"):
        keys = read_secret(signer.secret + end, "HS256")
        signed = b"anything"
        key = keys.find("whatever")
        assert key is not None
        assert key.verifies(signed, signer.sign(signed))
        assert signer.secret.hex() not in key.identity


@pytest.mark.parametrize("algorithm", PUBLIC_ALGORITHMS)
def test_a_thumbprint_is_that_of_rfc_7638(algorithm: str) -> None:
    """As another implementation computes it."""
    joserfc = pytest.importorskip("joserfc.jwk")
    signer = Signer(algorithm)

    assert thumbprint(signer.key.public_key()) == joserfc.import_key(signer.jwk()).thumbprint()

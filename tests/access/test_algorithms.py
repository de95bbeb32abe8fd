"""Keys of every algorithm verify their own tokens and no others: RELIABILITY 5.3 by case number."""

import hashlib
import hmac
import json
from base64 import b64encode
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.access.conftest import REMOVED, base64url
from tests.access.signers import (
    PUBLIC_ALGORITHMS,
    SECRET_ALGORITHMS,
    Signer,
    accepted,
    good_claims,
    key_set,
    trusting,
)

HASHES = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}


@pytest.mark.parametrize("algorithm", PUBLIC_ALGORITHMS)
def test_each_public_key_algorithm_verifies(algorithm: str) -> None:
    """A token signed with the published key is accepted, one signed with another key is not."""
    signer = Signer(algorithm)
    issuer = trusting(signer)

    assert accepted(issuer, signer.token()) is not None
    assert accepted(issuer, replace(signer, number=1).token()) is None


@pytest.mark.parametrize("algorithm", SECRET_ALGORITHMS)
def test_each_secret_algorithm_verifies(algorithm: str) -> None:
    """A shared secret verifies what it signed, whatever the token calls it; another does not."""
    signer = Signer(algorithm)
    issuer = trusting(document=signer.secret, secret_file=Path("s"), algorithms=[algorithm])

    assert accepted(issuer, signer.token()) is not None
    assert accepted(issuer, replace(signer, key_id=None).token()) is not None
    assert accepted(issuer, replace(signer, secret=b"x" * 64).token()) is None


@pytest.mark.parametrize("algorithm", PUBLIC_ALGORITHMS)
@pytest.mark.parametrize("spelling", ["none", "None", "nOnE", "NONE", "", REMOVED])
def test_jw_01_an_unsigned_token_is_refused(algorithm: str, spelling: Any) -> None:
    """No key believes `none`, with its own signature, an empty one or a short one."""
    signer = Signer(algorithm)
    issuer = trusting(signer)
    named = signer.token(alg=spelling)
    unsigned = named[: named.rindex(b".")]

    assert accepted(issuer, named) is None
    assert accepted(issuer, unsigned + b".") is None
    assert accepted(issuer, unsigned + b".AA") is None
    assert accepted(issuer, unsigned) is None


@pytest.mark.parametrize("algorithm", PUBLIC_ALGORITHMS)
@pytest.mark.parametrize("confused", SECRET_ALGORITHMS)
def test_jw_02_the_public_key_is_no_hmac_secret(algorithm: str, confused: str) -> None:
    """No text form of a public key, as PEM, DER, JWK, JWKS, base64, or with a mark, is a secret."""
    signer = Signer(algorithm)
    issuer = trusting(signer)
    der = signer.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    jwk, jwks = json.dumps(signer.jwk()).encode(), key_set(signer)
    plain = [signer.pem(), signer.pem().rstrip(), der, jwk, jwks]
    forms = [*plain, *(b64encode(each) for each in plain), b"\xef\xbb\xbf" + signer.pem(), b""]
    head = {"alg": confused, "typ": "at+jwt", "kid": signer.key_id}
    signed = b".".join(base64url(json.dumps(part).encode()) for part in (head, good_claims()))

    for secret in forms:
        signature = base64url(hmac.new(secret, signed, HASHES[confused]).digest())
        assert accepted(issuer, b"Bearer " + signed + b"." + signature) is None


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "RS512", "EdDSA", "ES384", "HS256"])
def test_jw_03_an_algorithm_that_is_not_configured_is_refused(algorithm: str) -> None:
    """Where only ES256 is configured, no key is for anything else, published or not."""
    signer, other = Signer(algorithm, "one"), Signer("ES256", "two")
    published = [other] if algorithm == "HS256" else [signer, other]
    issuer = trusting(*published, algorithms=["ES256"])

    assert accepted(issuer, signer.token()) is None
    assert accepted(issuer, other.token()) is not None


@pytest.mark.parametrize("algorithm", ["PS256", "RS384", "RS512", "PS512"])
def test_jw_03_a_key_for_one_rsa_algorithm_is_for_no_other(algorithm: str) -> None:
    """PS256, correctly signed with a key for RS256, is refused even where both are configured."""
    published = Signer("RS256")
    issuer = trusting(published)

    assert accepted(issuer, Signer(algorithm).token()) is None
    assert accepted(issuer, published.token()) is not None


@pytest.mark.parametrize("said", ["RS384", "PS256", "ES256", "HS256", "none", "rs256", 1, None])
def test_jw_04_the_key_says_the_algorithm_not_the_token(said: object) -> None:
    """A header that names another algorithm than the key's is refused, though the key signed it."""
    signer = Signer("RS256")

    assert accepted(trusting(signer), signer.token(alg=said)) is None


@pytest.mark.parametrize("algorithm", PUBLIC_ALGORITHMS)
def test_jw_18_no_bit_of_the_last_character_is_ignored(algorithm: str) -> None:
    """Every other last character of the signature is refused, those of equal bytes included."""
    signer = Signer(algorithm)
    issuer = trusting(signer)
    good = signer.token()
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_="

    others = [good[:-1] + bytes([last]) for last in alphabet if last != good[-1]]
    assert [each for each in others if accepted(issuer, each) is not None] == []


@pytest.mark.parametrize("algorithm", PUBLIC_ALGORITHMS)
def test_a_signature_of_another_length_is_refused(algorithm: str) -> None:
    """Empty, cut, doubled, or with zeroes around it: never an error, always a refusal."""
    signer = Signer(algorithm)
    issuer = trusting(signer)
    head, signature = signer.token().rsplit(b".", 1)
    signed = head.removeprefix(b"Bearer ")
    right = signer.sign(signed)
    others = [right[:-1], right[:1], right * 2, b"\0" + right, right + b"\0", b"\0" * len(right)]

    assert base64url(right).isascii()
    assert len(signature) == len(base64url(right))
    for other in others:
        assert accepted(issuer, head + b"." + base64url(other)) is None

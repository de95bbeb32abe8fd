"""Issuers as organisations run them: a key of any algorithm, what is published of it, and tokens."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt import get_algorithm_by_name

from serving.access.issuers import profile_of
from serving.access.jwks import read_key_set, read_secret
from serving.access.keyrings import KeyRing, TrustedIssuer
from serving.access.tokens import Authenticator
from serving.core.principals import Principal
from serving.errors import Unauthenticated
from serving.issuer_settings import IssuerSettings
from serving.settings import AccessSettings
from tests.access.conftest import REMOVED, base64url

NOW_S: Final = 1_700_000_000
ISSUER: Final = "https://login.example.com"
AUDIENCE: Final = "serving"
PUBLIC_ALGORITHMS: Final = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "EdDSA", "Ed25519"),
)
SECRET_ALGORITHMS: Final = ("HS256", "HS384", "HS512")

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


@cache
def private_key(kind: str, number: int = 0) -> PrivateKey:
    """kind: RSA, P-256, P-384, Ed25519, or RSA with a size. The same for the same arguments."""
    del number  # Only tells keys apart.
    if kind.startswith("RSA"):
        return rsa.generate_private_key(65537, int(kind[3:] or 2048))
    if kind == "Ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    curve = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1()}[kind]
    return ec.generate_private_key(curve)


def kind_for(algorithm: str) -> str:
    return {"ES256": "P-256", "ES384": "P-384", "EdDSA": "Ed25519", "Ed25519": "Ed25519"}.get(
        algorithm, "RSA"
    )


def scheme_of(algorithm: str) -> Any:
    return get_algorithm_by_name("EdDSA" if algorithm == "Ed25519" else algorithm)


@dataclass(frozen=True)
class Signer:
    """One key of an issuer. secret: of an HS algorithm."""

    algorithm: str = "RS256"
    key_id: str | None = "one"
    number: int = 0
    secret: bytes = b"0123456789abcdef" * 4
    claims: Mapping[str, Any] = field(default_factory=dict)
    """What its tokens say besides, or instead of, the usual."""

    @property
    def key(self) -> PrivateKey:
        return private_key(kind_for(self.algorithm), self.number)

    def jwk(self, **changes: Any) -> dict[str, Any]:
        """What is published; `REMOVED` leaves a member out."""
        scheme = scheme_of(self.algorithm)
        member = scheme.to_jwk(self.key.public_key(), as_dict=True)
        member.pop("key_ops", None)
        named = {} if self.key_id is None else {"kid": self.key_id}
        return without_removed(member | {"use": "sig", "alg": self.algorithm} | named | changes)

    def pem(self) -> bytes:
        return self.key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def token(self, claims: Mapping[str, Any] | str | None = None, **header: Any) -> bytes:
        """An `Authorization` value, correctly signed whatever it says. claims: or raw JSON."""
        named = {} if self.key_id is None else {"kid": self.key_id}
        head = without_removed({"alg": self.algorithm, "typ": "at+jwt"} | named | header)
        if isinstance(claims, str):
            payload = claims.encode()
        else:
            said = good_claims() | dict(self.claims) | dict(claims or {})
            payload = json.dumps(without_removed(said)).encode()
        signed = base64url(json.dumps(head).encode()) + b"." + base64url(payload)
        return b"Bearer " + signed + b"." + base64url(self.sign(signed))

    def sign(self, signed: bytes) -> bytes:
        scheme = scheme_of(self.algorithm)
        return bytes(scheme.sign(signed, self.secret if self.algorithm[0] == "H" else self.key))


def good_claims() -> dict[str, Any]:
    return {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "alice",
        "iat": NOW_S,
        "exp": NOW_S + 600,
        "jti": "1",
        "roles": ["caller"],
    }


def without_removed(members: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not REMOVED}


def key_set(*members: Any) -> bytes:
    """A published document."""
    jwks = [each.jwk() if isinstance(each, Signer) else each for each in members]
    return json.dumps({"keys": jwks}).encode()


def issuer_settings(**changes: Any) -> IssuerSettings:
    """Of an issuer with a key file, which is not read here."""
    given = {"name": ISSUER, "audiences": [AUDIENCE], "algorithms": PUBLIC_ALGORITHMS} | changes
    if not {"jwks_url", "secret_file", "keys_file"} & given.keys():
        given["keys_file"] = Path("keys.json")
    return IssuerSettings.model_validate(given)


def trusting(*published: Any, document: bytes | None = None, **changes: Any) -> TrustedIssuer:
    """An issuer that publishes these members, or that document. changes: of its settings."""
    settings = issuer_settings(**changes)
    if settings.secret_file is not None:
        keys = read_secret(document or b"", settings.algorithms[0])
    else:
        keys = read_key_set(document or key_set(*published), settings.algorithms)
    return TrustedIssuer(profile_of(settings), KeyRing(settings.name, keys))


def accepted(
    issuers: TrustedIssuer | Sequence[TrustedIssuer], authorization: bytes, now_s: float = NOW_S
) -> Principal | None:
    """The principal behind a credential, or None when it is refused with a 401."""
    trusted = [issuers] if isinstance(issuers, TrustedIssuer) else issuers
    try:
        return Authenticator(trusted, AccessSettings()).authenticate(authorization, now_s)
    except Unauthenticated:
        return None

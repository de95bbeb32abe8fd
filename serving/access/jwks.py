"""From what an issuer publishes to the keys that are used: JSON Web Key Sets, PEM and secrets.

A member that cannot be used is left out and the others still count, so that one bad key, or one of a
kind we do not know, does not lock everybody out. A document without a single usable key is refused
as a whole: the set before it is better.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any, Final

import structlog
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    SECP384R1,
    EllipticCurvePublicKey,
    EllipticCurvePublicNumbers,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, RSAPublicNumbers

from serving.access.claims import CredentialRefused, Refusal, decode_part, strict_object
from serving.access.verification import (
    SECRET_BYTES,
    KeySet,
    KeyUnfit,
    PublicKey,
    VerificationKey,
    algorithm_for,
)

logger = structlog.get_logger()

MAX_DOCUMENT_BYTES: Final = 256 * 1024
MAX_KEYS: Final = 100
MAX_KEY_ID_LENGTH: Final = 255
CURVES: Final = {"P-256": (SECP256R1, 32), "P-384": (SECP384R1, 48)}

_PEM: Final = b"-----BEGIN"
_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]+")


def read_key_set(document: bytes, algorithms: Collection[str]) -> KeySet:
    """The keys of a JSON Web Key Set, or the one public key of a PEM text. Raises KeyUnfit."""
    if len(document) > MAX_DOCUMENT_BYTES:
        raise KeyUnfit(f"it has more than {MAX_DOCUMENT_BYTES} bytes")
    if document.lstrip().startswith(_PEM):
        return KeySet([_pem(document, algorithms)])
    keys = [
        key
        for number, member in enumerate(_keys_of(document))
        if (key := _usable(number, member, algorithms)) is not None
    ]
    key_set = KeySet(keys)
    if not key_set.identities():
        raise KeyUnfit("it holds no key that can be used")
    return key_set


def read_secret(document: bytes, algorithm: str) -> KeySet:
    """The one key of an HS algorithm. Raises KeyUnfit."""
    secret = document.removesuffix(b"\n").removesuffix(b"\r")
    if len(secret) < SECRET_BYTES[algorithm]:
        raise KeyUnfit(
            f"a secret of {algorithm} has at least {SECRET_BYTES[algorithm]} bytes, not {len(secret)}"
        )
    if _PEM in secret or secret.lstrip().startswith((b"{", b"ssh-")):
        raise KeyUnfit("it holds a key in PEM, JSON or SSH form, which is no secret")
    return KeySet([VerificationKey(secret, algorithm)])


def _keys_of(document: bytes) -> list[Any]:
    try:
        members = strict_object(document, Refusal.KEY).get("keys")
    except CredentialRefused as error:
        raise KeyUnfit("it is not a JSON object without duplicate members") from error
    if not isinstance(members, list) or len(members) > MAX_KEYS:
        raise KeyUnfit(f"its member keys must be a list of at most {MAX_KEYS}")
    return members


def _usable(number: int, member: object, algorithms: Collection[str]) -> VerificationKey | None:
    try:
        return _key_of(member, algorithms)
    except KeyUnfit as error:
        logger.debug("a key of an issuer is left out", number=number, reason=str(error))
        return None


def _key_of(member: object, algorithms: Collection[str]) -> VerificationKey:
    if not isinstance(member, dict):
        raise KeyUnfit("it is no object")
    _check_purpose(member)
    key_id = member.get("kid")
    if key_id is not None and (not isinstance(key_id, str) or len(key_id) > MAX_KEY_ID_LENGTH):
        raise KeyUnfit(f"its kid is not a text of at most {MAX_KEY_ID_LENGTH} characters")
    try:
        key = _public_key(member)
    except ValueError as error:
        raise KeyUnfit("its numbers are no public key") from error
    return VerificationKey(key, algorithm_for(key, member.get("alg"), algorithms), key_id)


def _check_purpose(member: Mapping[str, Any]) -> None:
    if member.get("use", "sig") != "sig":
        raise KeyUnfit("its use is not sig")
    operations = member.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise KeyUnfit("its key_ops do not hold verify")
    if "d" in member or "k" in member:
        raise KeyUnfit("it is not public")


def _public_key(member: Mapping[str, Any]) -> PublicKey:
    kind, curve = member.get("kty"), member.get("crv")
    if kind == "RSA":
        modulus, exponent = _number(member, "n"), _number(member, "e")
        return RSAPublicNumbers(exponent, modulus).public_key()
    if kind == "EC" and isinstance(curve, str) and curve in CURVES:
        named, size = CURVES[curve]
        x, y = (_number(member, name, size) for name in ("x", "y"))
        return EllipticCurvePublicNumbers(x, y, named()).public_key()
    if kind == "OKP" and curve == "Ed25519":
        return Ed25519PublicKey.from_public_bytes(_bytes(member, "x"))
    raise KeyUnfit("its kind or its curve is not used")


def _number(member: Mapping[str, Any], name: str, size: int | None = None) -> int:
    value = _bytes(member, name)
    if size is not None and len(value) != size:
        raise KeyUnfit(f"its {name} must have {size} bytes")
    return int.from_bytes(value, "big")


def _bytes(member: Mapping[str, Any], name: str) -> bytes:
    text = member.get(name)
    if not isinstance(text, str) or _BASE64URL.fullmatch(text) is None:
        raise KeyUnfit(f"its {name} is not base64url")
    try:
        return decode_part(text.encode())
    except CredentialRefused as error:
        raise KeyUnfit(f"its {name} is not base64url") from error


def _pem(document: bytes, algorithms: Collection[str]) -> VerificationKey:
    try:
        key = serialization.load_pem_public_key(document)
    except ValueError as error:
        raise KeyUnfit("it does not hold a public key in PEM") from error
    if not isinstance(key, EllipticCurvePublicKey | Ed25519PublicKey | RSAPublicKey):
        raise KeyUnfit("its kind of key is not used")
    return VerificationKey(key, algorithm_for(key, None, algorithms))

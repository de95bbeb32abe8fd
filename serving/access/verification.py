"""Keys that verify signatures, each pinned to one algorithm.

A token's header never chooses: its `alg` is compared with the algorithm that the key was given when
it was read. So a public key cannot become an HMAC secret, nor a key for RS256 one for PS256.
"""

import base64
import hashlib
import json
import secrets
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt import get_algorithm_by_name

PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey

RSA_ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
ED25519_ALGORITHMS: Final = ("EdDSA", "Ed25519")
"""The same signature under its old name and under that of RFC 9864."""
CURVES: Final[Mapping[str, tuple[str, str, int]]] = {
    "secp256r1": ("P-256", "ES256", 32),
    "secp384r1": ("P-384", "ES384", 48),
}
"""By the library's name of a curve: its name in a JWK, its algorithm, the size of a coordinate."""
SECRET_BYTES: Final = {"HS256": 32, "HS384": 48, "HS512": 64}
"""RFC 7518 3.2: a secret is no shorter than the hash."""
MIN_RSA_BITS: Final = 2048
MAX_RSA_BITS: Final = 8192
MAX_RSA_EXPONENT_BITS: Final = 32

_BLIND: Final = secrets.token_bytes(32)


class KeyUnfit(Exception):
    """Internal to this package: a key that is not used, and why."""


class VerificationKey:
    """One key for one algorithm. identity: equal for equal keys of one algorithm; fit for logs."""

    __slots__ = ("_key", "_scheme", "algorithm", "identity", "key_id")

    def __init__(self, key: PublicKey | bytes, algorithm: str, key_id: str | None = None) -> None:
        """key: bytes are the secret of an HS algorithm. key_id: None for a key without a name."""
        self.algorithm = algorithm
        self.key_id = key_id
        self.identity = (
            f"{algorithm}:{_blinded(key) if isinstance(key, bytes) else thumbprint(key)}"
        )
        self._key = key
        self._scheme = get_algorithm_by_name("EdDSA" if algorithm == "Ed25519" else algorithm)

    def verifies(self, signed: bytes, signature: bytes) -> bool:
        """Whether `signature` is this key's, of `signed`."""
        return self._scheme.verify(signed, self._key, signature)


class KeySet:
    """The keys of an issuer at one time. Two of one name are ambiguous, so neither is used."""

    def __init__(self, keys: Iterable[VerificationKey] = ()) -> None:
        named: dict[str, VerificationKey] = {}
        ambiguous = set()
        keys = tuple(keys)
        for key in keys:
            if key.key_id is not None:
                if key.key_id in named:
                    ambiguous.add(key.key_id)
                named[key.key_id] = key
        self._named = {name: key for name, key in named.items() if name not in ambiguous}
        # One key without a name is found by any token; with a second one it could not be told apart.
        self._only = keys[0] if len(keys) == 1 and keys[0].key_id is None else None

    def find(self, key_id: str | None) -> VerificationKey | None:
        """The key that a token names; the only key when that has no name."""
        if self._only is not None:
            return self._only
        return None if key_id is None else self._named.get(key_id)

    def identities(self) -> frozenset[str]:
        """Of the keys that can be found."""
        keys = [*self._named.values(), *([self._only] if self._only else [])]
        return frozenset(key.identity for key in keys)


def algorithm_for(key: PublicKey, named: object, permitted: Collection[str]) -> str:
    """The one algorithm that a public key is for. named: what is written beside it, or None.

    Raises KeyUnfit: for a key that is too weak or of no use, and where there is a choice.
    """
    candidates = [name for name in _algorithms_of(key) if name in permitted]
    if named is not None:
        candidates = [name for name in candidates if name == named]
    if len(candidates) != 1:
        raise KeyUnfit("it fits none of the issuer's algorithms, or several")
    return candidates[0]


def thumbprint(key: PublicKey) -> str:
    """RFC 7638, base64url without padding."""
    canonical = json.dumps(_members(key), separators=(",", ":"), sort_keys=True).encode()
    return base64url(hashlib.sha256(canonical).digest())


def base64url(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode("ascii")


def _algorithms_of(key: PublicKey) -> tuple[str, ...]:
    if isinstance(key, Ed25519PublicKey):
        return ED25519_ALGORITHMS
    if isinstance(key, EllipticCurvePublicKey):
        curve = CURVES.get(key.curve.name)
        return () if curve is None else (curve[1],)
    if not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
        raise KeyUnfit(f"RSA of {key.key_size} bits; {MIN_RSA_BITS} to {MAX_RSA_BITS} are used")
    if key.public_numbers().e.bit_length() > MAX_RSA_EXPONENT_BITS:
        raise KeyUnfit("its exponent is too large")
    return RSA_ALGORITHMS


def _members(key: PublicKey) -> dict[str, Any]:
    if isinstance(key, Ed25519PublicKey):
        raw = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
        return {"crv": "Ed25519", "kty": "OKP", "x": base64url(raw)}
    if isinstance(key, EllipticCurvePublicKey):
        name, _, size = CURVES[key.curve.name]
        point = key.public_numbers()
        x, y = (base64url(each.to_bytes(size, "big")) for each in (point.x, point.y))
        return {"crv": name, "kty": "EC", "x": x, "y": y}
    numbers = key.public_numbers()
    return {"e": _number(numbers.e), "kty": "RSA", "n": _number(numbers.n)}


def _number(value: int) -> str:
    return base64url(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def _blinded(secret: bytes) -> str:
    """Tells secrets apart in this process, and tells nobody anything about them."""
    return hashlib.blake2b(secret, key=_BLIND, digest_size=12).hexdigest()

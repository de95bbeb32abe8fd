"""Sigstore bundles (v0.3) over ECDSA keys: the container of OpenSSF model signatures.

Other tools verify these, and they know no Ed25519 key: an installation therefore has one more key,
on P-256, for bundles alone. A bundle is read strictly: one signature, by the very key that was
expected, over the payload type that was expected. Its own hint about the key is compared, and never
chooses the key.
"""

import hashlib
import hmac
from pathlib import Path
from typing import Final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from serving.errors import SignatureInvalid, StartFailed
from serving.trust.privatefiles import read_or_create
from serving.trust.signatures import Envelope, Signature, pre_authentication

KEY_NAME: Final = "bundle.p256"
MEDIA_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
MAX_BUNDLE_BYTES: Final = 16 * 1024 * 1024

_HASHES: Final[dict[int, hashes.HashAlgorithm]] = {
    256: hashes.SHA256(),
    384: hashes.SHA384(),
    521: hashes.SHA512(),
}
_CURVES: Final = frozenset({"secp256r1", "secp384r1", "secp521r1"})


class _Hint(msgspec.Struct, frozen=True, omit_defaults=True):
    hint: str = ""


class _Material(msgspec.Struct, frozen=True, rename="camel"):
    public_key: _Hint
    tlog_entries: tuple[msgspec.Raw, ...] = ()


class _Bundle(msgspec.Struct, frozen=True, rename="camel"):
    media_type: str
    verification_material: _Material
    dsse_envelope: Envelope


class BundleVerifier:
    """A public key on P-256, P-384 or P-521, and what it signed."""

    def __init__(self, pem: bytes) -> None:
        """Raises SignatureInvalid unless `pem` holds such a key."""
        try:
            key = serialization.load_pem_public_key(pem)
        except ValueError as error:
            raise SignatureInvalid("a public key for bundles is PEM") from error
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _CURVES:
            raise SignatureInvalid("a public key for bundles is on P-256, P-384 or P-521")
        self._key = key

    @property
    def pem(self) -> bytes:
        return self._key.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    @property
    def hint(self) -> str:
        return hashlib.sha256(self.pem).hexdigest()

    def payload(self, content: bytes, *, payload_type: str) -> bytes:
        """What the bundle signs. Raises SignatureInvalid."""
        if len(content) > MAX_BUNDLE_BYTES:
            raise SignatureInvalid(f"a bundle has at most {MAX_BUNDLE_BYTES} bytes")
        try:
            bundle = msgspec.json.decode(content, type=_Bundle)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise SignatureInvalid(f"no bundle of a key's signature: {error}") from error
        envelope = bundle.dsse_envelope
        hint = bundle.verification_material.public_key.hint
        if bundle.media_type != MEDIA_TYPE or envelope.payload_type != payload_type:
            raise SignatureInvalid("a bundle of another kind")
        if hint and not hmac.compare_digest(hint.encode(), self.hint.encode()):
            raise SignatureInvalid("the bundle was signed by another key")
        if len(envelope.signatures) != 1:
            raise SignatureInvalid("a bundle has one signature")
        message = pre_authentication(payload_type, envelope.payload)
        algorithm = ec.ECDSA(_HASHES[self._key.curve.key_size])
        try:
            self._key.verify(envelope.signatures[0].sig, message, algorithm)
        except InvalidSignature as error:
            raise SignatureInvalid("the bundle's signature does not fit") from error
        return envelope.payload


class BundleKey:
    """The installation's key for bundles, made on first use."""

    def __init__(self, keys_dir: Path) -> None:
        """Raises StartFailed when the file is damaged or open to others."""
        path = keys_dir / KEY_NAME
        try:
            key = serialization.load_pem_private_key(read_or_create(path, _new_key), password=None)
        except (ValueError, TypeError) as error:
            raise StartFailed(f"{path} does not hold a private key in PEM") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
            raise StartFailed(f"{path} does not hold a key on P-256")
        self._key = key
        self.verifier = BundleVerifier(
            key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )

    def bundle(self, payload: bytes, *, payload_type: str) -> bytes:
        """A signed bundle, JSON."""
        message = pre_authentication(payload_type, payload)
        signature = self._key.sign(message, ec.ECDSA(hashes.SHA256()))
        envelope = Envelope(payload, payload_type, (Signature("", signature),))
        material = _Material(_Hint(self.verifier.hint))
        return msgspec.json.encode(_Bundle(MEDIA_TYPE, material, envelope))


def _new_key() -> bytes:
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )

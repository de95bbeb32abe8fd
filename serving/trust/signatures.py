"""Ed25519 signatures in DSSE envelopes, and the keys that may make them.

An envelope signs its payload together with the payload's type (DSSE's pre-authentication encoding),
so a statement of one kind never passes for one of another. `Envelope` is DSSE's JSON: payload and
signatures in base64, `keyid` a hint only. No canonical form is needed: the bytes that were signed
are the bytes that travel.

`TrustedKeys` says whose signatures count, for what and when:

    role        what a key may sign: artifact, approval, log, audit, verdict
    life        not before, not after; outside of it the key is not yet valid, or expired
    revocation  from that moment on nothing that the key ever signed passes, whenever it was signed:
                who holds a stolen key also chooses the date in what he signs

`verify` returns what was signed, as a value, or raises SignatureInvalid with the reason. There is no
answer that a caller could forget to look at.
"""

import base64
import binascii
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Self

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from serving.errors import SignatureInvalid, StartFailed
from serving.trust.privatefiles import read_private

Role = Literal["artifact", "approval", "log", "audit", "verdict"]
ROLES: Final[tuple[Role, ...]] = ("artifact", "approval", "log", "audit", "verdict")

KEY_ID_DIGITS: Final = 16
PUBLIC_KEY_BYTES: Final = 32
MAX_ENVELOPE_BYTES: Final = 4 * 1024 * 1024
MAX_SIGNATURES: Final = 16

_DSSE: Final = b"DSSEv1 "


class Signature(msgspec.Struct, frozen=True):
    """One signature of an envelope. keyid: a hint; what counts is the key that verifies."""

    keyid: str
    sig: bytes


class Envelope(msgspec.Struct, frozen=True, rename="camel"):
    """What was signed and by whom, as DSSE writes it."""

    payload: bytes
    payload_type: str
    signatures: tuple[Signature, ...]

    def encode(self) -> bytes:
        return msgspec.json.encode(self)

    @classmethod
    def decode(cls, content: bytes) -> Self:
        """Raises SignatureInvalid for what is no envelope."""
        if len(content) > MAX_ENVELOPE_BYTES:
            raise SignatureInvalid(f"an envelope has at most {MAX_ENVELOPE_BYTES} bytes")
        try:
            return msgspec.json.decode(content, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise SignatureInvalid(f"no envelope: {error}") from error


@dataclass(frozen=True, slots=True)
class VerifiedPayload:
    """What a trusted key signed. key_ids: of every trusted key whose signature holds."""

    payload: bytes
    payload_type: str
    key_ids: tuple[str, ...]


class PublicKey:
    """An Ed25519 key that verifies. raw: its 32 bytes; key_id: the first 16 digits of their SHA-256."""

    def __init__(self, raw: bytes) -> None:
        """Raises SignatureInvalid unless `raw` is a key."""
        try:
            self._key = Ed25519PublicKey.from_public_bytes(raw)
        except ValueError as error:
            raise SignatureInvalid(f"a public key has {PUBLIC_KEY_BYTES} bytes") from error
        self.raw = raw
        self.key_id = hashlib.sha256(raw).hexdigest()[:KEY_ID_DIGITS]

    @classmethod
    def from_text(cls, text: str) -> Self:
        """From base64 of the raw key, or from PEM. Raises SignatureInvalid."""
        try:
            if text.lstrip().startswith("-----BEGIN"):
                key = serialization.load_pem_public_key(text.encode())
                if not isinstance(key, Ed25519PublicKey):
                    raise SignatureInvalid("the public key is of another kind than Ed25519")
                return cls(key.public_bytes_raw())
            return cls(base64.b64decode(text.strip(), validate=True))
        except (ValueError, binascii.Error) as error:
            raise SignatureInvalid("a public key is base64 of 32 bytes, or PEM") from error

    @property
    def text(self) -> str:
        return base64.b64encode(self.raw).decode()

    def signed(self, message: bytes, signature: bytes) -> bool:
        try:
            self._key.verify(signature, message)
        except InvalidSignature:
            return False
        return True


class SigningKey:
    """An Ed25519 key that signs. Its text form never appears in a message or a `repr`."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = PublicKey(key.public_key().public_bytes_raw())

    @classmethod
    def create(cls) -> Self:
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_pem(cls, content: bytes) -> Self:
        """Raises StartFailed for anything but an unencrypted Ed25519 key in PEM."""
        try:
            key = serialization.load_pem_private_key(content, password=None)
        except (ValueError, TypeError) as error:
            raise StartFailed("a signing key is an unencrypted private key in PEM") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise StartFailed("a signing key is an Ed25519 key")
        return cls(key)

    @classmethod
    def load(cls, path: Path) -> Self:
        """From a private file. Raises StartFailed."""
        try:
            content = read_private(path)
        except OSError as error:
            raise StartFailed(f"cannot read the key in {path}: {error.strerror}") from error
        try:
            return cls.from_pem(content)
        except StartFailed as error:
            raise StartFailed(f"{path}: {error.message}") from error

    @property
    def key_id(self) -> str:
        return self.public.key_id

    def pem(self) -> bytes:
        """The secret itself, for a private file."""
        return self._key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    def sign(self, payload_type: str, payload: bytes) -> Envelope:
        signature = Signature(
            self.key_id, self._key.sign(pre_authentication(payload_type, payload))
        )
        return Envelope(payload, payload_type, (signature,))

    def sign_bytes(self, message: bytes) -> bytes:
        """A bare signature, for formats that have a place of their own for it (seals, notes).

        message: begins with a tag of its format, so that it passes for nothing else.
        """
        if message.startswith(_DSSE):
            raise ValueError("a bare signature over an envelope's bytes. This is a bug")
        return self._key.sign(message)


class TrustedKey(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whose signatures count. Times are wall nanoseconds; 0: no bound, not revoked."""

    key_id: str
    public_key: str
    name: str
    roles: tuple[Role, ...]
    not_before_ns: int = 0
    not_after_ns: int = 0
    revoked_at_ns: int = 0

    def refusal(self, role: Role, at_ns: int) -> str:
        """Why its signatures do not count for `role` at that time; empty when they do."""
        if self.revoked_at_ns:
            return f"key {self.key_id} ({self.name}) is revoked"
        if role not in self.roles:
            return f"key {self.key_id} ({self.name}) may not sign for {role}"
        if at_ns < self.not_before_ns:
            return f"key {self.key_id} ({self.name}) is not yet valid"
        if self.not_after_ns and at_ns >= self.not_after_ns:
            return f"key {self.key_id} ({self.name}) is expired"
        return ""


class TrustedKeys:
    """An immutable set of trusted keys, by key id."""

    def __init__(self, keys: Iterable[TrustedKey] = ()) -> None:
        """Raises SignatureInvalid when a key is damaged or its id is not its own."""
        self.keys: tuple[TrustedKey, ...] = tuple(keys)
        self._by_id: dict[str, tuple[TrustedKey, PublicKey]] = {}
        for each in self.keys:
            public = PublicKey.from_text(each.public_key)
            if public.key_id != each.key_id or each.key_id in self._by_id:
                raise SignatureInvalid(f"trusted key {each.key_id!r} is listed wrongly")
            self._by_id[each.key_id] = (each, public)

    def verify(
        self, envelope: Envelope, *, payload_type: str, role: Role, at_ns: int
    ) -> VerifiedPayload:
        """What the envelope signs, when a key trusted for `role` at that time signed it.

        One such signature is enough; signatures of others are passed over. Raises SignatureInvalid.
        """
        if envelope.payload_type != payload_type:
            raise SignatureInvalid(f"signed as {envelope.payload_type!r}, not as {payload_type!r}")
        if not envelope.signatures:
            raise SignatureInvalid("not signed")
        if len(envelope.signatures) > MAX_SIGNATURES:
            raise SignatureInvalid(f"more than {MAX_SIGNATURES} signatures")
        message = pre_authentication(payload_type, envelope.payload)
        found: list[str] = []
        reasons: list[str] = []
        for signature in envelope.signatures:
            reason = self._refusal(signature.keyid, message, signature.sig, role=role, at_ns=at_ns)
            if reason:
                reasons.append(reason)
            elif signature.keyid not in found:
                found.append(signature.keyid)
        if not found:
            raise SignatureInvalid("; ".join(reasons))
        return VerifiedPayload(envelope.payload, payload_type, tuple(found))

    def verify_bytes(
        self, message: bytes, signature: bytes, *, key_id: str, role: Role, at_ns: int
    ) -> VerifiedPayload:
        """The same for a bare signature (`SigningKey.sign_bytes`). Raises SignatureInvalid."""
        reason = self._refusal(key_id, message, signature, role=role, at_ns=at_ns)
        if reason:
            raise SignatureInvalid(reason)
        return VerifiedPayload(message, "", (key_id,))

    def _refusal(
        self, key_id: str, message: bytes, signature: bytes, *, role: Role, at_ns: int
    ) -> str:
        trusted = self._by_id.get(key_id)
        if trusted is None:
            return f"key {key_id[:64]!r} is unknown"
        key, public = trusted
        if not public.signed(message, signature):
            return f"the signature of key {key_id} ({key.name}) does not fit"
        return key.refusal(role, at_ns)


def pre_authentication(payload_type: str, payload: bytes) -> bytes:
    """What DSSE signs: type and payload, each after its length (DSSE protocol, PAE)."""
    kind = payload_type.encode()
    return b"%s%d %s %d %s" % (_DSSE, len(kind), kind, len(payload), payload)

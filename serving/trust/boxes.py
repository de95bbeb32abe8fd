"""Small sealed boxes: one message, one AES-256-GCM call, under a key that commits to its identity.

A key's identity is derived from the key, so a box that names it opens under that key and no other
(AES-GCM alone would let two keys open one box). Nonces are never random per message: each process
has a random prefix of its own and counts, so that no key sees a nonce twice.
"""

import hmac
import secrets
import struct
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES: Final = 32
KEY_ID_BYTES: Final = 16
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
_COUNTS: Final = 2**32


class BoxInvalid(Exception):
    """Not sealed with this key, or changed since, or in another place than it was sealed for."""


class BoxKey:
    """A key. Its secret is shown to nobody but `secret`'s caller, who puts it away."""

    __slots__ = ("_cipher", "id", "secret")

    def __init__(self, secret: bytes) -> None:
        self.secret = secret
        self.id = derived(secret, b"identity of a box key")[:KEY_ID_BYTES]
        self._cipher = AESGCM(secret)

    def __repr__(self) -> str:
        return f"BoxKey({self.id.hex()})"

    @classmethod
    def new(cls) -> "BoxKey":
        return cls(secrets.token_bytes(KEY_BYTES))

    def seal(self, nonce: bytes, message: bytes, place: bytes) -> bytes:
        """place: what the box is bound to; the same is needed to open it."""
        return self._cipher.encrypt(nonce, message, place)

    def open(self, nonce: bytes, box: bytes, place: bytes) -> bytes:
        """Raises BoxInvalid."""
        try:
            return self._cipher.decrypt(nonce, box, place)
        except InvalidTag as error:
            raise BoxInvalid("the box does not open with this key here") from error


class Nonces:
    """Nonces of one process: a random prefix of 64 bits and a count, then another prefix."""

    def __init__(self) -> None:
        self._prefix = b""
        self._next = _COUNTS
        self._pack = struct.Struct(">I").pack

    def __call__(self) -> bytes:
        if self._next == _COUNTS:
            self._prefix, self._next = secrets.token_bytes(8), 0
        count, self._next = self._next, self._next + 1
        return self._prefix + self._pack(count)


def derived(secret: bytes, purpose: bytes) -> bytes:
    """A key of 32 bytes for one purpose; tells nothing about `secret` or other purposes' keys."""
    return hmac.digest(secret, purpose, "sha256")


def keyed_hash(key: bytes, value: bytes) -> bytes:
    """16 bytes that stand for `value`, and cannot be guessed back without `key`."""
    return hmac.digest(key, value, "sha256")[:16]

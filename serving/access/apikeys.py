"""API keys for machines: `svk_`, a public identifier, `_`, and 256 random bits, all hexadecimal.

The prefix lets people and secret scanners recognise one; the identifier is how a key is looked up
and talked about. What is kept is a keyed hash (HMAC-SHA256) of the whole key under a pepper that
lives beside the other secrets, so that the list of keys alone lets nobody guess. A slow hash was
rejected: it protects passwords that people choose, and here there are 256 bits nobody chose.

A lookup takes the same time whether the identifier is known or not: the hash is computed and compared
either way.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from serving.access.state import ApiKey
from serving.errors import StartFailed
from serving.trust.privatefiles import read_or_create

PEPPER_NAME: Final = "pepper"
PREFIX: Final = b"svk_"
SCHEME: Final = b"ApiKey "
"""The scheme of an `Authorization` value with an API key; `X-Api-Key` is short for it."""

_FORM: Final = re.compile(rb"svk_([0-9a-f]{12})_[0-9a-f]{64}")
_IDENTIFIER_BYTES: Final = 6
_SECRET_BYTES: Final = 32
_NOTHING: Final = "0" * 64


def read_pepper(keys_dir: Path) -> bytes:
    """The pepper of a data directory, made on first use. Raises StartFailed."""
    path = keys_dir / PEPPER_NAME
    pepper = read_or_create(path, lambda: secrets.token_bytes(_SECRET_BYTES))
    if len(pepper) != _SECRET_BYTES:
        raise StartFailed(f"{path} must hold {_SECRET_BYTES} bytes")
    return pepper


def new_secret() -> tuple[str, str]:
    """An identifier nobody has, and the key with it."""
    identifier = secrets.token_hex(_IDENTIFIER_BYTES)
    return identifier, f"{PREFIX.decode()}{identifier}_{secrets.token_hex(_SECRET_BYTES)}"


def digest_of(key: bytes, pepper: bytes) -> str:
    """What is kept of a key."""
    return hmac.new(pepper, key, hashlib.sha256).hexdigest()


class KnownKeys:
    """The keys of one epoch, by their identifiers. Immutable."""

    def __init__(self, keys: Mapping[str, ApiKey], pepper: bytes) -> None:
        self._keys = dict(keys)
        self._pepper = pepper

    def find(self, credential: bytes) -> ApiKey | None:
        """The key that `credential` is, whether it still counts or not; None for none."""
        form = _FORM.fullmatch(credential)
        if form is None:
            return None
        key = self._keys.get(form[1].decode("ascii"))
        digest = digest_of(credential, self._pepper)
        is_equal = hmac.compare_digest(digest, _NOTHING if key is None else key.digest)
        return key if is_equal else None

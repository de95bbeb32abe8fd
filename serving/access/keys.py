"""What our own processes show each other: one secret of the data directory."""

import hmac
import secrets
from pathlib import Path
from typing import Final

from serving.errors import StartFailed
from serving.trust.privatefiles import read_or_create

INTERNAL_NAME: Final = "internal"
SECRET_BYTES: Final = 32
BEARER: Final = b"Bearer "


def internal_secret(keys_dir: Path) -> str:
    """32 random bytes in lower-case hexadecimal.

    Made on first use. Raises StartFailed when the file is damaged or others may read it.
    """
    path = keys_dir / INTERNAL_NAME
    content = read_or_create(path, lambda: secrets.token_hex(SECRET_BYTES).encode())
    try:
        secret = content.decode("ascii")
        length = len(bytes.fromhex(secret))
    except ValueError as error:
        raise StartFailed(f"{path} does not hold a hexadecimal secret") from error
    if length != SECRET_BYTES or secret != secret.strip():
        raise StartFailed(f"{path} must hold {SECRET_BYTES} bytes in hexadecimal")
    return secret


def carries_secret(authorization: bytes | None, secret: str) -> bool:
    """Whether an `Authorization` value is `Bearer` and `secret`, compared in constant time."""
    expected = BEARER + secret.encode("ascii")
    return authorization is not None and hmac.compare_digest(authorization, expected)

"""The keys of one installation: the one it signs with, and the file of those it trusts.

    <keys>/installation.ed25519   its own signing key, made once (mode 0600)
    <keys>/trusted-keys.json      whose signatures count: `signatures.TrustedKey`, one after the other

The installation trusts its own key in every role from the moment both are made. From then on the
file belongs to people: `serving trust` edits it, under a lock and as a whole, and a key taken out
of it never comes back by itself.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from serving.errors import SignatureInvalid, StartFailed
from serving.trust.privatefiles import held, read_or_create, read_private, replace_private
from serving.trust.signatures import ROLES, SigningKey, TrustedKey, TrustedKeys

KEY_NAME: Final = "installation.ed25519"
TRUSTED_NAME: Final = "trusted-keys.json"
OWN_NAME: Final = "installation"

Keys = tuple[TrustedKey, ...]


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keys: Keys


def installation_key(keys_dir: Path) -> SigningKey:
    """The key of this installation, made on first use and trusted. Raises StartFailed."""
    path = keys_dir / KEY_NAME
    content = read_or_create(path, lambda: SigningKey.create().pem())
    try:
        key = SigningKey.from_pem(content)
    except StartFailed as error:
        raise StartFailed(f"{path}: {error.message}") from error
    own = TrustedKey(key.key_id, key.public.text, OWN_NAME, ROLES)
    read_or_create(keys_dir / TRUSTED_NAME, lambda: _encoded((own,)))
    return key


def read_trusted(keys_dir: Path) -> TrustedKeys:
    """The trusted keys as they are now. Raises SignatureInvalid and StartFailed."""
    path = keys_dir / TRUSTED_NAME
    try:
        content = read_private(path)
    except OSError as error:
        raise SignatureInvalid(f"cannot read the trusted keys in {path}") from error
    try:
        return TrustedKeys(msgspec.json.decode(content, type=_File).keys)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SignatureInvalid(f"{path} does not list trusted keys: {error}") from error


def edit_trusted(keys_dir: Path, change: Callable[[Keys], Keys]) -> TrustedKeys:
    """Replaces the trusted keys by what `change` makes of them; two editors wait for each other."""
    installation_key(keys_dir)
    path = keys_dir / TRUSTED_NAME
    try:
        with held(path.with_suffix(".lock")):
            changed = TrustedKeys(change(read_trusted(keys_dir).keys))
            replace_private(path, _encoded(changed.keys))
    except OSError as error:
        raise StartFailed(f"cannot change {path}: {error.strerror}") from error
    return changed


def _encoded(keys: Keys) -> bytes:
    return msgspec.json.format(msgspec.json.encode(_File(keys)), indent=2) + b"\n"

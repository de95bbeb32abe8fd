"""Changes to whose signatures count: one key added, ended, or replaced by its successor.

Each is a pure step from the trusted keys as they are to what they become, for `edit_trusted`.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from serving.errors import SettingInvalid
from serving.trust.installation import (
    KEY_NAME,
    OWN_NAME,
    Keys,
    edit_trusted,
    installation_key,
)
from serving.trust.privatefiles import replace_private
from serving.trust.signatures import ROLES, PublicKey, Role, SigningKey, TrustedKey


def add_key(
    keys_dir: Path, public: PublicKey, *, name: str, roles: Sequence[Role], not_after_ns: int
) -> TrustedKey:
    """Trusts a key for these roles. Raises SettingInvalid when it is there already."""
    added = TrustedKey(public.key_id, public.text, name, tuple(roles), not_after_ns=not_after_ns)

    def change(keys: Keys) -> Keys:
        if any(each.key_id == added.key_id for each in keys):
            raise SettingInvalid(f"key {added.key_id} is trusted, or revoked, already")
        return (*keys, added)

    edit_trusted(keys_dir, change)
    return added


def revoke_key(keys_dir: Path, key_id: str, *, now_ns: int) -> TrustedKey:
    """From now on nothing that the key ever signed counts. Raises SettingInvalid for no such key."""
    found: list[TrustedKey] = []

    def change(keys: Keys) -> Keys:
        changed = []
        for each in keys:
            if each.key_id == key_id:
                each = msgspec.structs.replace(each, revoked_at_ns=each.revoked_at_ns or now_ns)  # noqa: PLW2901 -- the same key, ended
                found.append(each)
            changed.append(each)
        if not found:
            raise SettingInvalid(f"no trusted key {key_id!r}; `serving trust list` shows them")
        return tuple(changed)

    edit_trusted(keys_dir, change)
    return found[0]


def rotate_key(keys_dir: Path, *, now_ns: int, old_until_ns: int) -> tuple[TrustedKey, str]:
    """A new installation key, trusted in every role, and the id of the one before.

    old_until_ns: when what the old one signed stops to count; 0: it goes on until it is revoked.
    Stopped in between, the new key is trusted and the old one still signs: harmless, and repeated.
    """
    old, new = installation_key(keys_dir), SigningKey.create()
    added = TrustedKey(new.key_id, new.public.text, OWN_NAME, ROLES, not_before_ns=now_ns)

    def change(keys: Keys) -> Keys:
        kept = tuple(
            msgspec.structs.replace(each, not_after_ns=old_until_ns or each.not_after_ns)
            if each.key_id == old.key_id
            else each
            for each in keys
        )
        return (*kept, added)

    edit_trusted(keys_dir, change)
    replace_private(keys_dir / KEY_NAME, new.pem())
    return added, old.key_id

"""API keys: made, listed, replaced and revoked.

A key is shown once, to the one who made it; what is kept of it is its digest. When it was last used
is told by the workers now and then, and is written back rarely: it is for finding keys that nobody
needs, not for evidence.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
import structlog

from serving.access.apikeys import digest_of, new_secret
from serving.access.claims import subject_is_valid
from serving.access.orders import KeyOrder, KeyView, MadeKey, RotationOrder
from serving.access.patterns import pattern_is_valid
from serving.access.state import ApiKey
from serving.access.store import AccessStore
from serving.audit.events import Event, EventName
from serving.control.access import AccessRegister, event_of
from serving.core.actors import NOWHERE, Origin
from serving.core.principals import Principal
from serving.errors import NotFound, ParameterInvalid

logger = structlog.get_logger()

USES_KEPT_S: Final = 300
"""How often last uses are written to disk."""


class KeyRegister:
    """The API keys of one instance. Not for use from several threads."""

    def __init__(self, register: AccessRegister, store: AccessStore, *, pepper: bytes) -> None:
        self._register = register
        self._store = store
        self._pepper = pepper
        self._uses = store.load_uses()
        self._uses_saved_s = register.now_s()

    def listed(self) -> list[KeyView]:
        """All keys, newest first."""
        self.note_uses(self._register.live.take_uses())
        return [self._view(key) for key in reversed(self._register.state.keys)]

    def make_key(self, order: KeyOrder, maker: Principal, *, origin: Origin = NOWHERE) -> MadeKey:
        """Raises ParameterInvalid."""
        owner = order.owner or maker.subject
        if not subject_is_valid(order.subject) or not subject_is_valid(owner):
            raise ParameterInvalid("subject and owner must be 1 to 255 printable characters")
        if not all(pattern_is_valid(model) for model in order.models or ()):
            raise ParameterInvalid("models must be 1 to 255 printable characters; * is any text")
        now_s = self._register.now_s()
        made, key = self._mint(
            ApiKey(
                key="",
                digest="",
                subject=order.subject,
                roles=tuple(dict.fromkeys(order.roles)),
                models=order.models,
                tenant=order.tenant,
                owner=owner,
                made_s=now_s,
                expires_s=now_s + order.ttl_s,
            )
        )
        event = event_of(maker, origin, EventName.KEY_MADE, f"key:{key.key}", after=_told(key))
        self._register.change(event, keys=(*self._register.state.keys, key))
        logger.info("key made", by=maker.subject, key=key.key, subject=key.subject)
        return made

    def rotate_key(
        self, name: str, order: RotationOrder, maker: Principal, *, origin: Origin = NOWHERE
    ) -> MadeKey:
        """A new key for the same holder; the old one ends after the overlap.

        Raises NotFound, or ParameterInvalid for one that has ended.
        """
        now_s, old = self._register.now_s(), self._key(name)
        if old.ends_s <= now_s:
            raise ParameterInvalid("this key has ended; make a new one")
        made, new = self._mint(
            msgspec.structs.replace(old, made_s=now_s, expires_s=now_s + order.ttl_s, successor="")
        )
        ends_s = min(old.expires_s, now_s + order.overlap_s)
        ending = msgspec.structs.replace(old, expires_s=ends_s, successor=new.key)
        event = event_of(
            maker,
            origin,
            EventName.KEY_ROTATED,
            f"key:{name}",
            before=_told(old),
            after={"ends": _told(ending), "new": _told(new)},
        )
        self._replace(ending, event, and_add=(new,))
        logger.info("key rotated", by=maker.subject, key=name, successor=new.key)
        return made

    def revoke_key(self, name: str, maker: Principal, *, origin: Origin = NOWHERE) -> None:
        """Harmless when repeated. Raises NotFound."""
        old = self._key(name)
        if not old.revoked_s:
            revoked = msgspec.structs.replace(old, revoked_s=self._register.now_s())
            event = event_of(
                maker,
                origin,
                EventName.KEY_REVOKED,
                f"key:{name}",
                before=_told(old),
                after=_told(revoked),
            )
            self._replace(revoked, event)
            logger.info("key revoked", by=maker.subject, key=name)

    def note_uses(self, uses: Mapping[str, int]) -> None:
        """uses: key to the wall time in seconds of its last use, as a worker saw it."""
        known = {key.key for key in self._register.state.keys}
        latest = {
            name: max(used_s, self._uses.get(name, 0))
            for name, used_s in uses.items()
            if name in known
        }
        self._uses = {name: at_s for name, at_s in self._uses.items() if name in known} | latest
        now_s = self._register.now_s()
        if latest and now_s - self._uses_saved_s >= USES_KEPT_S:
            self._uses_saved_s = now_s
            try:
                self._store.save_uses(self._uses)
            except OSError as error:
                logger.warning("last uses of keys cannot be kept", error=str(error))

    # -- inside ----------------------------------------------------------------------------------

    def _key(self, name: str) -> ApiKey:
        for key in self._register.state.keys:
            if key.key == name:
                return key
        raise NotFound("there is no such key")

    def _mint(self, pattern: ApiKey) -> tuple[MadeKey, ApiKey]:
        """A new key with everything of `pattern` but its identifier and secret."""
        name, secret = new_secret()
        digest = digest_of(secret.encode(), self._pepper)
        key = msgspec.structs.replace(pattern, key=name, digest=digest)
        return MadeKey(key=name, secret=secret, expires_s=key.expires_s), key

    def _replace(self, changed: ApiKey, event: Event, *, and_add: tuple[ApiKey, ...] = ()) -> None:
        keys = self._register.state.keys
        kept = tuple(changed if each.key == changed.key else each for each in keys)
        self._register.change(event, keys=(*kept, *and_add))

    def _view(self, key: ApiKey) -> KeyView:
        state = "active"
        if key.revoked_s:
            state = "revoked"
        elif key.expires_s <= self._register.now_s():
            state = "expired"
        return KeyView(
            key=key.key,
            state=state,
            subject=key.subject,
            roles=key.roles,
            models=key.models,
            tenant=key.tenant,
            owner=key.owner,
            made_s=key.made_s,
            expires_s=key.expires_s,
            revoked_s=key.revoked_s,
            successor=key.successor,
            last_used_s=self._uses.get(key.key, 0),
        )


def _told(key: ApiKey) -> dict[str, Any]:
    """What the trail says of a key: everything but what it is recognised by."""
    facts: dict[str, Any] = msgspec.to_builtins(key)
    del facts["digest"]
    return facts

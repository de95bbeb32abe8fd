"""The keys of one issuer as they are now: what the request path asks, and what refreshing changes.

Asking never waits. A key that is not there is noted, so that whoever refreshes can look sooner; when
the issuer cannot be read, the answer is that nobody can tell, and not that the token is bad.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from serving.access.claims import Profile
from serving.access.verification import KeySet, VerificationKey
from serving.errors import AuthUnavailable

logger = structlog.get_logger()

MESSAGE: Final = "the keys of this token's issuer cannot be read now, so the token cannot be judged"


class KeyRing:
    """trustworthy: whether a key that is not here is known not to be one of the issuer's."""

    def __init__(self, issuer: str, keys: KeySet | None = None) -> None:
        """keys: None until some are read for the first time."""
        self.issuer = issuer
        self.trustworthy = keys is not None
        self._keys = keys or KeySet()
        self._missed: Callable[[], None] = _nothing
        self._told: list[Callable[[frozenset[str]], None]] = []

    def find(self, key_id: str | None) -> VerificationKey | None:
        """The key that a token names, or None. Raises AuthUnavailable when there is no telling."""
        key = self._keys.find(key_id)
        if key is None:
            self._missed()
            if not self.trustworthy:
                raise AuthUnavailable(MESSAGE)
        return key

    def replace(self, keys: KeySet) -> None:
        """Uses these keys from now on, and tells those who remember what the others verified."""
        before, after = self._keys.identities(), keys.identities()
        self._keys = keys
        added, removed = after - before, before - after
        if added or removed:
            tell_operator = logger.warning if before else logger.info  # The first are no surprise.
            tell_operator(
                "the keys of an issuer changed",
                issuer=self.issuer,
                added=sorted(added),
                removed=sorted(removed),
            )
        if removed:
            for tell in self._told:
                tell(removed)

    def identities(self) -> frozenset[str]:
        return self._keys.identities()

    def when_missed(self, call: Callable[[], None]) -> None:
        """call: whenever a token names a key that is not here; cheap, as anybody can cause it."""
        self._missed = call

    def when_removed(self, tell: Callable[[frozenset[str]], None]) -> None:
        """tell: gets the identities of keys that are used no more."""
        self._told.append(tell)


@dataclass(frozen=True, slots=True)
class TrustedIssuer:
    """One issuer whose tokens are believed: what they must say, and the keys that sign them."""

    profile: Profile
    keys: KeyRing


def _nothing() -> None:
    pass

"""Which verified credentials count no more.

An entry counts for every issuer: `alice` of one and `alice` of another are both turned away. That
can only refuse too much, and a person who revokes in a hurry need not know which issuer signed.

A time covers what was issued in its own second too, because `iat` has whole seconds: what was
issued just after is refused until the next second, what was issued just before is never let in.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from serving.core.principals import Principal


@dataclass(frozen=True, slots=True)
class Revocations:
    """A complete list; the next one replaces it.

    token_ids: `jti` of tokens, identifiers of API keys. issued_before_s: wall time in whole seconds by
    subject; all_issued_before_s: of everybody, 0 for nobody.
    """

    subjects: frozenset[str] = frozenset()
    token_ids: frozenset[str] = frozenset()
    issued_before_s: Mapping[str, int] = field(default_factory=dict)
    all_issued_before_s: int = 0

    def cover(self, principal: Principal) -> bool:
        """Whether the credential behind `principal` is revoked."""
        since_s = max(self.all_issued_before_s, self.issued_before_s.get(principal.subject, 0))
        return (
            principal.subject in self.subjects
            or bool(principal.token_id and principal.token_id in self.token_ids)
            or 0 < since_s >= principal.issued_s
        )

"""Refusals summed up for the audit trail: who wanted what and was refused, how often, since when.

A flood must neither fill the trail nor be lost in it: equal refusals of a period become one entry with
a count, and beyond so many different ones the rest is one entry without names. A credential that was
refused names nobody, since nothing in it was believed.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from serving.core.clock import Clock

MOST_GROUPS: Final = 100
OTHERS: Final = "others"

_Group = tuple[str, str, str, str, str, str]


class Denial(msgspec.Struct, frozen=True, kw_only=True):
    """Equal refusals of one period. action, model: empty for a refused credential. ground: what the
    decision rested on, or why the credential was refused. Times are wall nanoseconds."""

    subject: str = ""
    tenant: str = ""
    action: str = ""
    model: str = ""
    ground: str
    rule: str = ""
    count: int
    first_ns: int
    last_ns: int


class Tally:
    """The refusals of one process since they were taken last. Not for use from several threads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._groups: dict[_Group, Denial] = {}

    def note(
        self,
        ground: str,
        *,
        subject: str = "",
        tenant: str = "",
        action: str = "",
        model: str = "",
        rule: str = "",
    ) -> None:
        now_ns = self._clock.wall_ns()
        denial = Denial(
            subject=subject,
            tenant=tenant,
            action=action,
            model=model,
            ground=ground,
            rule=rule,
            count=1,
            first_ns=now_ns,
            last_ns=now_ns,
        )
        self.add([denial])

    def add(self, denials: Sequence[Denial]) -> None:
        """Those of another process, or some that could not be told."""
        for each in denials:
            group = (each.subject, each.tenant, each.action, each.model, each.ground, each.rule)
            if group not in self._groups and len(self._groups) >= MOST_GROUPS:
                group = ("", "", "", "", OTHERS, "")
            known = self._groups.get(group)
            self._groups[group] = each if known is None else _sum(known, each)
            if known is None and group[4] == OTHERS:
                self._groups[group] = Denial(
                    ground=OTHERS, count=each.count, first_ns=each.first_ns, last_ns=each.last_ns
                )

    def take(self) -> tuple[Denial, ...]:
        """Everything since the last call."""
        taken, self._groups = self._groups, {}
        return tuple(taken.values())


def _sum(one: Denial, other: Denial) -> Denial:
    return msgspec.structs.replace(
        one,
        count=one.count + other.count,
        first_ns=min(one.first_ns, other.first_ns),
        last_ns=max(one.last_ns, other.last_ns),
    )

"""Refused credentials and refused authorizations, as evidence: counted all, logged with measure, and
summed up for the audit trail (`access.tallies`).

A flood of refusals must cost neither the disk nor the reader of the log: at most so many lines are
written in any second, and the next line that is written says how many were not. What is counted is
bounded: reasons are ours, never a caller's words.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Final

import structlog

from serving.access.tallies import Tally
from serving.core.clock import Clock
from serving.core.principals import Action, Decision, Ground, Principal

logger = structlog.get_logger()

LINES_PER_SECOND: Final = 5
_SECOND_NS: Final = 1_000_000_000


class Denials:
    """Of one process. Not for use from several threads."""

    def __init__(self, clock: Clock, *, lines_per_second: int = LINES_PER_SECOND) -> None:
        self.tally = Tally(clock)
        self._clock = clock
        self._most = lines_per_second
        self._counts: Counter[Ground] = Counter()
        self._second = -1
        self._lines = 0
        self._suppressed = 0

    def counts(self) -> Mapping[Ground, int]:
        """How many authorizations were refused on which ground."""
        return dict(self._counts)

    def refuse_credential(self, reason: str) -> None:
        """A credential was refused, as its verifier counts; who sent it is not known."""
        self.tally.note(reason)
        self._log("credential refused", reason=reason)

    def refuse_action(
        self, principal: Principal, action: Action, model: str | None, *, why: Decision, epoch: int
    ) -> None:
        """A known caller wanted something that it may not do. epoch: of the rules."""
        self._counts[why.ground] += 1
        self.tally.note(
            why.ground.value,
            subject=principal.subject,
            tenant=principal.tenant,
            action=action.value,
            model=model or "",
            rule=why.rule,
        )
        self._log(
            "access denied",
            subject=principal.subject,
            tenant=principal.tenant,
            action=action.value,
            model=model,
            ground=why.ground.value,
            rule=why.rule,
            epoch=epoch,
        )

    def _log(self, event: str, **facts: object) -> None:
        second = self._clock.monotonic_ns() // _SECOND_NS
        if second != self._second:
            self._second, self._lines = second, 0
        if self._lines >= self._most:
            self._suppressed += 1
            return
        self._lines += 1
        if self._suppressed:
            facts["suppressed"] = self._suppressed
            self._suppressed = 0
        logger.warning(event, **facts)

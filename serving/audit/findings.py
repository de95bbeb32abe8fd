"""What verification finds, and the report that it makes of it."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import msgspec

MOST_FINDINGS: Final = 100


class Kind(StrEnum):
    """What was done to the trail."""

    EDITED = "edited"
    """The event is not what was written, or a column says otherwise than its body."""
    DELETED = "deleted"
    INSERTED = "inserted"
    DUPLICATED = "duplicated"
    REORDERED = "reordered"
    TRUNCATED = "truncated"
    """The end is missing: the head, a checkpoint or the anchor knows more events."""
    FORKED = "forked"
    """History is whole in itself, but it is another one than was signed."""
    ROLLED_BACK = "rolled_back"
    """An older copy: whole and signed, but the anchor knows a later one."""
    OTHER_LOG = "other_log"
    """A checkpoint of another log."""
    UNSIGNED = "unsigned"
    """No checkpoint that counts covers the events."""


class Finding(msgspec.Struct, frozen=True):
    """One damage. position: of the first event that it concerns."""

    kind: Kind
    position: int
    detail: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What was verified. covered: events that a checkpoint signs; refused: checkpoints that did not
    count, and why; unlisted: findings beyond the first hundred."""

    log_id: str
    events: int
    covered: int
    checkpoints: int
    anchored: int
    root: str
    intact: bool
    findings: tuple[Finding, ...]
    unlisted: int
    refused: tuple[str, ...]


@dataclass(slots=True)
class Findings:
    """Collects findings, the first hundred of them in words."""

    listed: list[Finding] = field(default_factory=list)
    count: int = 0

    def add(self, kind: Kind, position: int, detail: str) -> None:
        self.count += 1
        if len(self.listed) < MOST_FINDINGS:
            self.listed.append(Finding(kind, position, detail))

    def sorted(self) -> tuple[Finding, ...]:
        return tuple(sorted(self.listed, key=lambda each: each.position))

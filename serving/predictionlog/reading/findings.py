"""What `serving log verify` says: findings, by segment."""

from dataclasses import dataclass

from serving.predictionlog.removals import Removal


@dataclass(frozen=True, slots=True)
class Finding:
    """Damage in `file` from `start` to `end` (offsets; equal when nothing stands there).

    sequence: of the record that stands there, None when it is not one record. last_safe,
    first_safe: sequences of the last sound record before and the first one after it in the same
    file; None when there is none.
    """

    file: str
    start: int
    end: int
    reason: str
    last_safe: int | None = None
    first_safe: int | None = None
    sequence: int | None = None


@dataclass(frozen=True, slots=True)
class SegmentReport:
    """One segment. state: `sealed`, `recovered` (sealed by a restart), `open` or `suspect`.

    key_id: of the signature that was checked, empty when none was. lost_commits: counted by the
    head and gone at a restart. unknown: sound frames of types that this program does not know.
    """

    file: str
    state: str
    durability: str
    log_id: str
    version: int
    key_id: str
    records: int
    events: int
    unknown: int
    commits: int
    torn_bytes: int
    cut_bytes: int
    lost_commits: int
    damage: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class VerificationReport:
    """What `verify` found, segments in order. heads: findings about no single segment.

    removed: what retention took, as it signed; no damage.
    """

    segments: tuple[SegmentReport, ...]
    heads: tuple[Finding, ...] = ()
    removed: tuple[Removal, ...] = ()

    @property
    def records(self) -> int:
        return sum(segment.records for segment in self.segments)

    @property
    def damage(self) -> tuple[Finding, ...]:
        found = tuple(finding for segment in self.segments for finding in segment.damage)
        return (*found, *self.heads)

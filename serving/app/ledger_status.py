"""What the ledger process says about itself, for `serving status`."""

import msgspec

from serving.ledger.jobs import JobStatus


class LedgerStatus(msgspec.Struct, frozen=True):
    """What the ledger process says about itself."""

    jobs: list[JobStatus]
    waiting_segments: int
    damaged_segments: int
    files: int
    cold_bytes: int
    lag_seconds: dict[str, float]

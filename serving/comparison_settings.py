"""Settings of the monitor process: how much of what is mirrored it compares, and how long it waits."""

from typing import Annotated

from pydantic import Field

from serving.setting_types import Bytes, Count, Group, Seconds


class ComparisonSettings(Group):
    """The comparison of candidates with what answers, as records come."""

    max_pairs_per_s: Annotated[float, Field(gt=0, le=100_000)] = 500.0
    """Of each model; of more a fair share is compared, and the share is told."""
    wait_s: Seconds = 30.0
    """How long an answer's copy is waited for, in the log's own time, before it counts as missing."""
    max_held_bytes: Bytes = 64 * 1024 * 1024
    """Records that wait for their other half; above it the oldest are given up, and counted."""
    max_held_records: Count = 50_000
    """The same as a number."""
    max_waiting_pairs: Count = 100_000
    """Compared pairs kept on disk for the outcomes that may still come; the oldest go first."""
    report_every_s: Annotated[float, Field(gt=0, le=60)] = 1.0
    """How often control is told what was found, and the state is saved."""

"""Who still calls a version: whom to tell that it will go, from the records of what they asked."""

from collections.abc import Iterable
from dataclasses import dataclass

from serving.core.predictions import PredictionRecord


@dataclass(slots=True)
class Consumer:
    """One caller of one version. last_ns: when it asked last, wall time."""

    principal: str
    version: str
    requests: int = 0
    last_ns: int = 0


def consumers(records: Iterable[PredictionRecord]) -> list[Consumer]:
    """The callers in `records`, who asked last first; copies for candidates and parts are nobody's calls."""
    found: dict[tuple[str, str], Consumer] = {}
    for record in records:
        if not record.asked:
            continue
        who = (record.principal, record.version)
        consumer = found.setdefault(who, Consumer(*who))
        consumer.requests += 1
        consumer.last_ns = max(consumer.last_ns, record.time_ns)
    return sorted(found.values(), key=lambda each: (-each.last_ns, each.principal))

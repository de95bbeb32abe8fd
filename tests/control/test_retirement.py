"""An artifact goes when its version has been retired for a while, and nobody else has it."""

from dataclasses import dataclass, field
from pathlib import Path

from serving.audit.events import EventName
from serving.audit.log import AuditLog
from serving.control.retirement import WAIT_NS, Retirement
from serving.core.clock import ManualClock
from serving.registry.lifecycle import Step
from serving.registry.orders import StateOrder
from tests.control.test_register import Agency


@dataclass
class Shelf:
    """Artifacts by digest; `broken` cannot be destroyed."""

    digests: set[str] = field(default_factory=set)
    broken: bool = False

    def holds(self, digest: str) -> bool:
        return digest in self.digests

    def destroy(self, digest: str) -> None:
        if self.broken:
            raise OSError("read-only")
        self.digests.discard(digest)


async def test_artifact_is_destroyed_with_the_last_version_that_has_it(tmp_path: Path) -> None:
    """Not at once, not while another version has the same one, again after a failure, and told once."""
    clock = ManualClock()
    agency = Agency(tmp_path, clock)
    shelf = Shelf({"ab" * 32})
    retirement = Retirement(agency.database, AuditLog(clock), shelf, clock)
    held = []
    for version in ("1", "2"):
        for step in (Step.DEPRECATE, Step.RETIRE):
            agency.take(version, StateOrder(step=step, reason="old"))
        retirement.sweep()
        held.append(shelf.holds("ab" * 32))
        clock.advance(WAIT_NS / 1e9)
        if version == "1":
            retirement.sweep()
            held.append(shelf.holds("ab" * 32))
    shelf.broken = True
    retirement.sweep()
    held.append(shelf.holds("ab" * 32))
    shelf.broken = False
    for _ in range(2):
        retirement.sweep()

    assert held == [True, True, True, True]
    assert shelf.digests == set()
    assert agency.told(EventName.ARTIFACT_DESTROYED) == ["version:doubler@1"]
    agency.worker.close()
    agency.database.close()

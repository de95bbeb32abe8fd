"""Audit and governance in the control process: their tasks and their metrics.

Built on the loop with the rest of the control port; the tasks begin once the database was reached.
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from serving.app.directory import DataDirectory
from serving.audit.checkpoints import Checkpoints
from serving.audit.spool import Spool
from serving.control.access import AccessRegister
from serving.control.auditing import Auditing, Instance, Trail
from serving.core.clock import Clock
from serving.governance.delivery import Deliveries
from serving.governance.service import Governance
from serving.settings import Settings
from serving.storage.database import Database
from serving.storage.worker import Worker
from serving.telemetry.families import (
    APPROVALS_ENDING,
    APPROVALS_OPEN,
    AUDIT_CHECKPOINT_AGE,
    AUDIT_DAMAGED,
    AUDIT_EVENTS,
    WEBHOOK_DELIVERIES,
)
from serving.telemetry.metrics import MetricFamilies
from serving.trust.installation import installation_key, read_trusted

ANCHOR_NAME: Final = "anchor.txt"
OPEN_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class EvidenceParts:
    """What the database gives. webhook_secret: of the installation."""

    database: Database
    trail: Trail
    webhook_secret: bytes


def open_trail(
    settings: Settings,
    directory: DataDirectory,
    database: Database,
    *,
    governance: Governance,
    clock: Clock,
) -> Trail:
    """The trail over an open database. Blocks."""
    checkpoints = Checkpoints(
        database,
        key=installation_key(directory.keys),
        trusted=lambda: read_trusted(directory.keys),
        anchor=anchor_of(settings, directory),
        clock=clock,
    )
    return Trail(database, governance.journal.audit, checkpoints, governance.requests)


def anchor_of(settings: Settings, directory: DataDirectory) -> Path:
    """The file that checkpoints are appended to."""
    return settings.audit.anchor or directory.audit / ANCHOR_NAME


class EvidenceTasks:
    """The tasks of one control process. parts: None until the database was reached."""

    def __init__(
        self,
        settings: Settings,
        directory: DataDirectory,
        worker: Worker,
        *,
        parts: Callable[[], EvidenceParts | None],
        access: AccessRegister,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._worker = worker
        self._parts = parts
        self._clock = clock
        self._deliveries: Deliveries | None = None
        self._auditing = Auditing(
            self._trail,
            worker,
            access=access,
            spool=Spool(directory.audit),
            instance=Instance(directory.instance, _told(settings)),
            period_s=settings.audit.checkpoint_s,
            clock=clock,
        )

    async def run(self) -> None:
        """Until cancelled."""
        await asyncio.gather(self._auditing.run(), self._deliver())

    async def aclose(self) -> None:
        """The end of the trail, once `run` was cancelled."""
        await self._auditing.aclose()

    def read_families(self, families: MetricFamilies) -> None:
        state = self._auditing.state
        families.read_one(AUDIT_EVENTS, lambda: state.events)
        families.read_one(APPROVALS_OPEN, lambda: state.open_requests)
        families.read_one(APPROVALS_ENDING, lambda: len(state.ending))
        families.read_one(AUDIT_DAMAGED, lambda: state.damaged)
        families.read_one(AUDIT_CHECKPOINT_AGE, self._age_s)
        families.read(WEBHOOK_DELIVERIES, self._deliveries_by_outcome)

    # -- inside ----------------------------------------------------------------------------------

    async def _deliver(self) -> None:
        while (parts := self._parts()) is None:  # noqa: ASYNC110 - opened by another thread
            await asyncio.sleep(OPEN_S)
        self._deliveries = Deliveries(
            parts.database,
            self._worker,
            settings=self._settings.webhooks,
            secret=parts.webhook_secret,
            clock=self._clock,
        )
        await self._deliveries.run()

    def _trail(self) -> Trail | None:
        parts = self._parts()
        return None if parts is None else parts.trail

    def _age_s(self) -> float:
        signed_ns = self._auditing.state.signed_ns
        return (self._clock.wall_ns() - signed_ns) / 1e9 if signed_ns else 0.0

    def _deliveries_by_outcome(self) -> dict[tuple[str, ...], float]:
        counts = self._deliveries.counts if self._deliveries is not None else {}
        return {(outcome,): count for outcome, count in counts.items()}


def _told(settings: Settings) -> dict[str, Any]:
    """The settings as an event holds them: they name files of secrets, and hold none."""
    told: dict[str, Any] = json.loads(settings.model_dump_json())
    return told

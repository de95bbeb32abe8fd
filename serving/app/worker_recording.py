"""What one gateway worker records with, besides the log itself: keys, spill, accounts, policies.

Start: after the log. Losses that an earlier process could not declare are settled beside the requests,
and nothing waits for that. Stop: what is lost is declared, then the log ends, then the accounts.
"""

import asyncio
import contextlib
from functools import partial
from pathlib import Path

import structlog

from serving.app.directory import DataDirectory
from serving.core.clock import Clock
from serving.errors import ServingError
from serving.gateway.policies import Policies
from serving.gateway.recording import EventLog, Recorder
from serving.predictionlog.losses import Loss, encode_loss
from serving.predictionlog.payloads import PayloadLimits
from serving.predictionlog.privacy.erasures import Erasures
from serving.predictionlog.privacy.subjects import SubjectSecrets
from serving.predictionlog.tree import Signer
from serving.predictionlog.writing.accounts import Accounts
from serving.predictionlog.writing.settling import Settling, settle_left
from serving.predictionlog.writing.spill import Spill
from serving.predictionlog.writing.subjectkeys import WorkerKeys
from serving.predictionlog.writing.writer import LogIdentity, PredictionLogWriter
from serving.settings import Settings

logger = structlog.get_logger()


class WorkerRecording:
    """Of the worker number `index`. Built, then `start`ed after its log, then `aclose`d, which ends the
    log, too."""

    def __init__(
        self,
        settings: Settings,
        directory: DataDirectory,
        *,
        index: int,
        log: PredictionLogWriter,
        signer: Signer,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._directory = directory.prediction_log(index)
        self._log = log
        self._clock = clock
        self.accounts = Accounts()
        self._left: list[Settling] = []
        copies = settings.privacy.erase_list_copies
        self.keys = WorkerKeys(
            directory.subjects,
            worker=self._directory.name,
            secrets=SubjectSecrets.open(directory.keys),
            erasures=Erasures(directory.subjects, copies=copies),
            max_cached=settings.privacy.max_cached_subjects,
            clock=clock,
        )
        self.spill = self._make_spill(signer)
        self.policies = Policies(
            EventLog(log, self.accounts),
            self.accounts,
            keys=self.keys,
            spill=self.spill,
            clock=clock,
        )
        self.recorder = Recorder(
            log,
            accounts=self.accounts,
            policies=self.policies,
            limits=PayloadLimits(settings.log.max_payload_bytes, settings.log.compress_bytes),
        )

    async def start(self) -> None:
        """Raises StartFailed, OSError."""
        self.keys.start()
        if self._records:
            self.accounts.open(
                self._directory,
                log_id=self._log.log_id,
                sequence=lambda: self._log.sequence,
                now_ns=self._clock.wall_ns(),
            )
        if self.spill is not None:
            await self.spill.start()

    async def run(self) -> None:
        """Follows erasures, declares losses and empties the spill, for ever."""
        if self._records:
            await self._settle()
        while True:
            await self._declare_left()
            await asyncio.sleep(self._settings.privacy.follow_s)
            self.keys.follow()
            self.policies.declare()
            if self.spill is not None:
                await self.spill.tend()

    async def aclose(self) -> None:
        """Ends the log as well. Harmless when repeated."""
        self.policies.declare()
        if self.spill is not None:
            await self.spill.aclose()
        await self._log.aclose()
        self.keys.close()
        with contextlib.suppress(OSError):  # Then the next start settles them.
            self.accounts.close(self._clock.wall_ns())

    # -- inside ----------------------------------------------------------------------------------

    @property
    def _records(self) -> bool:
        return self._settings.log.durability != "off"

    def _make_spill(self, signer: Signer) -> Spill | None:
        settings = self._settings.log
        if settings.spill_dir is None:
            return None

        def make_writer(directory: Path, identity: LogIdentity) -> PredictionLogWriter:
            return PredictionLogWriter(
                directory,
                settings=settings,
                clock=self._clock,
                signer=signer,
                identity=identity,
            )

        return Spill(
            settings.spill_dir.absolute(),
            worker=self._directory.name,
            log=self._log,
            log_root=self._directory.parent,
            max_bytes=settings.spill_bytes,
            make_writer=make_writer,
        )

    async def _settle(self) -> None:
        """Finds out what processes that were killed lost."""
        settle = partial(
            settle_left,
            self._directory,
            log_id=self._log.log_id,
            max_pending_bytes=self._settings.log.max_pending_bytes,
            clock=self._clock,
        )
        try:
            self._left = await asyncio.to_thread(settle)
        except OSError as error:
            logger.warning("the accounts of an earlier process stay open", error=str(error))

    async def _declare_left(self) -> None:
        """Until the log refuses; the rest next time."""
        while self._left:
            settling = self._left[0]
            while settling.losses:
                if not await self._declared(settling.losses[0]):
                    return
                loss = settling.losses.pop(0)
                logger.warning("a loss was declared", model=loss.model, count=loss.count)
            settling.close()
            del self._left[0]

    async def _declared(self, loss: Loss) -> bool:
        told: asyncio.Future[ServingError | None] = asyncio.get_running_loop().create_future()

        def done(error: ServingError | None) -> None:
            if not told.done():
                told.set_result(error)

        events = self.recorder.events
        if events.refusal is not None:
            return False
        events.append([encode_loss(loss, sequence=events.next_sequence())], done)
        return await told is None

"""What a writer does to a disk, from its start to its end, for a power cut at any moment of it."""

import asyncio
import contextlib
import errno
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from serving.core.clock import ManualClock
from serving.errors import LogUnavailable, ServingError
from serving.predictionlog.records import encode_predictions
from serving.predictionlog.writing.syncing import Synced
from serving.predictionlog.writing.writer import PredictionLogWriter
from serving.settings import LogSettings
from serving.trust.signatures import Envelope, Signature
from tests.logs import DOUBLER, a_request, facts
from tests.powerloss.disks import Disk

DIRECTORY: Final = Path("log")


class QuickSigner:
    """Signs nothing that anybody believes, in a microsecond."""

    key_id = "00" * 8

    def sign_bytes(self, message: bytes) -> bytes:
        return hashlib.sha512(message).digest()

    def sign(self, payload_type: str, payload: bytes) -> Envelope:
        return Envelope(payload, payload_type, (Signature(self.key_id, bytes(64)),))


class DiskSync:
    """Syncs as the kernel does, at once."""

    def __init__(self, disk: Disk, failing: Sequence[int] = ()) -> None:
        self._disk = disk
        self._failing = frozenset(failing)
        self._orders = 0

    def start(self, descriptor: int, done: Synced) -> None:
        self._orders += 1
        code = errno.EIO if self._orders in self._failing else 0
        try:
            if not code:
                self._disk.sync(descriptor)
        except OSError as error:
            code = error.errno or errno.EIO
        asyncio.get_running_loop().call_soon(done, code)

    def close(self) -> None: ...


class SteppedLoop(asyncio.SelectorEventLoop):
    """An event loop that lives by a clock set by hand, so that every run is the same."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__()
        self._by_hand = clock

    def time(self) -> float:
        return self._by_hand.monotonic_ns() / 1e9


class Run:
    """The journal of a workload and every frame that was ever appended, by sequence."""

    def __init__(self, failures: Mapping[int | str, int] | None = None) -> None:
        self.disk = Disk(failures)
        self.frames: dict[int, bytes] = {}
        self.starts: list[int] = []
        """Where in the journal each life began."""

    def try_to_write(self, commits: Sequence[tuple[int, int]]) -> None:
        """A life that may be refused from its start."""
        with contextlib.suppress(LogUnavailable):
            self.write(commits)

    def write(
        self,
        commits: Sequence[tuple[int, int]],
        *,
        durability: str = "fsync",
        failing: Sequence[int] = (),
        killed: bool = False,
    ) -> None:
        """commits: (records, rows of each). killed: the writer is left as it stands."""
        settings = LogSettings.model_construct(
            **LogSettings(min_free_bytes=0).model_dump()
            | {"durability": durability, "segment_bytes": 12_000}
        )
        clock = ManualClock()
        self.starts.append(len(self.disk.journal))
        with asyncio.Runner(loop_factory=lambda: SteppedLoop(clock)) as runner:
            runner.run(self._live(commits, settings, clock, failing=failing, killed=killed))

    async def _live(
        self,
        commits: Sequence[tuple[int, int]],
        settings: LogSettings,
        clock: ManualClock,
        *,
        failing: Sequence[int],
        killed: bool,
    ) -> None:
        log = PredictionLogWriter(
            DIRECTORY,
            settings=settings,
            clock=clock,
            signer=QuickSigner(),
            files=self.disk,
            make_sync=lambda _loop: DiskSync(self.disk, failing),
        )
        await log.start()
        for records, rows in commits:
            await self._commit(log, records, rows)
            clock.advance(0.3)  # the log looks after itself every second commit
        if not killed:
            await log.aclose()

    async def _commit(self, log: PredictionLogWriter, records: int, rows: int) -> None:
        number = log.define(DOUBLER)
        requests = [a_request(log.next_sequence(), rows=rows) for _ in range(records)]
        frames = encode_predictions(facts(number), requests)
        self.frames |= {r.sequence: frame for r, frame in zip(requests, frames, strict=True)}
        told: asyncio.Future[ServingError | None] = asyncio.get_running_loop().create_future()
        log.append(frames, told.set_result)
        if await told is None:
            self.disk.acknowledge([request.sequence for request in requests])


def sizes(count: int) -> tuple[tuple[int, int], ...]:
    """(records, rows) of commits of 0.4 to 4 KiB, some within one sector, some of several pages."""
    return tuple((1 + n * 7 % 5, 1 + n * 13 % 60) for n in range(count))

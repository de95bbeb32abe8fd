"""Prediction logs for tests: requests to record, a disk that fails on demand, reading back."""

import asyncio
import errno
import os
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from serving.core.clock import Clock, SystemClock
from serving.core.predictions import Fate, PredictionRecord
from serving.errors import ServingError
from serving.predictionlog.files import Files, SystemFiles
from serving.predictionlog.format import (
    COMMIT_BYTES,
    HEADER_BYTES,
    Definition,
    TensorShape,
    decode_header,
)
from serving.predictionlog.reading.query import Query, Search
from serving.predictionlog.records import BatchFacts, definition_text, encode_predictions
from serving.predictionlog.scan import Run, scan, seal_ending_at
from serving.predictionlog.source import Source
from serving.predictionlog.tree import Signer
from serving.predictionlog.writing.committer import Committer
from serving.predictionlog.writing.syncing import BackgroundSync
from serving.predictionlog.writing.writer import PredictionLogWriter
from serving.settings import LogSettings
from serving.trust.signatures import ROLES, SigningKey, TrustedKey, TrustedKeys

NOW_NS = 1_700_000_000_000_000_000
DOUBLER = Definition(
    "doubler", "1", "ab" * 32, (TensorShape("x", "FP32", (2,)),), (TensorShape("y", "FP32", (2,)),)
)
FAILED = Definition("doubler", "1", "ab" * 32, DOUBLER.inputs, ())
TAG = 0x5E60001
NUMBER = TAG << 32 | 1
DEFINITIONS = {NUMBER: definition_text(DOUBLER)}
SIGNER = SigningKey(Ed25519PrivateKey.from_private_bytes(b"serving-golden-files-test-key-1!"))
"""A key for tests and golden files; it signs nothing else."""
TRUSTED = TrustedKeys([TrustedKey(SIGNER.key_id, SIGNER.public.text, "tests", ROLES)])
SETTINGS = LogSettings(segment_bytes=256 * 1024, min_free_bytes=0)


@dataclass(slots=True)
class Request:
    """An admitted request as the log sees it."""

    sequence: int
    inputs: Sequence[bytes]
    outputs: Sequence[bytes]
    time_ns: int = NOW_NS
    principal: bytes = b"tester"
    request_id: bytes = b"r-1"
    trace_id: bytes = bytes(16)
    rows: int = 1
    queue_us: int = 11
    total_us: int = 33
    batch_position: int = 0
    shadow_of: int = 0


def a_request(sequence: int, *, rows: int = 1, time_ns: int = NOW_NS) -> Request:
    """An answered request to the doubler; its numbers count up from its sequence."""
    values = np.arange(rows * 2, dtype="<f4") + sequence
    return Request(
        sequence, (values.tobytes(),), ((values * 2).tobytes(),), time_ns=time_ns, rows=rows
    )


def facts(number: int = NUMBER, *, fate: Fate = Fate.OK, reason: bytes = b"") -> BatchFacts:
    return BatchFacts(number, fate, reason, policy_epoch=7, run_us=22, batch_id=5, batch_size=4)


def frames_of(*sequences: int, rows: int = 1) -> list[bytes]:
    """Encoded records of the doubler, for a committer made by `a_committer`."""
    return encode_predictions(facts(), [a_request(sequence, rows=rows) for sequence in sequences])


class QuickFiles(SystemFiles):
    """The real files without waiting for the disk, for tests that do not cut its power."""

    def make_directory(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)

    def create(self, path: Path) -> int:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def write(
        self,
        descriptor: int,
        buffers: Sequence[bytes],
        offset: int,
        *,
        durable: bool,
    ) -> int:
        return super().write(descriptor, buffers, offset, durable=False)

    def sync(self, descriptor: int) -> None:
        """Nothing."""

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)


class FaultyFiles(QuickFiles):
    """Files that follow a plan: at the n-th call from now of an operation, or from there on.

    Operations: create, write, truncate, intact, replace.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self._plan: dict[tuple[str, int], Callable[[], int | None]] = {}
        self._broken: dict[str, int] = {}
        self._lost: set[int] = set()

    def fail(self, operation: str, code: int, *, nth: int = 1) -> None:
        def strike() -> None:
            raise OSError(code, errno.errorcode[code])

        self._plan[operation, self.calls[operation] + nth] = strike

    def surprise(self) -> None:
        """The next write fails with something that no file system raises."""

        def strike() -> None:
            raise RuntimeError("nobody expects this")

        self._plan["write", self.calls["write"] + 1] = strike

    def break_down(self, code: int, *operations: str) -> None:
        """Every call fails until `repair`."""
        self._broken = dict.fromkeys(operations, code)

    def repair(self) -> None:
        self._broken = {}

    def lose(self, *, nth: int = 1) -> None:
        """The write arrives in full and its sync fails with EIO."""
        self._lost.add(self.calls["write"] + nth)

    def write_short(self, length: int, *, nth: int = 1) -> None:
        self._plan["write", self.calls["write"] + nth] = lambda: length

    def stall(self, *, nth: int = 1) -> threading.Event:
        """The write waits for the event and then succeeds."""
        gate = threading.Event()

        def wait() -> None:
            gate.wait(30)

        self._plan["write", self.calls["write"] + nth] = wait
        return gate

    def _meet(self, operation: str) -> int | None:
        self.calls[operation] += 1
        if operation in self._broken:
            raise OSError(self._broken[operation], errno.errorcode[self._broken[operation]])
        planned = self._plan.pop((operation, self.calls[operation]), None)
        return None if planned is None else planned()

    def create(self, path: Path) -> int:
        self._meet("create")
        return super().create(path)

    def write(
        self, descriptor: int, buffers: Sequence[bytes], offset: int, *, durable: bool
    ) -> int:
        length = self._meet("write")
        if length is not None:
            buffers = [b"".join(buffers)[:length]]
        written = super().write(descriptor, buffers, offset, durable=durable)
        if self.calls["write"] in self._lost:
            raise OSError(errno.EIO, "EIO")
        return written

    def truncate(self, descriptor: int, length: int) -> None:
        self._meet("truncate")
        super().truncate(descriptor, length)

    def replace(self, path: Path, content: bytes) -> None:
        self._meet("replace")
        super().replace(path, content)

    def intact(self, descriptor: int, path: Path, *, length: int) -> bool:
        self._meet("intact")
        return super().intact(descriptor, path, length=length)


def a_committer(
    directory: Path,
    *,
    settings: LogSettings = SETTINGS,
    files: Files | None = None,
    clock: Clock | None = None,
    definitions: Mapping[int, bytes] = DEFINITIONS,
    log_id: bytes = b"log-id-8",
    signer: Signer = SIGNER,
) -> Committer:
    """Opened, with the doubler's definition known."""
    committer = Committer(
        directory,
        settings=settings,
        clock=clock or SystemClock(),
        files=files or QuickFiles(),
        log_id=log_id,
        tag=TAG,
        definitions=definitions,
        signer=signer,
    )
    committer.open()
    return committer


def a_writer(
    directory: Path,
    *,
    settings: LogSettings = SETTINGS,
    files: Files | None = None,
    sync: BackgroundSync | None = None,
) -> PredictionLogWriter:
    """As the product makes it; with `files` or `sync`, the thread or `sync` syncs instead."""
    clock = SystemClock()
    if files is None and sync is None:
        return PredictionLogWriter(directory, settings=settings, clock=clock, signer=SIGNER)
    return PredictionLogWriter(
        directory,
        settings=settings,
        clock=clock,
        signer=SIGNER,
        files=files or QuickFiles(),
        make_sync=lambda _loop: sync,
    )


async def record(log: PredictionLogWriter, *, count: int = 1, rows: int = 1) -> list[int]:
    """Appends records of the doubler together; their sequences once they are recorded.

    Raises what the log answered.
    """
    number = log.define(DOUBLER)
    requests = [a_request(log.next_sequence(), rows=rows) for _ in range(count)]
    settled: asyncio.Future[ServingError | None] = asyncio.get_running_loop().create_future()
    log.append(encode_predictions(facts(number), requests), settled.set_result)
    error = await settled
    if error is not None:
        raise error
    return [request.sequence for request in requests]


async def eventually(holds: Callable[[], bool], *, within_s: float = 20.0) -> None:
    """Returns as soon as `holds`; fails when it does not in time."""
    async with asyncio.timeout(within_s):
        while not holds():  # noqa: ASYNC110 -- what is waited for happens in another thread
            await asyncio.sleep(0.01)


def read_all(root: Path, query: Query = Query()) -> list[PredictionRecord]:  # noqa: B008 -- frozen
    return list(Search(root, query).records())


def sequences(root: Path) -> list[int]:
    """Of every record that can be read, in the order of reading."""
    return [found.sequence for found in read_all(root)]


def without_seal(segment: Path) -> bytes:
    """What stood in a sealed segment before it was sealed."""
    with Source(segment) as source:
        header, _ = source.header()
        assert header is not None
        seal = seal_ending_at(source, header, source.size)
        assert seal is not None
        return source.read(0, seal.start)


def crash(directory: Path, *, tail: bytes = b"") -> None:
    """Leaves a closed log as a killed writer would, before it wrote its first head."""
    segment = newest_segment(directory)
    segment.write_bytes(without_seal(segment) + tail)
    (directory / "head.json").unlink()


def newest_segment(directory: Path) -> Path:
    return max(directory.glob("*.segment"))


def without_room(segment: Path) -> bytes:
    """An unsealed segment without the room behind its last commit, which may end in a zero, too."""
    content = segment.read_bytes()
    header = decode_header(content[:HEADER_BYTES])
    end = len(content.rstrip(b"\0"))
    if header is not None:
        with Source(segment) as source:
            runs = [event for event in scan(source, header) if isinstance(event, Run)]
        end = max(end, *(run.start + len(run.frames) + COMMIT_BYTES for run in runs), HEADER_BYTES)
    return content[:end]


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())

"""Logs with primaries and copies, written by the real writer, for tests of pairing and of the monitor."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from serving.core.models import Digest, ModelName, ModelVersion, VersionName
from serving.core.predictions import Fate
from serving.core.tensors import TensorSpecification
from serving.predictionlog.format import Definition, TensorShape
from serving.predictionlog.records import BatchFacts, definition_text, encode_predictions
from serving.predictionlog.writing.committer import Committer
from serving.settings import LogSettings
from tests.logs import NOW_NS, TAG, QuickFiles, Request, a_committer

MODEL = "doubler"
INPUTS = (TensorShape("x", "FP32", (2,), ("age", "size")),)
OUTPUTS = (TensorShape("label", "INT64", ()), TensorShape("score", "FP32", (2,)))
DIGESTS = {"1": "a1" * 32, "2": "b2" * 32, "3": "c3" * 32}
NUMBERS = {(version, ok): TAG << 32 | place for place, (version, ok) in enumerate(
    [("1", True), ("1", False), ("2", True), ("2", False), ("3", True), ("3", False)], start=1
)}  # fmt: skip
DEFINITIONS = {
    number: definition_text(
        Definition(MODEL, version, DIGESTS[version], INPUTS, OUTPUTS if ok else ())
    )
    for (version, ok), number in NUMBERS.items()
}
SMALL = LogSettings(segment_bytes=64 * 1024, min_free_bytes=0)
LOG_ID = b"log-id-8"


def version_named(version: str) -> ModelVersion:
    return ModelVersion(
        ModelName(MODEL),
        VersionName(version),
        Digest(DIGESTS[version]),
        (TensorSpecification("x", "FP32", (-1, 2), features=("age", "size")),),
        (
            TensorSpecification("label", "INT64", (-1,)),
            TensorSpecification("score", "FP32", (-1, 2)),
        ),
    )


@dataclass(slots=True)
class Said:
    """One record to be written. label: of each row, also where the score is largest."""

    version: str
    sequence: int
    label: Sequence[int] = (0,)
    shadow_of: int = 0
    fate: Fate = Fate.OK
    age: float = 30.0
    kind: int = 0
    time_ns: int = NOW_NS

    @property
    def identifier(self) -> str:
        return f"{LOG_ID.hex()}-{self.sequence:x}"


@dataclass(slots=True)
class Scribe:
    """One worker's log. Commits are as large as the calls of `write`."""

    directory: Path
    log_id: bytes = LOG_ID
    settings: LogSettings = SMALL
    next: int = 1
    time_ns: int = NOW_NS
    _committer: Committer | None = field(default=None)

    def open(self) -> "Scribe":
        self._committer = a_committer(
            self.directory,
            settings=self.settings,
            files=QuickFiles(),
            definitions=DEFINITIONS,
            log_id=self.log_id,
        )
        return self

    def close(self) -> None:
        assert self._committer is not None
        self._committer.close()

    def write(self, *said: Said) -> None:
        assert self._committer is not None
        frames = [_frame(each) for each in said]
        self._committer.sequence = self.next = max([self.next, *(each.sequence for each in said)])
        assert self._committer.commit(frames) is None
        self._committer.tend(idle=False)

    def commit(self, frames: Sequence[bytes]) -> None:
        """Other frames, such as outcomes."""
        assert self._committer is not None
        assert self._committer.commit(list(frames)) is None

    def primary(self, label: int = 0, **said: object) -> Said:
        """A record of version 1 to be written, with the next sequence."""
        self.next += 1
        self.time_ns += 1_000_000
        made = Said("1", self.next, (label,), time_ns=self.time_ns)
        return replace(made, **said)  # type: ignore[arg-type]  # fields of Said

    def copy(self, of: Said, version: str = "2", **said: object) -> Said:
        """The record of its copy; the same answer unless told otherwise."""
        self.next += 1
        made = replace(of, version=version, sequence=self.next, shadow_of=of.sequence, kind=0)
        return replace(made, **said)  # type: ignore[arg-type]  # fields of Said


def _frame(said: Said) -> bytes:
    rows = len(said.label)
    is_ok = said.fate is Fate.OK
    inputs = np.tile(np.array([said.age, 1.0], "<f4"), (rows, 1))
    scores = np.zeros((rows, 2), "<f4")
    scores[np.arange(rows), list(said.label)] = 1.0
    outputs = (np.array(said.label, "<i8").tobytes(), scores.tobytes()) if is_ok else ()
    request = Request(
        said.sequence,
        (inputs.tobytes(),),
        outputs,
        time_ns=said.time_ns,
        rows=rows,
        shadow_of=said.shadow_of,
    )
    batch = BatchFacts(
        NUMBERS[said.version, is_ok],
        said.fate,
        b"" if is_ok else b"model_error",
        policy_epoch=7,
        run_us=20,
        batch_id=5,
        batch_size=1,
        kind=said.kind,
    )
    (frame,) = encode_predictions(batch, [request])
    return frame

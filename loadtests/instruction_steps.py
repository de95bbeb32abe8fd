"""The fixed work whose instructions `loadtests.instructions` counts; runs below callgrind.

Each step is the product's own code on fixed inputs, for a frame of `ROWS` one-row requests, the shape
of traffic that the benchmark has most of. Its first runs warm what is remembered; `os.getpgid`, which
nothing here needs, is where callgrind is told to cut its counts.
"""

import gc
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np

from loadtests.payloads import FEATURES, HEADER_LENGTH, PAYLOADS, a_row
from serving.access.tokens import Authenticator
from serving.core.batches import BatchAnswer, BatchPart, RowBatch, TensorBlock
from serving.core.models import Digest, ModelName, ModelVersion, VersionName
from serving.core.predictions import Fate
from serving.core.principals import Principal, Role
from serving.core.tensors import TensorSpecification
from serving.edge.decoding import RequestDecoder
from serving.edge.encoding import AnswerEncoder
from serving.gateway.calls import Call
from serving.gateway.forming import Frame, columns_of
from serving.inference.frames import PREFIX, decode_answer, encode_answer, encode_batch
from serving.predictionlog.records import BatchFacts, encode_predictions
from serving.settings import AccessSettings

ROWS: Final = 16
WARM_RUNS: Final = 20
RUNS: Final = 50

VERSION: Final = ModelVersion(
    model=ModelName("bench-m1"),
    version=VersionName("1"),
    digest=Digest("5a" * 32),
    inputs=(TensorSpecification("input", "FP32", (-1, FEATURES)),),
    outputs=(TensorSpecification("output", "FP32", (-1, 8)),),
)
CREDENTIAL: Final = b"Bearer " + b"x" * 300


class KnownKey:
    """Takes the credential for a key that it knows, so that the next look finds it remembered."""

    def recognises(self, credential: bytes) -> bool:
        return credential == CREDENTIAL.removeprefix(b"Bearer ")

    def verify(self, credential: bytes, now_s: float) -> tuple[Principal, float]:
        del credential
        return Principal("ada", frozenset({Role.CALLER})), now_s + 1e9


@dataclass(frozen=True, slots=True)
class Record:
    """A request as the log wants it."""

    sequence: int
    inputs: tuple[bytes, ...]
    outputs: tuple[bytes, ...]
    time_ns: int = 1_700_000_000_000_000_000
    principal: bytes = b"ada"
    request_id: bytes = b""
    trace_id: bytes = bytes(16)
    rows: int = 1
    queue_us: int = 120
    total_us: int = 700
    batch_position: int = 3
    shadow_of: int = 0


def steps() -> Mapping[str, Callable[[], Any]]:
    """One run of each is the work for one frame."""
    decoder, encoder = RequestDecoder(VERSION), AnswerEncoder(VERSION)
    bodies = {name: memoryview(payload.body) for name, payload in PAYLOADS.items()}
    header_bytes = int(PAYLOADS["binary"].headers[HEADER_LENGTH])
    authenticator = Authenticator([], AccessSettings(), api_keys=KnownKey())
    frames = {
        "json": _frame(decoder, bodies["json"], None),
        "binary": _frame(decoder, bodies["binary"], header_bytes),
    }
    calls = frames["json"].calls
    batch = RowBatch(VERSION.digest, ROWS, columns_of(VERSION, calls), 1_000_000, (), 7)
    answer = encode_answer(7, _answer())[PREFIX.size :]
    raw = a_row().tobytes()
    records = [Record(number, (raw,), (bytes(32),)) for number in range(1, ROWS + 1)]
    facts = BatchFacts(1, Fate.OK, b"", 3, 240, 9, ROWS)
    return {
        "nothing": lambda: [None for _ in range(ROWS)],
        "decode_json": lambda: [decoder.decode(bodies["json"], None) for _ in range(ROWS)],
        "decode_binary": lambda: [
            decoder.decode(bodies["binary"], header_bytes) for _ in range(ROWS)
        ],
        "token_lookup": lambda: [authenticator.authenticate(CREDENTIAL, 0.0) for _ in range(ROWS)],
        "batch_assembly": lambda: columns_of(VERSION, calls),
        "frame_encode": lambda: encode_batch(7, batch),
        "frame_decode": lambda: decode_answer(memoryview(answer)),
        "log_encode": lambda: encode_predictions(facts, records),
        "encode_json": lambda: _encode(encoder, frames["json"]),
        "encode_binary": lambda: _encode(encoder, frames["binary"]),
    }


def main() -> None:
    """Runs every step between two cuts, the warm runs outside."""
    gc.disable()
    for step in steps().values():
        for _ in range(WARM_RUNS):
            step()
        os.getpgid(0)
        for _ in range(RUNS):
            step()
        os.getpgid(0)


def _frame(decoder: RequestDecoder, body: memoryview, header_bytes: int | None) -> Frame:
    calls = []
    for row in range(ROWS):
        # Neither the pipeline nor the queue has a part in these steps.
        call = Call(
            cast("Any", None), cast("Any", None), decoder.decode(body, header_bytes), b"ada"
        )
        call.first_row = row
        calls.append(call)
    frame = Frame(cast("Any", None), calls)
    frame.answer = _answer()
    whole = memoryview(frame.answer.outputs[0].buffers[0])
    for row, call in enumerate(calls):
        call.frame = frame
        call.outputs = (whole[row * 32 : (row + 1) * 32],)
    return frame


def _answer() -> BatchAnswer:
    numbers = np.random.default_rng(seed=2).random((ROWS, 8), np.float32)
    part = BatchPart(ROWS, 9, ROWS, 0, 120, 240)
    return BatchAnswer(ROWS, (TensorBlock.of(numbers),), (part,), {})


def _encode(encoder: AnswerEncoder, frame: Frame) -> None:
    frame.rendered = {}
    for call in frame.calls:
        encoder.encode(call)


if __name__ == "__main__":
    main()

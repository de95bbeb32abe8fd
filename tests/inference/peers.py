"""A gateway as a replica's listener sees it: a blocking socket that speaks frames."""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from serving.core.batches import BatchAnswer, RowBatch, RowFailure, SpanLink, TensorBlock
from serving.core.models import Digest, ModelVersion
from serving.inference.frames import (
    Kind,
    MessageReader,
    Refusal,
    decode_answer,
    decode_hello,
    decode_refusal,
    encode_batch,
)
from tests.inference.runners import PATIENCE_S

_POLL_S = 0.002


def eventually(what: Callable[[], bool]) -> None:
    """Waits until `what` is true; for what a thread does without telling."""
    pause = threading.Event()
    for _ in range(round(PATIENCE_S / _POLL_S)):
        if what():
            return
        pause.wait(_POLL_S)
    raise AssertionError("it did not happen")


def batch_of(
    version: ModelVersion,
    *values: float,
    columns: int = 2,
    budget_us: int = 0,
    sent_us: int = 0,
    links: tuple[SpanLink, ...] = (),
) -> RowBatch:
    """One row per value, the same number in every column."""
    raw = b"".join(struct.pack(f"<{columns}f", *[value] * columns) for value in values)
    tensors = (TensorBlock("FP32", (columns,), [raw]),)
    return RowBatch(version.digest, len(values), tensors, budget_us, links, sent_us)


def values_of(answer: BatchAnswer) -> list[float | str]:
    """The first column of the answer, or why a row has none."""
    rows: list[float | str] = []
    outputs = answer.outputs[0].array(answer.rows) if answer.outputs else None
    for row in range(answer.rows):
        failure = answer.failures.get(row)
        if isinstance(failure, RowFailure):
            rows.append(failure.name)
        elif outputs is not None:
            rows.append(float(outputs[row, 0]))
    return rows


class Peer:
    """One connection to a listener; greeted when built. Use it as a context manager."""

    def __init__(self, path: Path, version: ModelVersion) -> None:
        self.version = version
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(PATIENCE_S)
        self._socket.connect(str(path))
        self._reader = MessageReader(max_bytes=64 * 1024 * 1024)
        self._messages: list[tuple[Kind, memoryview]] = []
        kind, body = self.receive()
        self.greeting = (kind, decode_hello(body))

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_exception: object) -> None:
        self._socket.close()

    def say(self, data: bytes) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._socket.sendall(data)

    def send(self, frame_id: int, batch: RowBatch) -> None:
        self.say(encode_batch(frame_id, batch))

    def ask(self, frame_id: int, *values: float, digest: str | None = None) -> None:
        """Sends rows without a deadline."""
        batch = batch_of(self.version, *values)
        self.send(frame_id, replace(batch, digest=Digest(digest or batch.digest)))

    def receive(self) -> tuple[Kind, memoryview]:
        """The next message. Raises EOFError when the listener hung up."""
        while not self._messages:
            try:
                data = self._socket.recv(1024 * 1024)
            except ConnectionResetError:
                data = b""
            if not data:
                raise EOFError
            self._messages += self._reader.feed(data)
        return self._messages.pop(0)

    @property
    def has_received(self) -> int:
        """Messages that came together with one that was asked for."""
        return len(self._messages)

    def answer(self) -> tuple[int, BatchAnswer]:
        kind, body = self.receive()
        assert kind is Kind.ANSWER
        return decode_answer(body)

    def answers(self, count: int = 1) -> dict[int, list[float | str]]:
        """The values of the next answers by frame."""
        received = [self.answer() for _ in range(count)]
        return {frame_id: values_of(answer) for frame_id, answer in received}

    def refusal(self) -> tuple[int, Refusal]:
        kind, body = self.receive()
        assert kind is Kind.REFUSAL
        return decode_refusal(body)

    def hung_up(self) -> bool:
        """Whether the listener closes now, without another word."""
        try:
            self.receive()
        except EOFError:
            return True
        return False

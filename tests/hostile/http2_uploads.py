"""Uploads that keep to the windows of the server, however small the frames are."""

import struct
from typing import Final

from serving.edge.grpc import inference_pb2
from tests.catalogue import WIDE_COLUMNS
from tests.hostile.http2_cases import message
from tests.hostile.http2_wire import (
    END_STREAM,
    MAX_FRAME,
    MAX_WINDOW,
    WINDOW,
    Http2Client,
    Kind,
    Setting,
    data,
    padded,
)

WIDE_ROW_BYTES: Final = 4 * WIDE_COLUMNS


def wide(rows: int = 1) -> bytes:
    """A framed request for `wide`, whose answer has as many bytes."""
    made = inference_pb2.ModelInferRequest(model_name="wide")
    made.inputs.add(name="x", datatype="FP32", shape=[rows, WIDE_COLUMNS])
    made.raw_input_contents.append(bytes(rows * WIDE_ROW_BYTES))
    return message(made.SerializeToString())


class Careful:
    """Sends DATA as the windows of the server allow, on one connection."""

    def __init__(self, connection: Http2Client) -> None:
        self._connection = connection
        connection.read_until(lambda: bool(connection.settings))
        self._left = {0: WINDOW}
        self._seen = 0

    def send(self, text: bytes, stream: int, *, size: int = MAX_FRAME, padding: int = 0) -> bool:
        """Whether all of it was taken; a stream that is over before takes no more."""
        for at in range(0, len(text), size):
            piece = text[at : at + size]
            cost = len(piece) + (padding + 1 if padding else 0)
            if not self._wait(cost, stream):
                return False
            end = END_STREAM if at + size >= len(text) else 0
            if padding:
                raw = padded(piece, padding, kind=Kind.DATA, stream=stream, flags=end)
            else:
                raw = data(piece, stream, end)
            self._connection.send(raw)
            self._left[0] -= cost
            self._left[stream] -= cost
        return True

    def _wait(self, cost: int, stream: int) -> bool:
        connection = self._connection
        first = connection.settings.get(Setting.INITIAL_WINDOW_SIZE, WINDOW)
        self._left.setdefault(stream, first)

        def may() -> bool:
            self._count()
            reply = connection.replies.get(stream)
            over = reply is not None and reply.is_over
            return over or min(self._left[0], self._left[stream]) >= cost

        connection.read_for(0)
        connection.read_until(may)
        return min(self._left[0], self._left[stream]) >= cost

    def _count(self) -> None:
        for each in self._connection.control[self._seen :]:
            if each.kind == Kind.WINDOW_UPDATE and each.stream in self._left:
                (more,) = struct.unpack("!I", each.payload)
                self._left[each.stream] += more
                assert self._left[each.stream] <= MAX_WINDOW
        self._seen = len(self._connection.control)

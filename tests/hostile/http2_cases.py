"""A hostile case on the gRPC port: calls made by hand, and the ledger of what they were told."""

import base64
import ssl
import struct
from contextlib import ExitStack
from typing import Any, Final

from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # ships no types

from serving.edge.grpc import inference_pb2
from tests.edge.grpc.wire import INFER, encoded, rows
from tests.edge.wire import Answer
from tests.hostile.cases import Case
from tests.hostile.http2_wire import (
    END_HEADERS,
    Code,
    Ending,
    Fields,
    Http2Client,
    Reply,
    block,
    data,
    headers,
)
from tests.places import Place, wait_until

GONE_S: Final = 4.0
"""How long a connection may take to end after something fatal: a sweep, and who lingers."""
FAR: Final = 2_001
"""A stream that no case uses but for its last question."""


class Http2Case:
    """What a test about the gRPC port asks through; its connections end with the case."""

    def __init__(self, case: Case) -> None:
        self.product = case.product
        self.ledger = case.ledger
        self.new_records = case.new_records
        self.tls: ssl.SSLContext | None = None
        """What its connections speak, unless they say otherwise."""
        self.port = int(case.product.instance.grpc_address.rpartition(":")[2])
        self._refused_before = case.before.refusals
        self._open = ExitStack()

    def connect(self, **options: Any) -> Http2Client:
        """A connection that lasts as long as the case, unless it is closed before."""
        made = Http2Client(self.port, told=self.note, **{"tls": self.tls} | options)
        return self._open.enter_context(made)

    def close(self) -> None:
        self._open.close()

    # -- calls ---------------------------------------------------------------------------------------

    def fields(self, *more: tuple[bytes, bytes], path: str = INFER, **changes: bytes) -> Fields:
        """The head of a good call. changes: of pseudo fields, by their names without the colon."""
        scheme = b"http" if self.tls is None else b"https"
        pseudo = {"method": b"POST", "scheme": scheme, "path": path.encode(), "authority": b"here"}
        return [
            *((f":{name}".encode(), value) for name, value in (pseudo | changes).items()),
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
            (b"authorization", f"Bearer {self.product.token}".encode()),
            *more,
        ]

    def fields_of(self, subject: str) -> Fields:
        """The head of a good call by somebody else, who has places of its own."""
        data_dir = self.product.data_dir
        token = Place(self.product.instance.url, data_dir).authorization(subject)["Authorization"]
        usual = [pair for pair in self.fields() if pair[0] != b"authorization"]
        return [*usual, (b"authorization", token.encode())]

    def head(self, stream: int, *more: tuple[bytes, bytes], **changes: Any) -> bytes:
        """The HEADERS frame of a good call whose message follows."""
        return headers(block(self.fields(*more, **changes)), stream, END_HEADERS)

    def call(
        self, stream: int, number: float = 1.0, *more: tuple[bytes, bytes], **parameters: int
    ) -> bytes:
        """A whole good call about one row."""
        return self.head(stream, *more) + data(asking(number, **parameters), stream)

    def ask(self, connection: Http2Client, number: float = 1.0, **parameters: int) -> int:
        """Asks about one row; the stream on which the answer comes."""
        stream = connection.new_stream()
        connection.send(self.call(stream, number, **parameters))
        return stream

    # -- verdicts ------------------------------------------------------------------------------------

    def serves(self, connection: Http2Client, stream: int = FAR) -> None:
        """Fails unless a good call on this connection is answered."""
        connection.send(self.call(stream, -7.0))
        assert_answer(connection.reply(stream), -7.0)

    def is_fatal(self, raw: bytes, *codes: Code, greets: bool = True) -> Ending:
        """Fails unless these bytes end the connection with one of `codes`.

        A good call stands behind them, which nobody may take for one.
        """
        with self.connect(greets=greets) as connection:
            connection.try_send(raw + self.call(FAR))
            ending = connection.ending(within_s=GONE_S)
        assert FAR not in connection.replies, "what stood behind it was served"
        assert ending.code in codes, ending
        return ending

    def faults_stream(self, raw: bytes, *codes: Code, stream: int = 1) -> Reply:
        """Fails unless these bytes end this stream with one of `codes`, and no other."""
        with self.connect() as connection:
            connection.send(raw)
            reply = connection.reply(stream)
            self.serves(connection)
            assert connection.goaways == []
        assert reply.reset in codes, reply
        return reply

    # -- the ledger ----------------------------------------------------------------------------------

    def note(self, reply: Reply) -> None:
        """Remembers what a caller was told at the end of a stream."""
        told = (reply.head | reply.trailers).get(b"serving-prediction-id", b"").decode()
        if not told and b"grpc-status-details-bin" in reply.last:
            code, request_id = refusal_of(reply)
            if "-" not in request_id:
                self.ledger.unheard[code] += 1
                return
            told = request_id
        if told:
            self.ledger.answers.append(Answer(200, {"serving-prediction-id": told}))

    def forget_answers(self) -> None:
        """Takes as heard what was answered to callers who had left before they could read it."""
        since = self.product.refusals() - self._refused_before
        self.ledger.unheard.update(since - self.ledger.refused())

    def forget_refusals(self, code: str, *, most: int) -> None:
        """Takes as told those refusals, at most so many, whose answers nobody waited for."""
        since = self.product.refusals() - self._refused_before
        missing = since[code] - self.ledger.refused()[code]
        assert 0 <= missing <= most
        self.ledger.unheard[code] += missing

    def at_rest(self) -> None:
        """Fails unless every connection is gone and a new one is served."""
        self.close()
        wait_until(lambda: not self.product.status()["grpc_connections"])
        with self.connect() as connection:
            self.serves(connection, stream=1)
        wait_until(lambda: not self.product.status()["grpc_connections"])


def message(payload: bytes, *, packed: int = 0, length: int | None = None) -> bytes:
    """A message as gRPC frames it. length: what its head says, where that is a lie."""
    return struct.pack("!BI", packed, len(payload) if length is None else length) + payload


def asking(number: float = 1.0, **parameters: Any) -> bytes:
    """A framed request for one row of the doubler."""
    return message(encoded(rows(number, **parameters)))


def result_of(reply: Reply) -> float:
    """The first number of an answered call."""
    packed, length = struct.unpack("!BI", reply.body[:5])
    assert (packed, length) == (0, len(reply.body) - 5)
    answer = inference_pb2.ModelInferResponse.FromString(reply.body[5:])
    return float(answer.outputs[0].contents.fp32_contents[0])


def assert_answer(reply: Reply, number: float) -> None:
    """Fails unless it is the doubler's answer to this number."""
    assert (reply.complete, reply.reset, reply.grpc_status) == (True, None, 0), reply
    assert result_of(reply) == 2 * number


def refusal_of(reply: Reply) -> tuple[str, str]:
    """Our code and the request's id, of a call that was refused."""
    raw = reply.last[b"grpc-status-details-bin"]
    status = status_pb2.Status.FromString(base64.b64decode(raw + b"=" * (-len(raw) % 4)))
    found = {detail.TypeName().rpartition(".")[2]: detail for detail in status.details}
    reason, request = error_details_pb2.ErrorInfo(), error_details_pb2.RequestInfo()
    found["ErrorInfo"].Unpack(reason)
    if "RequestInfo" in found:
        found["RequestInfo"].Unpack(request)
    return reason.reason, request.request_id

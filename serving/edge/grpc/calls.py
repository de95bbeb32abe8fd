"""One gRPC call: what it receives and sends on its HTTP/2 stream, and that it ends exactly once.

A unary call costs no task, no future and no coroutine: it is served in the callback in which its
message is complete, and its answer leaves as one piece. It starts at the end of the client's side, so
that a second message is seen and refused. Calls that last are `serving.edge.grpc.context`.

Whatever is wrong with a call ends it with a status; what nobody foresaw is logged, counted as
`internal`, and told to nobody else.
"""

from collections.abc import Callable
from typing import Final

import structlog

from serving.access.certificates import Credential
from serving.core.batches import Buffer
from serving.core.principals import Principal
from serving.edge.grpc.framing import MessageReader, check_size, framed, only_message
from serving.edge.grpc.heads import CallHead
from serving.edge.grpc.problems import Failure, failure, trailer_block
from serving.edge.http2.fields import encode_fields
from serving.edge.http2.streams import Stream
from serving.errors import (
    CallerLimitReached,
    InternalError,
    MessageInvalid,
    Overloaded,
    RequestTimeout,
    ServingError,
)

logger = structlog.get_logger()

OK: Final = encode_fields(((b"grpc-status", b"0"),))
"""The trailers of a call that went well."""

_HEAD: Final = encode_fields(
    (
        (b":status", b"200"),
        (b"content-type", b"application/grpc"),
        (b"grpc-accept-encoding", b"identity,gzip,deflate"),
    )
)
HEADS: Final = {
    encoding: _HEAD + encode_fields(((b"grpc-encoding", encoding.encode()),) if encoding else ())
    for encoding in (None, "gzip", "deflate")
}
"""The head of an answer by what its messages may be packed in."""

_PART: Final = 4
"""Calls that need no credential may take one in so many of the number of other calls, beside them."""

_NS_PER_S: Final = 1_000_000_000


class Places:
    """For the calls of one kind of callers."""

    __slots__ = ("most", "taken")

    def __init__(self, most: int) -> None:
        self.most = most
        self.taken = 0

    @property
    def is_full(self) -> bool:
        return self.taken >= self.most

    def check(self) -> None:
        """Passes while there is room for one more. Raises CallerLimitReached."""
        if self.taken >= self.most:
            raise CallerLimitReached("too many calls are under way here; retry later")


class OpenCalls:
    """What the calls of one server share: their places, their limits, who counts refusals.

    Those who are known, those who need not be, and those who were refused have places of their own, so
    that nobody without a credential takes one from somebody with one.
    """

    def __init__(
        self,
        *,
        most: int,
        max_message_bytes: int,
        max_buffered_bytes: int,
        refused: Callable[[ServingError], None],
        now_ns: Callable[[], int],
    ) -> None:
        """now_ns: monotonic time."""
        self.known = Places(most)
        self.strangers = Places(max(most // _PART, 1))
        self.refused_ones = Places(max(most // _PART, 1))
        self.buffered_bytes = 0
        self.max_message_bytes = max_message_bytes
        self.refused = refused
        self.now_ns = now_ns
        self._max_buffered_bytes = max_buffered_bytes

    def buffer(self, count: int) -> None:
        """Counts bytes of messages in memory that are not served yet; fewer when negative.

        Raises Overloaded when they are too many. Refused and not left waiting: messages that wait for
        each other's memory would all be late.
        """
        self.buffered_bytes += count
        if count > 0 and self.buffered_bytes > self._max_buffered_bytes:
            raise Overloaded("too many messages are being received; retry later")


class GrpcCall:
    """What all calls have in common. Counted from its making until it ends."""

    __slots__ = (
        "_buffered_bytes",
        "_calls",
        "_deadline_ns",
        "_places",
        "credential",
        "ended",
        "head",
        "principal",
        "stream",
    )

    def __init__(
        self,
        stream: Stream,
        head: CallHead,
        *,
        credential: Credential,
        principal: Principal | None,
        places: Places,
        calls: OpenCalls,
    ) -> None:
        """principal: None for nobody, in a call that is open to all."""
        self.stream = stream
        self.head = head
        self.credential = credential
        self.principal = principal
        self.ended = False
        self._calls = calls
        self._buffered_bytes = 0
        self._deadline_ns = 0
        if head.timeout_s is not None:
            self._deadline_ns = calls.now_ns() + int(head.timeout_s * _NS_PER_S)
        self._places = places
        places.taken += 1

    def time_remaining_s(self) -> float | None:
        """What is left of the time that the client waits; None when it did not say."""
        if self.head.timeout_s is None:
            return None
        return (self._deadline_ns - self._calls.now_ns()) / _NS_PER_S

    def refuse(self, error: ServingError) -> None:
        """Ends the call with an error, which is counted."""
        if not self.ended:
            self._calls.refused(error)
            self.fail(failure(error))

    def fail(self, ended: Failure) -> None:
        """Ends the call with a failure that was counted. Harmless when the call has ended."""
        if self._end():
            self.stream.send_only(HEADS[None] + trailer_block(ended))

    def late(self) -> None:
        """The client took too long to send what the call waits for."""
        self.refuse(RequestTimeout("the message was not complete in time"))

    def writable(self) -> None:
        """What was sent has left."""

    def _keep(self, count: int) -> None:
        """So many bytes of the call are in memory now. Raises Overloaded."""
        more, self._buffered_bytes = count - self._buffered_bytes, count
        self._calls.buffer(more)

    def _end(self) -> bool:
        """Whether this is the end."""
        if self.ended:
            return False
        self.ended = True
        self._places.taken -= 1
        if self._buffered_bytes:
            self._keep(0)
        return True


class UnaryCall(GrpcCall):
    """One message, one answer."""

    __slots__ = ("_gone", "_message", "_reader", "_serve")

    def begin(self, serve: "ServeUnary") -> None:
        """First of all, once. serve: is given the message."""
        self._serve = serve
        self._message: Buffer | None = None
        self._reader: MessageReader | None = None
        self._gone: Callable[[], None] | None = None
        self.stream.hasten()

    # -- Receiver ----------------------------------------------------------------------------------

    def received(self, data: Buffer) -> None:
        self.stream.consumed(len(data))
        if self._message is None and self._reader is None:
            # The common case: the whole message in one piece.
            self._message = only_message(data)
            if self._message is not None:
                return
        try:
            self._read(data)
        except ServingError as error:
            self.refuse(error)

    def finished(self) -> None:
        if self.ended:
            return
        try:
            self._serve(self, self._whole())
        except ServingError as error:
            self.refuse(error)
        except Exception as error:  # noqa: BLE001 - outermost: the worker must survive a call
            self.refuse(unexpected(error))

    def gone(self) -> None:
        if self._end() and self._gone is not None:
            gone, self._gone = self._gone, None
            gone()

    # -- what it is served with --------------------------------------------------------------------

    def watch(self, gone: Callable[[], None]) -> None:
        """Calls `gone` if the client goes away before the answer."""
        self._gone = gone

    def answer(self, message: bytes, trailers: bytes = OK) -> None:
        """Ends the call well. Harmless when the call has ended."""
        if self._end():
            self._gone = None  # Each knew the other: the request path leaves no cycles behind.
            encoding = self.head.answer_encoding
            self.stream.send_all(HEADS[encoding], framed(message, encoding), trailers)

    def fail(self, ended: Failure) -> None:
        self._gone = None
        super().fail(ended)

    def _read(self, data: Buffer) -> None:
        if self.ended:
            return
        if self._reader is None:
            encoding, most = self.head.encoding, self._calls.max_message_bytes
            self._reader = MessageReader(encoding, max_bytes=most)
        for message in self._reader.feed(data):
            if self._message is not None:
                raise MessageInvalid("this call takes one message")
            self._message = message
        self._keep(self._reader.held_bytes + len(self._message or b""))

    def _whole(self) -> Buffer:
        # From here on the bytes are the business of whoever serves them.
        message, self._message = self._message, None
        if message is None or (self._reader is not None and self._reader.held_bytes):
            raise MessageInvalid("the message ends too early, or there is none")
        check_size(len(message), self._calls.max_message_bytes)
        if self._buffered_bytes:
            self._keep(0)
        return message


ServeUnary = Callable[[UnaryCall, Buffer], None]
"""Takes a complete message; answers the call then or later. Raises ServingError to refuse it."""


def unexpected(error: BaseException) -> ServingError:
    """What a caller is told of an error that nobody foresaw; the log is told all of it."""
    logger.error("call failed", error=repr(error), exc_info=error)
    return InternalError("something went wrong here; quote the request id to the operator")

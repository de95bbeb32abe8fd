"""The table of all gRPC calls, and the gate before it.

A call without a valid credential is refused when its metadata are there, before its message is
received; only calls that the table calls open pass without one. Whether there is such a call is told
to those who are known. A certificate that the client showed to TLS counts as on the other wire. The
answer to a refused credential may wait (`serving.edge.grpc.refusals`).
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from serving.access.certificates import Credential
from serving.access.permissions import GRPC, Door
from serving.core.batches import Buffer
from serving.core.principals import Principal
from serving.edge.credentials import credential_with
from serving.edge.grpc.calls import (
    HEADS,
    GrpcCall,
    OpenCalls,
    ServeUnary,
    UnaryCall,
    unexpected,
)
from serving.edge.grpc.context import Context, ServeLasting
from serving.edge.grpc.heads import CallHead, CallHeads
from serving.edge.grpc.problems import failure, trailer_block
from serving.edge.grpc.refusals import RefusedCalls
from serving.edge.http2.streams import Receiver, Stream
from serving.errors import (
    FeatureUnsupported,
    HeadTooLarge,
    InternalError,
    ServingError,
    Unauthenticated,
)

PATIENCE_S: Final = 0.05
"""How long a refused call is heard out."""

Step = Callable[[Buffer, Principal | None], bytes]
"""From a message and who sent it, None for an open call, to the answer. Raises ServingError."""

Authenticate = Callable[[Credential], Principal]


@dataclass(frozen=True, slots=True)
class Method:
    """One row of the table. serve: fits the kind of call; see `unary` and `streaming`. open: served
    without a credential."""

    kind: type[UnaryCall | Context]
    serve: Any
    open: bool = False


def unary(serve: ServeUnary, *, open: bool = False) -> Method:
    """A call with one message and one answer."""
    return Method(UnaryCall, serve, open=open)


def streaming(serve: ServeLasting, *, open: bool = False) -> Method:
    """A call that reads and writes with its context."""
    return Method(Context, serve, open=open)


def step(function: Step, *, open: bool = False) -> Method:
    """A call that is answered at once."""

    def serve(call: UnaryCall, message: Buffer) -> None:
        call.answer(function(message, call.principal))

    return unary(serve, open=open)


def known(principal: Principal | None) -> Principal:
    """Who calls, where the gate lets nobody else in."""
    if principal is None:
        raise InternalError("a closed call was served to nobody. This is a bug")
    return principal


class Gate:
    """The application of the HTTP/2 server: finds the method of a call, or refuses the call."""

    def __init__(
        self,
        methods: Mapping[str, Method],
        *,
        authenticate: Authenticate,
        calls: OpenCalls,
        held: RefusedCalls,
    ) -> None:
        """methods: by path, `/package.Service/Call`, each of them in the table of permissions."""
        for path, method in methods.items():
            if path not in GRPC or method.open != (GRPC[path] is Door.OPEN):
                raise ValueError(f"no permission fits {path}. This is a bug")
        self._methods = {path.encode(): method for path, method in methods.items()}
        self._authenticate = authenticate
        self._calls = calls
        self._held = held
        self._heads = CallHeads()

    @property
    def oversized(self) -> bytes:
        """The answer to a call whose head the transport did not keep; counted when it is asked for."""
        error = HeadTooLarge("the metadata of a call are too large")
        self._calls.refused(error)
        return HEADS[None] + trailer_block(failure(error))

    def __call__(self, stream: Stream) -> Receiver:
        head = self._heads.of(stream.head)
        if head.status is not None:
            return _Turned(stream, head.status)
        credential = credential_with(head.authorization, stream.certificate)
        try:
            method, principal = self._find(head, credential)
            places = self._calls.strangers if principal is None else self._calls.known
            places.check()
        except ServingError as error:
            return self._refusing(stream, head, error)
        except Exception as error:  # noqa: BLE001 - outermost: nobody gets past a check that failed
            return self._refusing(stream, head, unexpected(error))
        call = method.kind(
            stream,
            head,
            credential=credential,
            principal=principal,
            places=places,
            calls=self._calls,
        )
        call.begin(method.serve)
        return call

    def _find(self, head: CallHead, credential: Credential) -> tuple[Method, Principal | None]:
        method = self._methods.get(head.path)
        principal = None
        if method is None or not method.open:
            if head.ambiguous is not None:
                raise head.ambiguous
            principal = self._authenticate(credential)
        if method is None:
            raise FeatureUnsupported("there is no such call here")
        if head.refusal is not None:
            raise head.refusal
        return method, principal

    def _refusing(self, stream: Stream, head: CallHead, error: ServingError) -> Receiver:
        full = self._calls.refused_ones.is_full
        call = RefusedCall(stream, head, error=error, calls=self._calls, held=self._held)
        if full:
            call.finished()
        return call


class RefusedCall(GrpcCall):
    """A call that was refused before its message: nothing that comes is kept, and the answer waits.

    It waits until the client has sent its side, for at most `PATIENCE_S` and if there is a place: the
    library's clients that are cut off while they write tell their callers of that, and not what they
    were answered. That of a refused credential may wait for longer.
    """

    __slots__ = ("_error", "_held", "_timer")

    def __init__(
        self,
        stream: Stream,
        head: CallHead,
        *,
        error: ServingError,
        calls: OpenCalls,
        held: RefusedCalls,
    ) -> None:
        super().__init__(
            stream, head, credential=None, principal=None, places=calls.refused_ones, calls=calls
        )
        # Its frames know this call, and a head may keep it.
        self._error = error.with_traceback(None)
        self._held = held
        loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = loop.call_later(PATIENCE_S, self.finished)

    def received(self, data: Buffer) -> None:
        """Thrown away; no credit for more."""

    def finished(self) -> None:
        if self._timer is None:
            return
        self._timer.cancel()
        self._timer = None
        if isinstance(self._error, Unauthenticated):
            self._held.hold(self.stream.peer(), self._answer)
        else:
            self._answer()

    def gone(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._held.forget(self._answer)
        self._end()

    def _answer(self) -> None:
        self.refuse(self._error)


class _Turned:
    """What is no call at all: answered with a status of HTTP alone, once its client has sent its side
    or takes too long. Some clients lose an answer that comes while they write (curl 7.88)."""

    __slots__ = ("_block", "_stream")

    def __init__(self, stream: Stream, block: bytes) -> None:
        self._stream = stream
        self._block = block
        stream.hasten()

    def received(self, data: Buffer) -> None:
        """Thrown away; no credit for more."""

    def finished(self) -> None:
        self._stream.send_only(self._block)

    def late(self) -> None:
        self.finished()

    def gone(self) -> None: ...
    def writable(self) -> None: ...

"""The table of all gRPC calls, and the gate before it.

A call without a valid token is refused when its metadata are there, before its message is received;
only calls that the table calls open pass without one. Whether there is such a call is told to those
who have a token. Messages arrive and leave as bytes: what they mean is the business of each call,
so that a message that is none fails as an `INVALID_ARGUMENT` and not inside the library. The answer to
a refused credential may wait (`serving.edge.grpc_refusals`).

Where client certificates are asked for, a caller may be known by its certificate alone. The library
shows that in the call and not at the gate, so those who have one and no token pass the gate, and each
call asks who they are; reflection, which is the library's own, asks for a token.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn, Protocol

import grpc  # type: ignore[import-untyped]  # it ships no types
import structlog

from serving.access.apikeys import SCHEME
from serving.access.certificates import Certified, Credential, from_pem
from serving.access.permissions import GRPC, Door
from serving.core.principals import Principal
from serving.edge.grpc_problems import Failure, failure
from serving.errors import (
    AmbiguousCredentials,
    FeatureUnsupported,
    InternalError,
    ServingError,
    Unauthenticated,
)

logger = structlog.get_logger()

AUTHORIZATION: Final = "authorization"
API_KEY: Final = "x-api-key"

Metadata = Sequence[tuple[str, str | bytes]]


class Context(Protocol):
    """What we use of `grpc.aio.ServicerContext`."""

    async def abort(self, code: Any, details: str, trailing_metadata: Metadata) -> NoReturn: ...
    async def read(self) -> Any: ...
    async def write(self, message: bytes) -> None: ...
    def auth_context(self) -> Mapping[str, Sequence[bytes]]: ...
    def invocation_metadata(self) -> Metadata: ...
    def peer(self) -> str: ...
    def set_trailing_metadata(self, trailing_metadata: Metadata) -> None: ...
    def time_remaining(self) -> float | None: ...


UnaryCall = Callable[[bytes, Context], Awaitable[bytes]]
StreamCall = Callable[[Any, Context], Awaitable[None]]
Step = Callable[[bytes, Principal | None], bytes]
"""From a message and who sent it, None for an open call, to the answer. Raises ServingError."""

Show = Callable[[Context], Credential]
"""What a caller shows of itself. Raises AmbiguousCredentials."""

Authenticate = Callable[[Context], Principal]
Refused = Callable[[ServingError], None]
Hold = Callable[[str], Awaitable[None]]
"""Waits as long as the answer to a refused credential of this peer should."""


@dataclass(frozen=True, slots=True)
class Method:
    """One row of the table. open: served without a token. asks: the call itself finds out who its
    caller is."""

    handler: Any
    open: bool = False
    asks: bool = True


def unary(call: UnaryCall) -> Any:
    return grpc.unary_unary_rpc_method_handler(call)


def streaming(call: StreamCall) -> Any:
    """For a call that reads and writes with its context."""
    return grpc.stream_stream_rpc_method_handler(call)


class Gate(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc ships no types
    """Finds the method of a call, or refuses the call."""

    def __init__(
        self,
        methods: Mapping[str, Method],
        *,
        authenticate: Callable[[bytes | None], object],
        refused: Refused,
        hold: Hold,
        certified: bool = False,
    ) -> None:
        """methods: by path, `/package.Service/Call`, each of them in the table of permissions.
        refused: told of every refusal, to count. hold: waits before a refused credential is answered.
        certified: all callers have certificates, and may be known by them."""
        for path, method in methods.items():
            if path not in GRPC or method.open != (GRPC[path] is Door.OPEN):
                raise ValueError(f"no permission fits {path}. This is a bug")
        self._methods = dict(methods)
        self._authenticate = authenticate
        self._refused = refused
        self._hold = hold
        self._certified = certified

    def service(self, handler_call_details: Any) -> Any:
        method = self._methods.get(handler_call_details.method)
        if method is not None and method.open:
            return method.handler
        try:
            credential = credential_of(handler_call_details.invocation_metadata)
            if credential is None and self._certified and method is not None and method.asks:
                return method.handler
            self._authenticate(credential)
            if method is not None:
                return method.handler
            raise FeatureUnsupported("there is no such call here")
        except ServingError as error:
            self._refused(error)
            return self._refusing(error)

    def _refusing(self, error: ServingError) -> Any:
        ended, hold = failure(error), self._hold

        async def refuse(_messages: object, context: Context) -> None:
            if isinstance(error, Unauthenticated):
                await hold(context.peer())
            await give_up(context, ended)

        return streaming(refuse)


def step(function: Step, *, authenticate: Authenticate | None, refused: Refused) -> Method:
    """The method of a call that is answered at once; open when there is nobody to authenticate."""

    async def call(message: bytes, context: Context) -> bytes:
        try:
            principal = None
            if authenticate is not None:
                principal = authenticate(context)
            return function(message, principal)
        except ServingError as error:
            refused(error)
            ended = failure(error)
        except Exception as error:  # noqa: BLE001 - outermost: the worker must survive a call
            surprise = unexpected(error)
            refused(surprise)
            ended = failure(surprise)
        return await give_up(context, ended)

    return Method(unary(call), open=authenticate is None)


async def give_up(context: Context, ended: Failure) -> NoReturn:
    """Ends a call with a failure."""
    await context.abort(ended.code, ended.message, ended.trailers)


def unexpected(error: BaseException) -> ServingError:
    """What a caller is told of an error that nobody foresaw; the log is told all of it."""
    logger.error("call failed", error=repr(error), exc_info=error)
    return InternalError("something went wrong here; quote the request id to the operator")


def credential_of(metadata: Iterable[tuple[str, str | bytes]]) -> bytes | None:
    """The credential as an `Authorization` value; None when there is none, or one kind twice.

    Raises AmbiguousCredentials.
    """
    pairs = [pair for pair in metadata if pair[0] in (AUTHORIZATION, API_KEY)]
    if len({name for name, _ in pairs}) > 1:
        raise AmbiguousCredentials("send one credential: authorization, or x-api-key")
    if len(pairs) != 1:
        return None
    ((name, value),) = pairs
    text = value.encode() if isinstance(value, str) else value
    return text if name == AUTHORIZATION else SCHEME + text


def shown(context: Context) -> bytes | None:
    """The credential in the metadata of a call."""
    return credential_of(context.invocation_metadata())


def shown_with_certificate(context: Context) -> Credential:
    """The same beside the certificate of the client."""
    credential = shown(context)
    certificates = context.auth_context().get("x509_pem_cert", ())
    return Certified(credential, from_pem(certificates[0])) if certificates else credential


def only(metadata: Iterable[tuple[str, str | bytes]], key: str) -> bytes | None:
    """The value that metadata hold under `key`; None when there is none, or more than one."""
    values = [value for name, value in metadata if name == key]
    if len(values) != 1:
        return None
    (value,) = values
    return value.encode() if isinstance(value, str) else value

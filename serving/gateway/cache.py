"""Answers given before, given again to who asks exactly the same. Off unless a version's definition
has `cache`.

One cache for each version queue of a worker, so an answer is only found under the digest that gave it:
a version that changes, or leaves, takes its cache along, and one that could not answer now gives no old
answer either. The key is a SHA-256 over that digest, the tenant, the names, datatypes and shapes of all
tensors and every byte of the inputs; what is kept are the raw outputs, all of them, so that which ones
a caller wants, and in which form, changes nothing.

A hit is a request like any other. Its caller was authenticated, authorized and let in, and pays for its
rows, though not for model time; its record says `cached` and is durable before the answer leaves; it
is mirrored, because copies sample what callers ask and not what models run.

Callers share answers within a tenant. Whoever gets here may ask the model and would be told the same;
what a short time tells of somebody else's question it tells nobody of another tenant. A request that
names a data subject passes by, so nothing of it is here that erasure would have to find; so does one
whose caller chose the version, because it is the version that is to be tried; and parts of ensembles
never come here.

Answers are kept from when their records are durable, each for `ttl_s`, and together in `max_bytes`, what
Python needs for them included; the one not asked for the longest goes first. Equal requests that run
at the same time run each. Those that are found in one turn of the loop are recorded and answered
together, as the calls of a frame are.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import msgspec

from serving.access.certificates import Credential
from serving.core.batches import BatchAnswer, BatchPart, TensorBlock
from serving.core.clock import Clock
from serving.core.models import Caching, ModelVersion
from serving.errors import ServingError
from serving.gateway.calls import Call, Exchange, InferenceRequest, ShapeKey
from serving.gateway.forming import Frame
from serving.predictionlog.format import Flag

ANSWER_BYTES: Final = 768
"""What an answer takes besides its outputs: key, place in the order, objects."""
OUTPUT_BYTES: Final = 256
"""The same for each output."""

_CACHED: Final = int(Flag.CACHED)

Answered = Callable[[Frame, BatchAnswer], None]
CallSoon = Callable[[Callable[[], None]], object]


class _Kept(NamedTuple):
    answer: BatchAnswer
    size_bytes: int
    until_ns: int


class _Found(NamedTuple):
    """What was found in this turn for calls whose outputs have rows of the same shapes."""

    frame: Frame
    answers: list[BatchAnswer]


class ResponseCache:
    """The answers of one version. Counts are since it was made."""

    def __init__(
        self, version: ModelVersion, caching: Caching, *, clock: Clock, call_soon: CallSoon
    ) -> None:
        self.held_bytes = self.hits = self.misses = self.evictions = 0
        self._most_bytes = caching.max_bytes
        self._ttl_ns = round(caching.ttl_s * 1e9)
        self._now_ns = clock.monotonic_ns
        self._call_soon = call_soon
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        self._found: dict[ShapeKey, _Found] = {}
        tensors = [[each.name, each.datatype] for each in (*version.inputs, *version.outputs)]
        self._begun = hashlib.sha256(msgspec.json.encode([version.digest, tensors]))

    def answers(self, call: Call, tenant: str, answered: Answered) -> bool:
        """Whether the call has its answer from here, through `answered`.

        If not, the answer that it will get is kept, unless the call passes by.
        """
        exchange, request = call.exchange, call.request
        if exchange is None or exchange.version is not None or request.subject:
            return False
        if not call.queue.ready:
            return False
        key = self._key(request, tenant)
        kept = self._kept.get(key)
        if kept is None or kept.until_ns <= self._now_ns():
            self.misses += 1
            call.exchange = _KeepingExchange(exchange, self, key)
            return False
        self._kept.move_to_end(key)
        self.hits += 1
        call.kind |= _CACHED
        call.queue.kinds = True
        self._find(call, kept.answer, answered)
        return True

    def keep(self, key: bytes, call: Call) -> None:
        """Takes the outputs of a call that this version, and no other, has answered."""
        given = call.frame.answer if call.frame is not None else None
        if given is None or call.queue.cache is not self:
            return
        size_bytes = ANSWER_BYTES + sum(len(each) + OUTPUT_BYTES for each in call.outputs)
        if size_bytes > self._most_bytes:
            return
        blocks = tuple(
            TensorBlock(block.datatype, block.row_shape, (bytes(view),))
            for block, view in zip(given.outputs, call.outputs, strict=True)
        )
        answer = BatchAnswer(call.rows, blocks, ())
        before = self._kept.pop(key, None)
        if before is not None:
            self.held_bytes -= before.size_bytes
        while self._kept and self.held_bytes + size_bytes > self._most_bytes:
            _, oldest = self._kept.popitem(last=False)
            self.held_bytes -= oldest.size_bytes
            self.evictions += 1
        self._kept[key] = _Kept(answer, size_bytes, self._now_ns() + self._ttl_ns)
        self.held_bytes += size_bytes

    def _find(self, call: Call, answer: BatchAnswer, answered: Answered) -> None:
        if not self._found:
            self._call_soon(lambda: self._give(answered))
        shapes = tuple([output.row_shape for output in answer.outputs])
        found = self._found.get(shapes)
        if found is None:
            found = self._found[shapes] = _Found(Frame(call.queue, []), [])
        call.frame = found.frame
        found.frame.calls.append(call)
        found.answers.append(answer)

    def _give(self, answered: Answered) -> None:
        """Answers everybody for whom something was found in this turn, but who went away meanwhile."""
        given, self._found = self._found, {}
        for frame, answers in given.values():
            pairs = zip(frame.calls, answers, strict=True)
            waiting = [(call, answer) for call, answer in pairs if not call.done]
            frame.calls = [call for call, _ in waiting]
            if waiting:
                frame.answer = _together(frame.calls, [answer for _, answer in waiting])
                answered(frame, frame.answer)
            frame.calls = []  # Ends the cycle of frame and calls.

    def _key(self, request: InferenceRequest, tenant: str) -> bytes:
        text = self._begun.copy()
        text.update(msgspec.json.encode([tenant, request.rows, request.shapes]))
        for buffer in request.inputs:
            # Elements of BYTES differ in length: where a tensor ends is part of what was asked.
            text.update(len(buffer).to_bytes(8, "little"))
            text.update(buffer)
        return text.digest()


def _together(calls: Sequence[Call], answers: Sequence[BatchAnswer]) -> BatchAnswer:
    """One answer to all of them, each call told where its rows are."""
    rows = 0
    for call in calls:
        call.first_row = rows
        rows += call.rows
    blocks = []
    for column in zip(*(answer.outputs for answer in answers), strict=True):
        whole = b"".join(block.buffers[0] for block in column)
        blocks.append(replace(column[0], buffers=(whole,)))
    # Nothing ran: no batch, no waiting, no model time.
    return BatchAnswer(rows, tuple(blocks), (BatchPart(rows, 0, 0, 0, 0, 0),))


class _KeepingExchange:
    """The wire's half of a request that was not found: keeps the answer once it has left."""

    def __init__(self, exchange: Exchange, cache: ResponseCache, key: bytes) -> None:
        self.authorization: Credential = exchange.authorization
        self.model = exchange.model
        self.version = exchange.version
        self.traceparent = exchange.traceparent
        self._exchange = exchange
        self._cache = cache
        self._key = key
        self._call: Call | None = None

    @property
    def timeout_s(self) -> float | None:
        return self._exchange.timeout_s

    def header(self, name: str) -> bytes:
        return self._exchange.header(name)

    def decode(self, version: ModelVersion) -> InferenceRequest:
        return self._exchange.decode(version)

    def encode(self, call: Call) -> bytes:
        self._call = call
        return self._exchange.encode(call)

    def send(self, payload: bytes) -> None:
        self._exchange.send(payload)
        call, self._call = self._call, None
        if call is not None:
            self._cache.keep(self._key, call)

    def refuse(self, error: ServingError, *, prediction_id: str | None = None) -> None:
        self._call = None
        self._exchange.refuse(error, prediction_id=prediction_id)

    def watch(self, call: Call) -> None:
        self._exchange.watch(call)

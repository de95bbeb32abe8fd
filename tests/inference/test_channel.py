import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from serving.core.batches import BatchAnswer, BatchPart, RowBatch, RowFailure, TensorBlock
from serving.core.clock import ManualClock
from serving.core.models import Digest
from serving.gateway_settings import ChannelSettings
from serving.inference.channel import Channel
from serving.inference.frames import (
    PREFIX,
    Kind,
    MessageReader,
    Refusal,
    decode_batch,
    encode_answer,
    encode_batch,
    encode_hello,
    encode_refusal,
)
from tests.inference.messages import plain_batch
from tests.plans import a_version, an_endpoint

VERSION = a_version()
SETTINGS = ChannelSettings(credits=2, stall_timeout_s=10, max_message_bytes=64 * 1024)
PATIENCE_S = 10.0
ZEROS = struct.pack("<2f", 0, 0)


def a_batch(rows: int = 1) -> RowBatch:
    return RowBatch(VERSION.digest, rows, (TensorBlock("FP32", (2,), [ZEROS * rows]),), sent_us=7)


def an_answer(rows: int = 1) -> BatchAnswer:
    block = TensorBlock("FP32", (2,), [ZEROS * rows])
    return BatchAnswer(rows, (block,), (BatchPart(rows, 1, rows, 0, 0, 0),))


class Sink:
    """A frame's sender: keeps what it is told."""

    def __init__(self, rows: int = 1) -> None:
        self.batch = a_batch(rows)
        self.fates: list[str] = []

    def answered(self, answer: BatchAnswer) -> None:
        self.fates.append("answered")

    def returned(self) -> None:
        self.fates.append("returned")

    def lost(self) -> None:
        self.fates.append("lost")


class Scripted:
    """The other end of the channel under test: a socket that says what the test wants."""

    def __init__(self, folder: Path, clock: ManualClock) -> None:
        self.path = folder / "replica.sock"
        self.changes = 0
        self.channel = Channel(
            replace(an_endpoint("r1"), address=f"unix:{self.path}"),
            VERSION,
            settings=SETTINGS,
            clock=clock,
            changed=self._changed,
        )
        self._moved = asyncio.Event()
        self._messages = MessageReader(max_bytes=SETTINGS.max_message_bytes)
        self._heard: list[tuple[Kind, memoryview]] = []
        self._connected = asyncio.Event()

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._accept, self.path)
        await self.channel.connect()
        await self._connected.wait()

    async def aclose(self) -> None:
        self.channel.abort()
        if self._connected.is_set():
            self._writer.close()
        self._server.close()
        await self._server.wait_closed()

    async def greet(self) -> None:
        self.say(encode_hello(VERSION.digest))
        await self.until(lambda: self.channel.ready)

    def say(self, data: bytes) -> None:
        self._writer.write(data)

    def hang_up(self) -> None:
        self._writer.close()

    async def hear(self) -> tuple[int, RowBatch]:
        """The next frame: its id and its rows."""
        async with asyncio.timeout(PATIENCE_S):
            while not self._heard:
                self._heard += self._messages.feed(await self._reader.read(64 * 1024))
        return decode_batch(self._heard.pop(0)[1])

    async def until(self, what: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not what():
                self._moved.clear()
                await self._moved.wait()

    async def closed(self) -> None:
        await self.until(lambda: self.channel.closed)

    def send(self, *sinks: Sink) -> None:
        for sink in sinks:
            self.channel.send(sink)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._connected.set()

    def _changed(self, _channel: Channel) -> None:
        self.changes += 1
        self._moved.set()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def replica(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Scripted]:
    """Connected, not greeted."""
    replica = Scripted(tmp_path, clock)
    await replica.start()
    yield replica
    await replica.aclose()


# -- opening ---------------------------------------------------------------------------------------


async def test_channel_carries_nothing_before_the_greeting(replica: Scripted) -> None:
    """Only who showed the promised digest gets rows."""
    assert (replica.channel.ready, replica.channel.has_credit) == (False, False)

    await replica.greet()

    assert (replica.channel.has_credit, replica.changes) == (True, 1)


async def test_greeting_with_another_digest_closes(replica: Scripted) -> None:
    """A replica that runs another artifact than was approved is not used."""
    replica.say(encode_hello(Digest("cd" * 32)))
    await replica.closed()

    assert (replica.channel.ready, replica.changes) == (False, 1)


async def test_replica_that_is_not_there_raises(tmp_path: Path, clock: ManualClock) -> None:
    """A socket nobody listens on, and an address of another kind, are OSErrors."""
    channel = Scripted(tmp_path, clock).channel
    with pytest.raises(FileNotFoundError):
        await channel.connect()

    channel.endpoint = replace(channel.endpoint, address="tcp:elsewhere:1")
    with pytest.raises(OSError, match=r"not an address that channel\.listen permits"):
        await channel.connect()


async def test_frame_for_an_unopened_channel_is_lost(tmp_path: Path, clock: ManualClock) -> None:
    """There is no connection on which it could be answered."""
    sink = Sink()
    Scripted(tmp_path, clock).channel.send(sink)

    assert sink.fates == ["lost"]


# -- frames and credits ----------------------------------------------------------------------------


async def test_rows_reach_the_replica(replica: Scripted) -> None:
    """What is sent is what arrives."""
    await replica.greet()
    sink = Sink(3)
    replica.send(sink)
    _, batch = await replica.hear()

    assert plain_batch(batch) == plain_batch(sink.batch)


async def test_credits_bound_the_frames_in_flight(replica: Scripted) -> None:
    """With two credits a third frame must wait; an answer gives its credit back."""
    await replica.greet()
    sinks = [Sink(2), Sink(3)]
    replica.send(*sinks)
    frame_id, _ = await replica.hear()
    assert (replica.channel.has_credit, replica.channel.outstanding_rows) == (False, 5)

    replica.say(encode_answer(frame_id, an_answer(2)))
    await replica.until(lambda: replica.channel.has_credit)

    assert (sinks[0].fates, sinks[1].fates) == (["answered"], [])
    assert replica.channel.outstanding_rows == 3


async def test_answers_find_their_frames_in_any_order(replica: Scripted) -> None:
    """An answer belongs to the frame whose id it names."""
    await replica.greet()
    sinks = [Sink(1), Sink(2)]
    replica.send(sinks[0])
    first, _ = await replica.hear()
    replica.send(sinks[1])
    second, _ = await replica.hear()

    replica.say(encode_answer(second, an_answer(2)) + encode_answer(first, an_answer(1)))
    await replica.until(lambda: replica.channel.outstanding_rows == 0)

    assert [sink.fates for sink in sinks] == [["answered"], ["answered"]]


async def test_answer_of_failures_only_has_no_outputs(replica: Scripted) -> None:
    """Where every row failed there is nothing to declare."""
    await replica.greet()
    sink = Sink(2)
    replica.send(sink)
    frame_id, _ = await replica.hear()
    failures = dict.fromkeys(range(2), RowFailure.MODEL_ERROR)

    replica.say(encode_answer(frame_id, replace(an_answer(2), outputs=(), failures=failures)))
    await replica.until(lambda: bool(sink.fates))

    assert (sink.fates, replica.channel.closed) == (["answered"], False)


# -- replicas that must not be believed ------------------------------------------------------------


def block(datatype: str, *shape: int, rows: int = 2) -> TensorBlock:
    tensor = TensorBlock(datatype, shape, [b""])
    return replace(tensor, buffers=[bytes(rows * tensor.row_bytes)])


LIES: dict[str, Callable[[int], bytes]] = {
    "unknown frame": lambda frame: encode_answer(frame + 9, an_answer(2)),
    "fewer rows": lambda frame: encode_answer(frame, an_answer(1)),
    "more rows": lambda frame: encode_answer(frame, an_answer(3)),
    "twice": lambda frame: encode_answer(frame, an_answer(2)) * 2,
    "no outputs": lambda frame: encode_answer(frame, replace(an_answer(2), outputs=())),
    "two outputs": lambda frame: encode_answer(
        frame, replace(an_answer(2), outputs=(block("FP32", 2), block("FP32", 2)))
    ),
    "other datatype": lambda frame: encode_answer(
        frame, replace(an_answer(2), outputs=(block("FP64", 2),))
    ),
    "other shape": lambda frame: encode_answer(
        frame, replace(an_answer(2), outputs=(block("FP32", 3),))
    ),
    "wrong model": lambda frame: encode_refusal(frame, Refusal.WRONG_MODEL),
    "not understood": lambda frame: encode_refusal(frame, Refusal.NOT_UNDERSTOOD),
    "refusal of nothing": lambda frame: encode_refusal(frame + 9, Refusal.DRAINING),
    "gateway's message": lambda frame: encode_batch(frame, a_batch()),
    "no frame": lambda _frame: b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "too large": lambda _frame: PREFIX.pack(b"SVF1", 1, 3, 0, SETTINGS.max_message_bytes + 1),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
async def test_replica_that_breaks_the_rules_is_left(
    replica: Scripted, lie: Callable[[int], bytes]
) -> None:
    """The connection closes, and each frame in flight is told exactly once (FT-13)."""
    await replica.greet()
    sinks = [Sink(2), Sink(1)]
    replica.send(sinks[0])
    frame_id, _ = await replica.hear()
    replica.send(sinks[1])

    replica.say(lie(frame_id))
    await replica.closed()

    expected = "answered" if lie is LIES["twice"] else "lost"
    assert [sink.fates for sink in sinks] == [[expected], ["lost"]]
    assert (replica.channel.outstanding_rows, replica.channel.has_credit) == (0, False)


# -- replicas that leave ---------------------------------------------------------------------------


@pytest.mark.parametrize("last_words", [b"", encode_answer(1, an_answer(2))[:40]], ids=["", "cut"])
async def test_frames_of_a_cut_connection_are_lost_once(
    replica: Scripted, last_words: bytes
) -> None:
    """A connection that ends, also in the middle of an answer, loses what was in flight."""
    await replica.greet()
    sinks = [Sink(2), Sink(3)]
    replica.send(*sinks)
    replica.say(last_words)
    replica.hang_up()
    await replica.closed()
    replica.channel.abort()

    assert [sink.fates for sink in sinks] == [["lost"], ["lost"]]


async def test_draining_replica_hands_rows_back(replica: Scripted) -> None:
    """It takes no more frames, but those it took are still answered."""
    await replica.greet()
    taken, refused = Sink(1), Sink(2)
    replica.send(taken)
    first, _ = await replica.hear()
    replica.send(refused)
    second, _ = await replica.hear()

    replica.say(encode_refusal(second, Refusal.DRAINING))
    await replica.until(lambda: bool(refused.fates))
    assert (replica.channel.has_credit, replica.channel.outstanding_rows) == (False, 1)
    replica.say(encode_answer(first, an_answer(1)))
    await replica.until(lambda: bool(taken.fates))

    assert (refused.fates, taken.fates) == (["returned"], ["answered"])
    assert not replica.channel.closed


async def test_ft_15_silent_replica_is_dropped(replica: Scripted, clock: ManualClock) -> None:
    """A stopped process keeps its socket: silence with frames in flight is a loss (FT-05)."""
    await replica.greet()
    sink = Sink()
    replica.send(sink)
    clock.advance(10)
    replica.channel.check(clock.monotonic_ns())
    assert sink.fates == []

    clock.advance(0.1)
    replica.channel.check(clock.monotonic_ns())

    assert (sink.fates, replica.channel.closed) == (["lost"], True)


async def test_idle_replica_may_be_silent(replica: Scripted, clock: ManualClock) -> None:
    """Silence counts from the first frame in flight, not from the last word before it."""
    await replica.greet()
    clock.advance(1000)
    replica.channel.check(clock.monotonic_ns())
    sink = Sink()
    replica.send(sink)
    clock.advance(9)
    replica.channel.check(clock.monotonic_ns())

    assert (sink.fates, replica.channel.closed) == ([], False)


async def test_replica_that_answers_slowly_is_kept(replica: Scripted, clock: ManualClock) -> None:
    """Any answer breaks the silence for the frames behind it."""
    await replica.greet()
    sinks = [Sink(), Sink()]
    replica.send(sinks[0])
    first, _ = await replica.hear()
    replica.send(sinks[1])
    clock.advance(9)
    replica.say(encode_answer(first, an_answer()))
    await replica.until(lambda: bool(sinks[0].fates))
    clock.advance(9)
    replica.channel.check(clock.monotonic_ns())

    assert (sinks[1].fates, replica.channel.closed) == ([], False)


async def test_retired_channel_without_frames_closes(replica: Scripted) -> None:
    """Nobody waits for it."""
    await replica.greet()
    replica.channel.retire()

    assert (replica.channel.closed, replica.channel.ready) == (True, False)


async def test_retired_channel_closes_after_its_last_answer(replica: Scripted) -> None:
    """What it carries is answered; new frames go elsewhere."""
    await replica.greet()
    sink = Sink()
    replica.send(sink)
    frame_id, _ = await replica.hear()
    replica.channel.retire()
    assert (replica.channel.has_credit, replica.channel.closed) == (False, False)

    replica.say(encode_answer(frame_id, an_answer()))
    await replica.closed()

    assert sink.fates == ["answered"]


async def test_channel_retired_before_its_greeting_stays_retired(replica: Scripted) -> None:
    """A greeting that was on its way does not make it take frames."""
    replica.channel.retire()

    assert (replica.channel.closed, replica.channel.ready) == (True, False)

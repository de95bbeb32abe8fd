"""A collector to send to: a real OTLP receiver, on a port of its own."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from oteltap.oteltap_http_protobuf_receiver import OtelTapHttpProtobufReceiver
from oteltap.oteltap_http_protobuf_receiver_settings import OtelTapHttpProtobufReceiverSettings

from loadtests.ports import free_port


class Collector:
    """Everything that arrived at one receiver, in order of arrival."""

    def __init__(self, port: int) -> None:
        self.endpoint = f"http://127.0.0.1:{port}"
        self.spans: list[Span] = []
        self._arrived = asyncio.Condition()

    async def receive(self, receiver: OtelTapHttpProtobufReceiver) -> None:
        async for span in receiver.stream_traces():
            async with self._arrived:
                self.spans.append(span)
                self._arrived.notify_all()

    async def await_spans(self, enough: Callable[[list[Span]], bool]) -> list[Span]:
        async with asyncio.timeout(20), self._arrived:
            await self._arrived.wait_for(lambda: enough(self.spans))
        return self.spans


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    port = free_port()
    settings = OtelTapHttpProtobufReceiverSettings(http_port=port)
    async with OtelTapHttpProtobufReceiver(settings) as receiver:
        collector = Collector(port)
        receiving = asyncio.create_task(collector.receive(receiver))
        await asyncio.sleep(0)  # The stream subscribes when its task first runs.
        yield collector
        receiving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await receiving

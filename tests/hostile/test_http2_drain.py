"""A server that goes down while clients of its gRPC port have calls in flight, well-behaved or not."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.catalogue import SLOW, write_models
from tests.hostile.cases import Case, closing
from tests.hostile.http2_cases import Http2Case, asking, assert_answer
from tests.hostile.http2_wire import Code, Http2Client, data, goaway
from tests.hostile.product import SHORT_CALLS, Product
from tests.instances import Instance
from tests.places import Place, wait_until

STOPPED_S: Final = 25
LONG_ENOUGH: Final = {"timeout": 20_000_000}


@pytest.fixture
def leaving(tmp_path: Path) -> Iterator[Http2Case]:
    """A case on an instance of its own, which the test stops."""
    models = write_models(tmp_path / "models")
    deployments = [{"model": "doubler", "stable": "1"}]
    with Instance(
        tmp_path, deployments=deployments, models_dir=models, grpc=SHORT_CALLS
    ) as instance:
        instance.expect("ready")
        product = Product(instance)
        with closing(Case(product, port=product.http_port)) as case:
            made = Http2Case(case)
            try:
                yield made
            finally:
                made.close()


def stop(calls: Http2Case) -> None:
    calls.product.instance.process.send_signal(signal.SIGTERM)


def stopped(calls: Http2Case) -> None:
    """Fails unless it ends well and its log holds every answer that was told, once."""
    instance = calls.product.instance
    assert instance.process.wait(STOPPED_S) == 0
    place = Place(instance.url, instance.data_dir)
    told = calls.ledger.recorded()
    found = [record.prediction_id for record in place.records()]
    assert set(told) <= set(found)
    assert len(found) == len(set(found))


def says_goodbye(connection: Http2Client) -> None:
    connection.read_until(lambda: bool(connection.goaways))


def test_calls_in_flight_are_answered(leaving: Http2Case) -> None:
    """Each connection gets GOAWAY NO_ERROR, its answers, then the end; the exit status is 0."""
    connections = [leaving.connect() for _ in range(3)]
    streams = [[leaving.ask(each, SLOW, **LONG_ENOUGH) for _ in range(4)] for each in connections]
    wait_until(lambda: leaving.product.status()["in_flight"] == 12)
    stop(leaving)
    for connection, asked in zip(connections, streams, strict=True):
        for stream in asked:
            assert_answer(connection.reply(stream), SLOW)
        ending = connection.ending(within_s=STOPPED_S)
        assert ending.code == Code.NO_ERROR
        assert ending.last >= asked[-1]

    stopped(leaving)


def test_call_that_crosses_the_goodbye_is_served_or_may_be_repeated(leaving: Http2Case) -> None:
    """A stream above the last one of GOAWAY was not touched; one below is answered. Nothing between."""
    with leaving.connect() as connection:
        first = leaving.ask(connection, 2 * SLOW, **LONG_ENOUGH)
        wait_until(lambda: leaving.product.status()["in_flight"] == 1)
        stop(leaving)
        says_goodbye(connection)
        late = connection.new_stream()
        connection.try_send(leaving.call(late, 3.0))
        assert_answer(connection.reply(first), 2 * SLOW)
        ending = connection.ending(within_s=STOPPED_S)
        reply = connection.replies.get(late)
        if reply is None or reply.reset is not None:
            assert ending.last < late or (reply and reply.reset == Code.REFUSED_STREAM)
        else:
            assert reply.complete

    stopped(leaving)


def test_message_that_is_half_there_does_not_hold_the_server(leaving: Http2Case) -> None:
    """A call that is still being sent may be finished; one that never is does not stop the end."""
    with leaving.connect() as quick, leaving.connect() as never, leaving.connect() as silent:
        never.send(leaving.head(1), data(asking()[:5], 1, 0))
        running = leaving.ask(quick, SLOW, **LONG_ENOUGH)
        second = quick.new_stream()
        quick.send(leaving.head(second), data(asking(2.0)[:5], second, 0))
        wait_until(lambda: leaving.product.status()["in_flight"] == 1)
        stop(leaving)
        says_goodbye(quick)
        quick.try_send(data(asking(2.0)[5:], second))
        assert_answer(quick.reply(running), SLOW)
        assert_answer(quick.reply(second), 2.0)
        assert quick.ending(within_s=STOPPED_S).code == Code.NO_ERROR
        assert silent.ending(within_s=STOPPED_S).code in (Code.NO_ERROR, None)

    stopped(leaving)


def test_client_that_does_not_read_does_not_hold_the_server(leaving: Http2Case) -> None:
    """Nor one that says GOAWAY itself, nor one without windows: the end comes in its time."""
    with leaving.connect(windows=0) as closed, leaving.connect(receive_buffer_bytes=4096) as deaf:
        streams = [leaving.ask(closed, 2.0), leaving.ask(deaf, 2.0)]
        deaf.send(goaway())
        wait_until(lambda: len(leaving.new_records()) == len(streams))
        stop(leaving)

        stopped(leaving)

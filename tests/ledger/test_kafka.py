import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.core.clock import SystemClock
from serving.core.outcomes import Outcome
from serving.errors import LedgerUnavailable, SettingInvalid
from serving.ledger.kafka import KafkaSink
from serving.ledger_settings import LedgerSettings
from serving.predictionlog.outcomes import encode_outcome
from tests.ledger.cold import never
from tests.logs import NOW_NS, a_committer, frames_of
from tests.tansu import Broker, tansu, wait_for

kafka = pytest.importorskip("confluent_kafka")
admins = pytest.importorskip("confluent_kafka.admin")
pytestmark = pytest.mark.faults
TOPIC = "predictions"


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with tansu(tmp_path_factory.mktemp("tansu")) as running:
        wait_for(running)
        yield running


def a_sink(root: Path, broker: Broker, topic: str, **options: str) -> KafkaSink:
    settings = LedgerSettings(
        kafka_servers=broker.address, kafka_topic=topic, kafka_options=options, source="here"
    )
    return KafkaSink(
        root / "log", folder=root, settings=settings, clock=SystemClock(), stopping=never
    )


def create_topic(broker: Broker, name: str) -> None:
    admin = admins.AdminClient({"bootstrap.servers": broker.address})
    for future in admin.create_topics([admins.NewTopic(name, 3, 1)]).values():
        future.result(10)


def consume(broker: Broker, topic: str, count: int) -> list[tuple[dict[str, str], bytes, Any]]:
    """(headers, key, body) of so many messages and of what else comes soon.

    Without a group, which takes seconds to form.
    """
    consumer = kafka.Consumer(
        {"bootstrap.servers": broker.address, "group.id": "t", "enable.auto.commit": False}
    )
    consumer.assign([kafka.TopicPartition(topic, each, 0) for each in range(3)])
    found: list[tuple[dict[str, str], bytes, Any]] = []
    clock = SystemClock()
    end_ns = clock.monotonic_ns() + 10 * 10**9
    try:
        while clock.monotonic_ns() < end_ns:
            enough = len(found) >= count
            for message in consumer.consume(100, timeout=0.5 if enough else 0.1):
                assert message.error() is None
                headers = {name: value.decode() for name, value in message.headers()}
                found.append((headers, message.key(), json.loads(message.value())))
            if enough:
                break
    finally:
        consumer.close()
    return found


def test_every_record_arrives_as_cloudevents(tmp_path: Path, broker: Broker) -> None:
    """Requests, responses and outcomes arrive in binary mode, keyed by prediction id."""
    create_topic(broker, TOPIC)
    committer = a_committer(tmp_path / "log" / "w")
    committer.commit(frames_of(*range(1, 51)))
    outcome = Outcome(f"{b'log-id-8'.hex()}-1", 0, "y", 3.5, NOW_NS, 0, "doubler", "me", NOW_NS)
    committer.commit([encode_outcome(outcome, sequence=51)])
    sink = a_sink(tmp_path, broker, TOPIC)
    sink.run()
    committer.close()

    messages = consume(broker, TOPIC, 101)
    assert (len(messages), sink.lag.records, sink.records) == (101, 0, 51)
    by_type: dict[str, set[bytes]] = {}
    for headers, key, _ in messages:
        by_type.setdefault(headers["ce_type"], set()).add(key)
        assert (headers["ce_specversion"], headers["ce_source"]) == ("1.0", "here")
        assert headers["content-type"] == "application/json"
    assert {name: len(keys) for name, keys in by_type.items()} == {
        "org.kubeflow.serving.inference.request": 50,
        "org.kubeflow.serving.inference.response": 50,
        "serving.outcome.reported": 1,
    }
    body = next(body for headers, key, body in messages if "outcome" in headers["ce_type"])
    assert (body["value"], body["prediction_id"]) == (3.5, outcome.prediction_id)


def test_a_restart_goes_on_at_the_checkpoint(tmp_path: Path, broker: Broker) -> None:
    """What the broker has is not sent again; what came meanwhile is."""
    create_topic(broker, "restarted")
    for sequences in (range(1, 11), range(11, 21)):
        committer = a_committer(tmp_path / "log" / "w")
        committer.commit(frames_of(*sequences))
        committer.close()
        a_sink(tmp_path, broker, "restarted").run()

    assert len(consume(broker, "restarted", 40)) == 40


def test_a_broker_that_is_down_costs_nothing(tmp_path: Path) -> None:
    """The checkpoint stays where it is, the lag is seen, and later everything is sent."""
    (tmp_path / "b").mkdir()
    committer = a_committer(tmp_path / "log" / "w")
    committer.commit(frames_of(1, 2, 3))
    with tansu(tmp_path / "b") as broker:
        broker.stop()
        sink = a_sink(tmp_path, broker, TOPIC, **{"message.timeout.ms": "300"})
        with pytest.raises(LedgerUnavailable, match="kafka"):
            sink.run()
        lag = sink.lag
        broker.start()
        wait_for(broker)
        create_topic(broker, "late")
        a_sink(tmp_path, broker, "late").run()

        assert (lag.bytes > 0, lag.seconds > 0) == (True, True)
        assert len(consume(broker, "late", 6)) == 6
    committer.close()


def test_wrong_options_stop_the_start(tmp_path: Path) -> None:
    """What librdkafka does not know is refused when the process starts, not when records come."""
    settings = LedgerSettings(kafka_servers="127.0.0.1:1", kafka_options={"nonsense": "1"})

    with pytest.raises(SettingInvalid, match="nonsense"):
        KafkaSink(
            tmp_path / "log",
            folder=tmp_path,
            settings=settings,
            clock=SystemClock(),
            stopping=never,
        )

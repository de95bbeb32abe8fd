"""A Kafka topic that gets every record as CloudEvents (`cloudevents`, binary mode). Extra: `kafka`.

The key of a message is the prediction id, so everything about a prediction is in one partition, in
order. The producer is idempotent: what it sends again after a failure arrives once. Where to go on is
a checkpoint of the ledger's cursor, written after the broker has all messages before it; so nothing
is left out, and after a crash the last messages may come twice, with the same `ce_id` and `ce_type`.
While the broker does not answer the checkpoint stays where it is: the backlog is the log itself. What
is encrypted is not decrypted here.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from serving.core.clock import Clock
from serving.errors import LedgerUnavailable, SettingInvalid
from serving.ledger.cloudevents import CloudEvent, cloudevents
from serving.ledger.tailing import Cursor, Lag
from serving.ledger_settings import LedgerSettings

try:
    import confluent_kafka
except ImportError:  # the extra is not installed
    confluent_kafka = None  # type: ignore[assignment]

BATCH_RECORDS: Final = 1000
FLUSH_S: Final = 30.0
_LINGER_MS: Final = 5

_log = logging.getLogger(__name__)


class KafkaSink:
    """The job. Each run sends what has come since. records: sent since the process started."""

    name = "kafka"

    def __init__(
        self,
        log: Path,
        *,
        folder: Path,
        settings: LedgerSettings,
        clock: Clock,
        stopping: Callable[[], bool],
    ) -> None:
        """Raises SettingInvalid without the extra, or with an option that librdkafka refuses."""
        self.period_s = settings.kafka_every_s
        self.records = 0
        self.lag = Lag(0, 0, 0.0)
        self._log = log
        self._checkpoint = folder / "kafka.checkpoint"
        self._settings = settings
        self._clock = clock
        self._stopping = stopping
        self._producer = _producer(settings)
        self._cursor = self._open()
        self._failed: list[str] = []

    def needed(self) -> dict[str, int]:
        """By worker, the oldest segment that is still to be sent."""
        return self._cursor.needed()

    def run(self) -> None:
        """Raises LedgerUnavailable when the broker did not take everything; LogDamaged, OSError."""
        try:
            while not self._stopping():
                events = self._cursor.read(BATCH_RECORDS)
                if not events:
                    break
                self._send([each for event in events for each in self._events(event)])
                self._cursor.commit()
                self.records += len(events)
        except BaseException:
            self._producer.purge()
            self._producer.poll(0)
            self._cursor = self._open()
            raise
        finally:
            self.lag = self._cursor.lag()

    def _open(self) -> Cursor:
        return Cursor(self._log, self._checkpoint, clock=self._clock)

    def _events(self, event: object) -> Sequence[CloudEvent]:
        return list(cloudevents(event, source=self._settings.source))  # type: ignore[arg-type]  # of a cursor

    def _send(self, events: Sequence[CloudEvent]) -> None:
        self._failed = []
        for event in events:
            self._produce(event)
        left = self._producer.flush(FLUSH_S)
        if left or self._failed:
            reason = self._failed[0] if self._failed else f"{left} messages are unanswered"
            raise LedgerUnavailable(f"kafka {self._settings.kafka_servers}: {reason}")

    def _produce(self, event: CloudEvent) -> None:
        while True:
            try:
                self._producer.produce(
                    self._settings.kafka_topic,
                    key=event.key.encode(),
                    value=event.body(),
                    headers=event.headers(),
                    on_delivery=self._delivered,
                )
            except BufferError:
                if self._stopping():
                    raise
                self._producer.poll(0.1)
            else:
                self._producer.poll(0)
                return

    def _delivered(self, error: object, _message: object) -> None:
        if error is not None:
            self._failed.append(str(error))


def _producer(settings: LedgerSettings) -> "confluent_kafka.Producer":
    if confluent_kafka is None:
        raise SettingInvalid("ledger.kafka_servers needs the extra: pip install 'serving[kafka]'")
    options: dict[str, object] = {
        "bootstrap.servers": settings.kafka_servers,
        "enable.idempotence": True,
        "linger.ms": _LINGER_MS,
        "message.timeout.ms": round(FLUSH_S * 1000),
        "client.id": "serving-ledger",
        **settings.kafka_options,
    }
    try:
        return confluent_kafka.Producer(options, logger=_log)
    except confluent_kafka.KafkaException as error:
        raise SettingInvalid(f"ledger.kafka_options: {error}") from error

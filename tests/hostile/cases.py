"""One hostile case: its conversations with the product, and a ledger of everything it was told.

The ledger is kept by the connections themselves, so that no test can forget an answer; afterwards
`tests.hostile.invariants` compares it with what the product says.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from serving.core.clock import SystemClock
from serving.core.predictions import PredictionRecord
from tests.edge.wire import Answer, Client
from tests.hostile.product import Product, Usage


@dataclass(slots=True)
class Ledger:
    """What callers of one case were told.

    answers: all of them. unheard: codes of refusals whose answers nobody could read.
    unacknowledged: how many records the log may gain whose callers were never told an id.
    pooled: how many connections a proxy in between may keep open for others.
    """

    answers: list[Answer] = field(default_factory=list)
    unheard: Counter[str] = field(default_factory=Counter)
    unacknowledged: range = range(1)
    pooled: int = 0

    def recorded(self) -> list[str]:
        """Ids that callers were told of predictions, answered or failed."""
        ids = [each.headers.get("serving-prediction-id") for each in self.answers]
        failures = [each.json()["request_id"] for each in self.answers if is_ours(each)]
        return [each for each in ids if each] + [each for each in failures if _is_prediction(each)]

    def refused(self) -> Counter[str]:
        """Refusals by code: requests that got no prediction id, told of or known of."""
        problems = [each.json() for each in self.answers if is_ours(each)]
        return self.unheard + Counter(
            each["code"] for each in problems if not _is_prediction(each["request_id"])
        )


@dataclass(frozen=True, slots=True)
class Stock:
    """The product before a case."""

    pids: tuple[int, ...]
    usage: Usage
    connections: int
    refusals: Counter[str]
    began_ns: int
    log_bytes: dict[str, int]


def take_stock(product: Product) -> Stock:
    """What the invariants compare with."""
    return Stock(
        pids=product.pids(),
        usage=product.usage(),
        connections=product.status()["connections"],
        refusals=product.refusals(),
        began_ns=SystemClock().wall_ns(),
        log_bytes={file.name: len(text) for file, text in product.logs().items()},
    )


class Conversation(Client):
    """A raw connection whose answers go to the ledger."""

    def __init__(self, port: int, ledger: Ledger, *, receive_buffer_bytes: int = 0) -> None:
        super().__init__(port, receive_buffer_bytes=receive_buffer_bytes)
        self._ledger = ledger

    def receive(self, *, bodiless: bool = False) -> Answer:
        answer = super().receive(bodiless=bodiless)
        self._ledger.answers.append(answer)
        return answer

    def receive_all(self) -> list[Answer]:
        """Every answer up to the end of the connection; a cut one fails."""
        found = []
        while not self.has_ended():
            found.append(self.receive())
        return found


class Case:
    """What a test asks through; `port` is the product's own or that of the proxy before it."""

    def __init__(self, product: Product, *, port: int, pooled: int = 0) -> None:
        self.product = product
        self.ledger = Ledger(pooled=pooled)
        self.before = take_stock(product)
        self.port = port
        self._open = ExitStack()

    def connect(self, *, receive_buffer_bytes: int = 0) -> Conversation:
        """A connection that lasts as long as the case, unless it is closed before."""
        made = Conversation(self.port, self.ledger, receive_buffer_bytes=receive_buffer_bytes)
        return self._open.enter_context(made)

    def ask(self, *parts: bytes) -> list[Answer]:
        """All answers to these bytes on a connection of their own, up to its end."""
        with self.connect() as connection:
            for part in parts:
                if not connection.try_send(part):
                    break
            return connection.receive_all()

    def ask_one(self, raw: bytes) -> Answer:
        """The first answer to these bytes; the connection may stay open."""
        with self.connect() as connection:
            return connection.send(raw).receive()

    def new_records(self) -> list[PredictionRecord]:
        """What the prediction log has gained since it began."""
        return self.product.records(since_ns=self.before.began_ns)

    def close(self) -> None:
        """Ends every connection of it."""
        self._open.close()


def is_ours(answer: Answer) -> bool:
    """Whether an error was written by the product and not by a proxy before it."""
    return answer.status >= 400 and answer.headers.get("content-type") == "application/json"


def _is_prediction(request_id: str) -> bool:
    return "-" in request_id


@contextmanager
def closing(case: Case) -> Iterator[Case]:
    """The case, whose connections end with the block."""
    try:
        yield case
    finally:
        case.close()

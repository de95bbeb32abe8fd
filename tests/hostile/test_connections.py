"""A thousand callers, each with a connection of its own that stays open."""

import resource
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest

from serving.gateway_settings import AdmissionSettings
from tests.catalogue import write_models
from tests.edge.wire import Client
from tests.hostile.crowds import affordable
from tests.hostile.product import Product
from tests.instances import Instance

MANY: Final = 1_000
AT_ONCE: Final = AdmissionSettings().max_in_flight_per_caller
USUAL_SOFT_LIMIT: Final = 512
"""Lower than the usual 1,024, which a thousand connections would nearly fit."""
WARM_UP: Final = 64
IDLE_BYTES: Final = 30_000


@contextmanager
def soft_limit(descriptors: int) -> Iterator[None]:
    """Whatever is started inside begins with so few descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(descriptors, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def product(tmp_path: Path) -> Iterator[Product]:
    """An instance that was started with few descriptors."""
    models = write_models(tmp_path / "models")
    with soft_limit(USUAL_SOFT_LIMIT):
        instance = Instance(
            tmp_path, deployments=[{"model": "doubler", "stable": "1"}], models_dir=models
        ).__enter__()
    try:
        instance.expect("ready")
        yield Product(instance)
    finally:
        instance.__exit__()


def test_a_thousand_connections_are_served_and_cost_little(product: Product) -> None:
    """Each of them is answered, twice, with its own number; an idle one costs at most 30 kB."""
    many = affordable(MANY)
    with ExitStack() as stack:
        clients = [stack.enter_context(product.connect()) for _ in range(WARM_UP)]
        ask(product, clients, first=0)
        before = product.usage()
        clients += [stack.enter_context(product.connect()) for _ in range(many - WARM_UP)]
        for first in (0, many):
            ask(product, clients, first=first)

        grown_bytes = product.usage().resident_bytes - before.resident_bytes
        assert product.status()["connections"] == many
        assert grown_bytes / (many - WARM_UP) < IDLE_BYTES


def ask(product: Product, clients: list[Client], *, first: int) -> None:
    """As many at once as one caller may; every answer must be that of its own question."""
    for at in range(0, len(clients), AT_ONCE):
        group = list(enumerate(clients[at : at + AT_ONCE], first + at))
        for number, client in group:
            client.send(product.inference(-float(number), timeout=20_000_000))
        for number, client in group:
            assert client.receive().json()["outputs"][0]["data"][0] == -2.0 * number

"""One instance for all hostile cases, the fronts before it, and the check after each case."""

from collections.abc import Iterator

import pytest

from tests.hostile.cases import Case, closing
from tests.hostile.fronts import FRONTS, POOLED, front, installed
from tests.hostile.http2_cases import Http2Case
from tests.hostile.invariants import check
from tests.hostile.product import Product, running_product


@pytest.fixture(scope="package")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """A real instance without a shadow, whose deadlines are short."""
    with running_product(tmp_path_factory.mktemp("hostile")) as made:
        yield made


@pytest.fixture
def case(product: Product) -> Iterator[Case]:
    """A case on the inference port; the invariants are checked when it is over."""
    with closing(Case(product, port=product.http_port)) as made:
        yield made
    check(made)


@pytest.fixture
def calls(product: Product) -> Iterator[Http2Case]:
    """A case on the gRPC port; the same invariants, and a good call on a connection of its own."""
    with closing(Case(product, port=product.http_port)) as case:
        made = Http2Case(case)
        try:
            yield made
        finally:
            made.close()
        made.at_rest()
    check(case)


@pytest.fixture(scope="package", params=FRONTS)
def front_port(
    request: pytest.FixtureRequest, product: Product, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[int]:
    """The port of a proxy before the product."""
    if installed(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    folder = tmp_path_factory.mktemp(request.param)
    with front(request.param, folder, product=product.http_port) as port:
        yield port


@pytest.fixture
def fronted(product: Product, front_port: int) -> Iterator[Case]:
    """A case whose bytes pass through a proxy; the invariants hold as without one."""
    with closing(Case(product, port=front_port, pooled=POOLED)) as made:
        yield made
    check(made)

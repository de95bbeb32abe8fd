from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis.checks import load_all_checks
from schemathesis.specs.openapi import checks

from serving.edge.openapi import OPERATIONS, describe
from serving.edge.problems import STATUS
from serving.edge.routes import Reply, Route
from tests.catalogue import write_models
from tests.edge.port import InferencePort
from tests.edge.wire import request
from tests.instances import Instance
from tests.places import a_row

EXAMPLES = 25
KNOWN = {"model": "doubler", "version": "1"}
EXPECTED_5XX = {"infer": {504}, "load": {501}, "unload": {501}}
"""Refusals of a healthy server that are no fault of it: no time was allowed, or it is not done here."""

VARIANTS = [
    *OPERATIONS,
    *(
        key.replace("{model}", "{model}/versions/{version}")
        for key in OPERATIONS
        if " /v2/models/{model}" in key and not key.endswith("/outcomes")
    ),
]

load_all_checks()


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    folder = tmp_path_factory.mktemp("openapi")
    models = write_models(folder / "models")
    deployments = [{"model": "doubler", "stable": "1"}]
    with Instance(folder, deployments=deployments, models_dir=models) as instance:
        instance.expect("ready")
        yield instance


@pytest.fixture(scope="module")
def document(product: Instance) -> dict[str, Any]:
    """What the product says of itself."""
    headers = {"Authorization": f"Bearer {product.token()}"}
    found: dict[str, Any] = httpx.get(f"{product.url}/openapi.json", headers=headers).json()
    return found


def cases_of(document: dict[str, Any], method: str, path: str) -> st.SearchStrategy[Any]:
    """Requests that keep to the description and such that do not, half of them about what exists."""
    operation = schemathesis.openapi.from_dict(document)[path][method]
    known = {name: value for name, value in KNOWN.items() if f"{{{name}}}" in path}
    modes = schemathesis.GenerationMode
    strategies = [
        operation.as_strategy(mode, path_parameters=names)
        for mode in (modes.POSITIVE, modes.NEGATIVE)
        for names in ({}, known)
    ]
    if path.endswith("/infer"):
        row, media = a_row(1.0), "application/json"
        strategies.append(operation.as_strategy(path_parameters=known, body=row, media_type=media))
    return st.one_of(strategies)


def test_document_and_routes_are_the_same(port: InferencePort) -> None:
    """Every route is described and every description has its route, with the route's own words."""
    routes = port.application.router.routes
    document = port.get("/openapi.json").json()

    described = {(m.upper(), path) for path, all_of in document["paths"].items() for m in all_of}
    assert described == {(route.method, route.path) for route in routes}
    assert {f"{method} {path}" for method, path in described} == set(VARIANTS)


def test_only_open_routes_are_described_as_open(port: InferencePort) -> None:
    """A description without a token is that of a route which asks for none."""
    document = port.get("/openapi.json").json()

    for route in port.application.router.routes:
        operation = document["paths"][route.path][route.method.lower()]
        assert route.is_open == (operation.get("security") == [])
        assert route.is_open == ("401" not in operation["responses"])
    assert port.ask(request("GET", "/openapi.json")).status == 401


def test_route_without_description_is_noticed() -> None:
    """A table with a route that nobody described has no document."""
    with pytest.raises(LookupError):
        describe([Route("GET", "/v2/models/{model}/explain", lambda _request: Reply(200))])


def test_names_of_operations_are_unique_and_statuses_known(port: InferencePort) -> None:
    """Generators of clients find one name for each operation, and only statuses that we answer."""
    paths = port.get("/openapi.json").json()["paths"]
    operations = [each for all_of in paths.values() for each in all_of.values()]

    names = [each["operationId"] for each in operations]
    assert len(names) == len(set(names))
    statuses = {int(status) for each in operations for status in each["responses"]}
    assert statuses <= {200, *STATUS.values()}


@pytest.mark.parametrize("variant", VARIANTS)
def test_product_keeps_to_its_description(
    product: Instance, document: dict[str, Any], variant: str
) -> None:
    """Whatever is asked within the description or beside it, the answer is one that it names."""
    method, path = variant.split(" ")
    headers = {"Authorization": f"Bearer {product.token()}"}
    allowed = EXPECTED_5XX.get(path.rpartition("/")[2], set())

    @seed(1)
    @settings(
        max_examples=EXAMPLES,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(case=cases_of(document, method, path))
    def ask(case: schemathesis.Case[Any]) -> None:
        response = case.call(base_url=product.url, headers=headers)
        assert response.status_code < 500 or response.status_code in allowed, response.text
        case.validate_response(
            response,
            checks=[
                checks.status_code_conformance,
                checks.content_type_conformance,
                checks.response_headers_conformance,
                checks.response_schema_conformance,
            ],
        )

    ask()

"""How the product is started and what it does not offer."""

import os
from pathlib import Path

import pytest

from tests.edge.wire import Client, parse_answers, request
from tests.hostile.product import Product
from tests.instances import Instance

DEBUG_PATHS = (
    "/docs",
    "/redoc",
    "/debug",
    "/debug/pprof/",
    "/debug/vars",
    "/_debug_toolbar",
    "/console/debugger",
    "/__debug__/",
    "/profile",
    "/trace",
    "/env",
    "/config",
    "/server-status",
    "/actuator/env",
    "/api/serve/applications/",
    "/static/index.html",
)


@pytest.mark.parametrize("name", ["http", "metrics", "control"])
def test_op_06_nothing_for_debugging_is_served(product: Product, name: str) -> None:
    """No documentation pages, profilers, debuggers or dashboards on any port, for anybody."""
    ports = {
        "http": product.http_port,
        "metrics": product.metrics_port,
        "control": product.control_port,
    }
    for path in DEBUG_PATHS:
        with Client(ports[name]) as client:
            client.send(request("GET", path, "Connection: close"))
            (answer,) = parse_answers(client.rest())

        assert answer.status in {401, 404}, path


@pytest.mark.parametrize("name", ["http", "metrics", "control"])
def test_op_06_pages_of_other_origins_learn_nothing(product: Product, name: str) -> None:
    """No answer permits a browser to show it to a page of another origin."""
    ports = {
        "http": product.http_port,
        "metrics": product.metrics_port,
        "control": product.control_port,
    }
    for method in ("GET", "OPTIONS"):
        with Client(ports[name]) as client:
            asked = ("Origin: https://evil.example", "Access-Control-Request-Method: POST")
            client.send(request(method, "/v2/health/live", *asked, "Connection: close"))
            (answer,) = parse_answers(client.rest())

        assert not [header for header in answer.headers if header.startswith("access-control-")]


@pytest.mark.parametrize(
    ("content", "mode"),
    [(b"", 0o600), (b"changeme", 0o600), (b"ab" * 32, 0o644)],
    ids=["empty", "short", "open to others"],
)
def test_op_04_a_weak_secret_stops_the_start(tmp_path: Path, content: bytes, mode: int) -> None:
    """An empty, short or readable secret is named, and never replaced by another one."""
    folder = tmp_path / "data" / "keys"
    folder.mkdir(parents=True, mode=0o700)
    os.chmod(tmp_path / "data", 0o700)  # noqa: PTH101 - the mask took what mkdir was given
    secret = folder / "internal"
    secret.write_bytes(content)
    secret.chmod(mode)
    with Instance(tmp_path) as instance:
        complaint = instance.complaint()
        status = instance.process.wait()

    assert status != 0
    assert str(secret) in complaint
    assert secret.read_bytes() == content

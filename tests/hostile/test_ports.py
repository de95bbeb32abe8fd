"""Every other HTTP port of the product is as strict as the inference port: it is the same server."""

import pytest

from tests.edge.wire import Answer, Client, assert_problem, parse_answers, request
from tests.hostile.cases import Case
from tests.hostile.messages import BY_CASE, HOSTS, METHODS, Broken

GROUPS = BY_CASE | {"ht_10": HOSTS, "ht_11": [each for each in METHODS if 405 not in each.statuses]}
HIDDEN = request("GET", "/metrics", "Connection: close")


def answers(port: int, broken: Broken) -> list[Answer]:
    """Everything that is answered until the port closes the connection."""
    with Client(port) as client:
        client.try_send(broken.raw + (b"" if broken.late else HIDDEN))
        return parse_answers(client.rest())


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("name", ["metrics", "control"])
def test_broken_messages_are_refused_on_every_port(case: Case, name: str, group: str) -> None:
    """One refusal, the end, and nothing that stood behind the message is served."""
    port = {"metrics": case.product.metrics_port, "control": case.product.control_port}[name]
    for broken in GROUPS[group]:
        (answer,) = answers(port, broken)

        assert answer.status in broken.statuses, broken
        assert_problem(answer, answer.status, answer.json()["code"])
        assert answer.headers["connection"] == "close"

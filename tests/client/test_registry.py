"""The Python client: typed, repeated safely, refused by the registry's own errors."""

import asyncio
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import pytest

from serving.client import RegistryClient
from serving.core.clock import ManualClock
from serving.errors import (
    ModelNotFound,
    NotReady,
    OrderRefused,
    RegistryUnavailable,
    RevisionStale,
    TransitionRefused,
)
from serving.registry.entities import ModelFacts, RegisteredModel, RiskTier
from serving.registry.lifecycle import State, Step
from serving.storage.database import Database
from serving.storage_settings import RegistrySettings
from tests.controlport import control_port
from tests.registries import DEFINITION, RegistryStand, digest_of

ADA = "ada developer operator approver"


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[RegistryStand]:
    database = Database.open(RegistrySettings(), tmp_path)
    yield RegistryStand(database)
    database.close()


async def test_the_client_speaks_the_registrys_types(stand: RegistryStand) -> None:
    """What comes back are models, versions and aliases, not dictionaries."""

    def use(url: str) -> tuple[RegisteredModel, State, list[str]]:
        with RegistryClient(url, token=ADA) as registry:
            facts = ModelFacts(owner="ada", risk_tier=RiskTier.LIMITED)
            registry.register_model("fraud", facts)
            registry.register_version(
                "fraud", "1", digest=digest_of("1"), definition=DEFINITION, description="first"
            )
            registry.change_state("fraud", "1", Step.VALIDATE, reason="inspected")
            registry.set_alias("fraud", "candidate", "1")
            model = registry.change_model(
                "fraud", ModelFacts(owner="ada", purpose="Finds it."), if_revision=1
            )
            found = [each.name for each in registry.search(text="finds")]
            state = registry.version("fraud", "candidate").state
            assert registry.aliases("fraud")[0].version == "1"
            assert registry.card("fraud", "1").digest == digest_of("1")
            assert registry.card_markdown("fraud", "1").startswith("# fraud 1")
            assert registry.bill_of_materials("fraud", "1")["bomFormat"] == "CycloneDX"
            assert len(list(registry.history("fraud"))) == 5
            registry.remove_alias("fraud", "candidate")
            return model, state, found

    async with control_port(stand) as url:
        model, state, found = await asyncio.to_thread(use, url)

    assert (model.facts.purpose, state, found) == ("Finds it.", State.VALIDATED, ["fraud"])


async def test_refusals_are_the_registrys_errors(stand: RegistryStand) -> None:
    """A caller catches what the registry raised, by its class."""

    def use(url: str) -> None:
        with RegistryClient(url, token=ADA) as registry:
            registry.register_model("fraud", ModelFacts(owner="ada"))
            registry.register_version("fraud", "1", digest=digest_of("1"), definition=DEFINITION)
            with pytest.raises(ModelNotFound):
                registry.model("none")
            with pytest.raises(RevisionStale):
                registry.change_model("fraud", ModelFacts(owner="x"), if_revision=9)
            with pytest.raises(TransitionRefused):
                registry.change_state("fraud", "1", Step.APPROVE, reason="x")

    async with control_port(stand) as url:
        await asyncio.to_thread(use, url)


class Flaky(BaseHTTPRequestHandler):
    """Answers with what the test has put down, and notes what it was asked."""

    answers: ClassVar[list[tuple[int, str]]] = []
    keys: ClassVar[list[str | None]] = []

    def do_POST(self) -> None:
        self.keys.append(self.headers["Idempotency-Key"])
        self.rfile.read(int(self.headers["Content-Length"]))
        status, body = self.answers.pop(0)
        if not status:
            return  # It closes the connection without an answer.
        self.send_response(status)
        self.send_header("Retry-After", "2")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def flaky() -> Iterator[str]:
    Flaky.answers, Flaky.keys = [], []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Flaky)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


AWAY = (503, json.dumps({"error": "away", "code": "registry_unavailable", "request_id": "1"}))
MADE = (
    200,
    json.dumps(
        {"name": "fraud", "tenant": "", "facts": {"owner": "ada"}, "created_ns": 1}
        | {"created_by": "ada", "updated_ns": 1, "revision": 1}
    ),
)


def test_an_order_without_an_answer_is_repeated_under_its_key(flaky: str) -> None:
    """A broken connection and a registry that is away cost a wait, and never a second model."""
    Flaky.answers = [(0, ""), AWAY, MADE]
    clock = ManualClock()

    with RegistryClient(flaky, token=ADA, clock=clock) as registry:
        model = registry.register_model("fraud", ModelFacts(owner="ada"))

    assert (model.name, len(Flaky.keys), len(set(Flaky.keys))) == ("fraud", 3, 1)
    assert clock.monotonic_ns() >= 2e9


def test_patience_ends(flaky: str) -> None:
    """After a few attempts the last refusal is the caller's to handle."""
    Flaky.answers = [AWAY] * 4

    with (
        RegistryClient(flaky, token=ADA, clock=ManualClock()) as registry,
        pytest.raises(RegistryUnavailable),
    ):
        registry.register_model("fraud", ModelFacts(owner="ada"))


def test_what_is_no_problem_document_is_refused_too(flaky: str) -> None:
    """A proxy's page becomes an error with its status, and an unknown code keeps its words."""
    Flaky.answers = [(502, "<html>"), (418, json.dumps({"error": "no", "code": "teapot"}))]

    with RegistryClient(flaky, token=ADA) as registry:
        with pytest.raises(OrderRefused, match="502"):
            registry.register_model("fraud", ModelFacts(owner="ada"))
        with pytest.raises(OrderRefused, match="teapot"):
            registry.register_model("fraud", ModelFacts(owner="ada"))


def test_nobody_there_is_said_so(unused_tcp_port: int) -> None:
    """A port where nothing listens is NotReady, after a bounded number of attempts."""
    with (
        RegistryClient(
            f"http://127.0.0.1:{unused_tcp_port}", token=ADA, clock=ManualClock()
        ) as registry,
        pytest.raises(NotReady),
    ):
        registry.model("fraud")

"""The table of permissions and the live tables of all servers: the same doors, and no other."""

from pathlib import Path
from typing import NoReturn

import grpc  # type: ignore[import-untyped]  # it ships no types
import pytest
from grpc_health.v1 import health_pb2  # type: ignore[import-untyped]  # neither does it

from serving.access.certificates import Credential
from serving.access.issuers import Issuers
from serving.access.permissions import CONTROL, GRPC, INFERENCE, INTROSPECTION, METRICS, Door
from serving.access.state import AccessState, Effect, Rule
from serving.app.control_access import ControlAccess
from serving.app.directory import DataDirectory
from serving.app.introspection import Introspection
from serving.app.registry_access import RegistryAccess
from serving.app.rollout_parts import RolloutControl
from serving.app.scrape import MetricsPort
from serving.control.measures import Measures
from serving.core.clock import ManualClock
from serving.core.principals import Action
from serving.core.traffic import Snapshot
from serving.edge.admin.control import introspection_routes
from serving.edge.admin.reports import ReportRoutes
from serving.edge.grpc import inference_pb2
from serving.edge.grpc.calls import OpenCalls
from serving.edge.grpc.gate import Gate, unary
from serving.edge.grpc.refusals import RefusedCalls
from serving.edge.grpc.server import SERVICES
from serving.edge.guesses import Guesses
from serving.edge.routes import Route
from serving.errors import Unauthenticated
from serving.settings import Settings
from tests.edge.admin.test_control import NotedPlane
from tests.edge.grpc.wire import STREAM, caller, encoded, rows
from tests.edge.port import InferencePort
from tests.edge.wire import assert_problem, request
from tests.places import InProcess

PROBES = {"/v2/health/live", "/v2/health/ready", "/metrics"}
GRPC_PROBES = {"ServerLive", "ServerReady", "Check", "Watch"}


def names(routes: list[Route] | tuple[Route, ...]) -> set[tuple[str, str]]:
    return {(route.method, route.path) for route in routes}


def test_az_01_inference_port_serves_what_is_listed(tmp_path: Path) -> None:
    """Every route of the live table is in the table of permissions, and the other way round."""
    assert names(InferencePort(tmp_path).application.router.routes) == set(INFERENCE)


async def test_az_01_control_port_serves_what_is_listed(tmp_path: Path) -> None:
    """The control port is many tables in one: those of every part of the control plane."""
    settings, clock = Settings(data_dir=tmp_path), ManualClock()
    directory = DataDirectory.at(tmp_path)
    issuers = Issuers.open(directory.keys, settings.access, clock)
    access = ControlAccess(settings, issuers, directory=directory, clock=clock)
    registry = RegistryAccess(
        settings, directory, held=(), snapshot=lambda: Snapshot(epoch=0), clock=clock
    )

    rollouts = RolloutControl(settings, directory, registry, measures=Measures(clock), clock=clock)
    reports = ReportRoutes(lambda _report: None)

    table = [*registry.routes(), *rollouts.routes(), *reports.routes()]
    router = access.router(NotedPlane(), table)

    assert names(router.routes) == set(CONTROL)
    registry.close()


def test_az_01_sockets_and_metrics_port_serve_what_is_listed() -> None:
    """What needs no credential is on a private socket, or figures."""
    socket = introspection_routes(status=dict, metrics=lambda _accept: (b"", ""))
    port = MetricsPort(Settings(), sockets=Introspection({}), children=())

    assert names(socket) == set(INTROSPECTION)
    assert names(port.router.routes) == set(METRICS)


def test_az_01_grpc_port_serves_what_is_listed() -> None:
    """Every method of every service that reflection tells of, and reflection itself."""
    files = (inference_pb2.DESCRIPTOR, health_pb2.DESCRIPTOR)
    live = {
        f"/{service.full_name}/{method.name}"
        for file in files
        for service in file.services_by_name.values()
        for method in service.methods
        if service.full_name in SERVICES
    }
    reflection = {path for path in GRPC if path.startswith("/grpc.reflection.")}
    # Calls of the health service that this version of it has and we do not serve.
    unserved = {"/grpc.health.v1.Health/List"}

    assert live - unserved == set(GRPC) - reflection
    assert len(reflection) == 2


def nobody(_credential: Credential) -> NoReturn:
    raise Unauthenticated("nobody is known")


def test_az_01_gate_is_not_built_over_a_method_that_is_not_listed() -> None:
    """A new method without a permission, or open where it must not be, fails at the start."""
    refused = []
    held = RefusedCalls(Guesses(per_s=1.0, longest_s=1.0), most=1, now_s=lambda: 0.0)
    calls = OpenCalls(
        most=1, max_message_bytes=1, max_buffered_bytes=1, refused=lambda _: None, now_ns=lambda: 0
    )
    closed, opened = unary(lambda *_: None), unary(lambda *_: None, open=True)
    for methods in (
        {"/a.B/C": closed},
        {"/inference.GRPCInferenceService/ModelInfer": opened},
        {"/grpc.health.v1.Health/Check": closed},
    ):
        try:
            Gate(methods, authenticate=nobody, calls=calls, held=held)
        except ValueError as error:
            refused.append(str(error))

    assert len(refused) == 3


def test_p16_only_probes_are_open() -> None:
    """Health and metrics need no credential; nothing else does, on any port."""
    everything = {**INFERENCE, **CONTROL, **METRICS}
    open_paths = {path for (_, path), needs in everything.items() if needs is Door.OPEN}
    open_calls = {path.rpartition("/")[2] for path, needs in GRPC.items() if needs is Door.OPEN}

    assert (open_paths, open_calls) == (PROBES, GRPC_PROBES)
    assert all(isinstance(needs, Action) or needs is Door.KNOWN for needs in CONTROL.values())


class BrokenCheck:
    """A check of API keys that fails in a way nobody foresaw."""

    def recognises(self, credential: bytes) -> bool:
        return credential.startswith(b"svk_")

    def verify(self, credential: bytes, now_s: float) -> NoReturn:
        raise RuntimeError("the check is broken")


@pytest.mark.parametrize("target", ["/v2", "/v2/models/doubler/infer"])
def test_az_04_check_that_fails_lets_nobody_through(tmp_path: Path, target: str) -> None:
    """500 with no detail, nothing admitted, nothing recorded, and the next caller is served."""
    port = InferencePort(tmp_path, api_keys=BrokenCheck())
    method = "POST" if target.endswith("infer") else "GET"
    broken = request(method, target, "X-Api-Key: svk_x", body=b"{}")

    answer = port.ask(broken)

    assert_problem(answer, 500, "internal")
    assert b"broken" not in answer.body
    assert (port.admitted, port.stand.log.records) == (0, [])
    assert port.get("/v2").status == 200


async def test_az_09_rule_counts_on_a_stream_that_is_open(in_process: InProcess) -> None:
    """A denial refuses the next message of a stream; those before it were answered."""
    denial = Rule(rule="d", effect=Effect.DENY, subject="tester")
    async with caller(in_process) as ada:
        stream = ada.channel.stream_stream(STREAM)(metadata=ada.metadata)
        await stream.write(encoded(rows(1.0)))
        first = inference_pb2.ModelStreamInferResponse.FromString(await stream.read())
        in_process.worker.apply_access(AccessState(epoch=1, rules=(denial,)))
        await stream.write(encoded(rows(1.0)))
        second = inference_pb2.ModelStreamInferResponse.FromString(await stream.read())
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF

    assert (first.error_message, "may not use" in second.error_message) == ("", True)
    assert await in_process.place.metric("serving_access_denials_total", ground="denied") == 1
